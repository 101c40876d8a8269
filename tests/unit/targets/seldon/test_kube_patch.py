"""The one guarded JSON Patch, by example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import read, render
from tests.fakes.kube.patching import PatchError, json_patch, patch_to
from tests.fakes.kube.samples import sample_configs, sample_pipeline

PIPELINE = sample_pipeline()
DETECT, READ, SORT = sample_configs()
CONFIGS = (DETECT, READ, SORT)
BASE = "/spec/predictors/0/componentSpecs"


def live() -> dict[str, Any]:
    sdep = render(PIPELINE, CONFIGS)
    sdep["metadata"].update(resourceVersion="41", uid="u", generation=3)
    return sdep


def test_a_replica_only_change_touches_replicas_only() -> None:
    patch = patch_to(PIPELINE, live(), (replace(DETECT, replicas=4), READ, SORT))
    assert patch == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/generation", "value": 3},
        {"op": "replace", "path": f"{BASE}/0/replicas", "value": 4},
    ]


def test_resources_that_are_not_there_are_made() -> None:
    sdep = live()
    sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "1"}
    }
    wanted = (replace(DETECT, cores=0.5), READ, SORT)
    patched = json_patch(sdep, patch_to(PIPELINE, sdep, wanted))
    assert read(PIPELINE, patched) == wanted


@pytest.mark.parametrize(
    ("wanted", "path", "value"),
    [
        ((replace(DETECT, batch_size=8), READ, SORT), f"{BASE}/0/spec/containers/0/env/0/value", "8"),
        (
            (DETECT, READ, replace(SORT, variant="c-l")),
            "/spec/predictors/0/graph/children/0/children/0/modelUri",
            "s3://models/sort/l",
        ),
    ],
)
def test_a_change_touches_the_value_that_differs(
    wanted: tuple[StageConfig, ...], path: str, value: str
) -> None:
    assert patch_to(PIPELINE, live(), wanted)[2:] == [{"op": "replace", "path": path, "value": value}]


@pytest.mark.parametrize(("broken", "value"), [("uid", "v"), ("generation", 4)])
def test_on_an_object_that_moved_the_patch_does_nothing(broken: str, value: object) -> None:
    patch = patch_to(PIPELINE, live(), (DETECT, replace(READ, variant="r-m"), replace(SORT, variant="c-l")))
    moved = live()
    moved["metadata"][broken] = value
    with pytest.raises(PatchError):
        json_patch(moved, patch)


def test_cores_finer_than_a_millicore_are_no_change_for_ever() -> None:
    third = (replace(DETECT, cores=1 / 3), READ, SORT)
    patched = json_patch(live(), patch_to(PIPELINE, live(), third))
    assert patch_to(PIPELINE, patched, third) == []
