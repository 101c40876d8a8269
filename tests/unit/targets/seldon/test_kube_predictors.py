"""Several configurations side by side: rendered, read back, and changed with as little as may be."""

from __future__ import annotations

from copy import deepcopy
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.model.errors import DriftError, InputError
from ipa.model.parts import in_order, parts_of, with_share
from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import with_seldon
from tests.fakes.kube.patching import json_patch, patch_to
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, small_schema

Json = dict[str, Any]
PIPELINE, SMALL = sample_pipeline(), sample_configs()
LARGE = (
    StageConfig("detect", "d-l", 4, 2.0, 3),
    StageConfig("read", "r-l", 2, 1.0, 2),
    StageConfig("sort", "c-l", 1, 0.5, 1),
)
MIDDLE = (SMALL[0], StageConfig("read", "r-m", 8, 1.0, 1), LARGE[2])


Configs = tuple[StageConfig, ...]


def share(percent: int, configs: Configs) -> Configs:
    return with_share(configs, percent)


def row(*parts: Configs) -> Configs:
    """The parts as they are given; `in_order` puts them in their order."""
    return tuple(config for part in parts for config in part)


def live(*shares: Configs) -> Json:
    body = render(PIPELINE, row(*shares))
    body["metadata"].update(resourceVersion="7", uid="u", generation=3)
    return body


def touched(patch: list[Json]) -> list[str]:
    return [operation["path"] for operation in patch if operation["op"] != "test"]


def test_a_change_of_traffic_alone_touches_traffic_alone() -> None:
    now = live(share(60, SMALL), share(40, LARGE))
    # In another order, as a planner may give them.
    wanted = row(share(55, LARGE), share(45, SMALL))
    patch = patch_to(PIPELINE, now, wanted)
    assert touched(patch) == ["/spec/predictors/0/traffic", "/spec/predictors/1/traffic"]
    assert patch[0] == {"op": "test", "path": "/metadata/uid", "value": "u"}
    assert patch[1] == {"op": "test", "path": "/metadata/generation", "value": 3}
    assert read(PIPELINE, json_patch(deepcopy(now), patch)) == wanted


def test_a_second_configuration_comes_beside_the_first_which_is_left_as_it_is() -> None:
    now = live(share(100, SMALL))
    patch = patch_to(PIPELINE, now, row(share(30, LARGE), share(70, SMALL)))
    assert touched(patch) == ["/spec/predictors/0/traffic", "/spec/predictors/-"]
    back = patch_to(PIPELINE, json_patch(deepcopy(now), patch) | {"metadata": now["metadata"]}, SMALL)
    assert touched(back) == ["/spec/predictors/0/traffic", "/spec/predictors/1"]


SHARES = st.lists(st.sampled_from([SMALL, MIDDLE, LARGE]), min_size=1, max_size=3, unique=True).flatmap(
    lambda configs: st.sampled_from(
        list(permutations([50, 30, 20]) if len(configs) == 3 else [(60, 40)])
    ).map(
        lambda percents: tuple(
            share(100 if len(configs) == 1 else percent, each)
            for percent, each in zip(percents, configs, strict=False)
        )
    )
)


@given(SHARES, SHARES)
def test_every_set_of_parts_is_reached_from_every_other_and_nothing_else_changes(
    before: tuple[Configs, ...], after: tuple[Configs, ...]
) -> None:
    now = live(*before)
    assert [one["name"] for one in now["spec"]["predictors"]] == ["main", "main-2", "main-3"][: len(before)]
    assert read(PIPELINE, now) == in_order(before)
    for predictor in now["spec"]["predictors"]:
        predictor["annotations"] = {"theirs": "1"}
    patch = patch_to(PIPELINE, now, row(*after))
    then = json_patch(deepcopy(now), patch)
    assert read(PIPELINE, then) == in_order(after)
    assert all(one["annotations"] == {"theirs": "1"} for one in then["spec"]["predictors"])
    admit(then, small_schema(), strict=True)
    written = then | {"metadata": now["metadata"]}
    assert patch_to(PIPELINE, written, row(*after)) == []


def test_what_cannot_be_shared_is_refused_with_all_that_is_wrong() -> None:
    with pytest.raises(InputError) as refused:
        render(PIPELINE, row(share(0, SMALL), share(70, LARGE)))
    assert [problem.message for problem in refused.value.problems] == [
        "the shares are 70 % together, not 100 %",
    ]


def test_predictors_of_other_people_that_take_requests_are_drift_and_shadows_are_not() -> None:
    body = live(share(60, SMALL), share(40, LARGE))
    theirs = deepcopy(body["spec"]["predictors"][1]) | {"name": "canary"}
    body["spec"]["predictors"].append(theirs | {"shadow": True})
    assert len(parts_of(read(PIPELINE, body))) == 2
    body["spec"]["predictors"][2] = theirs | {"traffic": 10}
    with pytest.raises(DriftError) as drifted:
        read(PIPELINE, body)
    assert drifted.value.problems[0].message.startswith("predictor 'canary' takes 10 %")
    other = with_seldon(PIPELINE, predictor="blue")  # type: ignore[type-var]
    with pytest.raises(DriftError):
        read(other, live(share(100, SMALL)))
