"""Whatever else is in the object and whatever is wanted, the patch does that and no more."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.layout import ANNOTATION, claim, owner_of
from ipa.targets.seldon.manifest import read, render
from tests.amounts import many
from tests.fakes.kube.patching import PatchError, json_patch, patch_to
from tests.fakes.kube.samples import sample_pipeline

PIPELINE = sample_pipeline()
OWNED_ENV = {
    "MODEL",
    "PRECISION",
    "TILES",
    "A_FLAG",
    "MLSERVER_MODEL_MAX_BATCH_SIZE",
    "MLSERVER_MODEL_MAX_BATCH_TIME",
}

configs = st.tuples(
    *(
        st.builds(
            StageConfig,
            stage=st.just(stage.name),
            variant=st.sampled_from([variant.name for variant in stage.variants]),
            batch_size=st.sampled_from([1, 2, 4, 8]),
            cores=st.sampled_from([0.25, 1 / 3, 0.5, 1.0, 4.0]),
            replicas=st.integers(1, 9),
        )
        for stage in PIPELINE.stages
    )
)
theirs = st.dictionaries(st.sampled_from(["THEIRS", "ZED", "A"]), st.text(max_size=4), max_size=3)


@st.composite
def live_objects(draw: st.DrawFn) -> dict[str, Any]:
    """A rendered object with other people's fields in it, in any order."""
    sdep = render(PIPELINE, draw(configs))
    version = draw(st.integers(1, 10**6))
    sdep["metadata"].update(resourceVersion=str(version), uid="u", generation=1 + version // 3)
    if draw(st.booleans()):
        sdep["metadata"]["annotations"] = draw(theirs)
    predictor = sdep["spec"]["predictors"][0]
    for component in predictor["componentSpecs"]:
        container = component["spec"]["containers"][0]
        container["env"].extend({"name": name, "value": text} for name, text in draw(theirs).items())
        container["env"] = draw(st.permutations(container["env"]))
        container["resources"]["limits"]["nvidia.com/gpu"] = draw(st.integers(0, 2))
        if draw(st.booleans()):
            container["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
        if draw(st.booleans()):
            component["spec"]["containers"].insert(0, {"name": "sidecar", "image": "s:1", "env": []})
    if draw(st.booleans()):
        sdep["spec"]["predictors"].insert(0, {"name": "canary", "graph": {"name": "x"}, "traffic": 10})
    return sdep


def others(sdep: dict[str, Any]) -> dict[str, Any]:
    """The object without the fields that are ours."""
    rest = deepcopy(sdep)
    (rest["metadata"].get("annotations") or {}).pop(ANNOTATION, None)
    # Where there were none at all, ours bring an empty place with them.
    rest["metadata"].setdefault("annotations", {})
    predictor = next(one for one in rest["spec"]["predictors"] if one["name"] == "main")
    node = predictor["graph"]
    while node:
        node.pop("modelUri", None)
        node = (node.get("children") or [None])[0]
    for component in predictor["componentSpecs"]:
        component.pop("replicas")
        for container in component["spec"]["containers"]:
            if container["name"] == "sidecar":
                continue
            container.pop("image", None)
            container["env"] = [entry for entry in container["env"] if entry["name"] not in OWNED_ENV]
            for amounts in container["resources"].values():
                amounts.pop("cpu")
                amounts.pop("memory", None)
    return rest


@settings(max_examples=many(75), deadline=None, derandomize=True)
@given(sdep=live_objects(), wanted=configs)
def test_the_patch_makes_what_is_wanted_and_leaves_the_rest_byte_identical(
    sdep: dict[str, Any], wanted: tuple[StageConfig, ...]
) -> None:
    before = deepcopy(sdep)
    patch = patch_to(PIPELINE, sdep, wanted)
    assert sdep == before
    after = json_patch(sdep, patch)
    assert read(PIPELINE, after) == in_millicores(wanted)
    assert repr(others(after)) == repr(others(before))
    assert patch_to(PIPELINE, after, wanted) == []
    for key in ("uid", "generation") if patch else ():
        moved = deepcopy(sdep)
        moved["metadata"][key] = "moved"
        with pytest.raises(PatchError):
            json_patch(moved, patch)


@settings(max_examples=many(50), deadline=None, derandomize=True)
@given(sdep=live_objects(), wanted=configs)
def test_claiming_it_leaves_the_rest_byte_identical(
    sdep: dict[str, Any], wanted: tuple[StageConfig, ...]
) -> None:
    plain = json_patch(sdep, patch_to(PIPELINE, sdep, wanted))
    claimed = json_patch(sdep, [*patch_to(PIPELINE, sdep, wanted), *claim(sdep, "blue")])
    assert owner_of(claimed) == "blue"
    assert json_patch(claimed, claim(claimed, "blue")) == claimed
    assert read(PIPELINE, claimed) == in_millicores(wanted)
    assert repr(others(claimed)) == repr(others(plain))
    assert claimed["spec"] == plain["spec"]


@settings(max_examples=many(50), deadline=None, derandomize=True)
@given(sdep=live_objects(), wanted=configs)
def test_writing_the_previous_configs_takes_it_back(
    sdep: dict[str, Any], wanted: tuple[StageConfig, ...]
) -> None:
    previous = read(PIPELINE, sdep)
    after = json_patch(sdep, patch_to(PIPELINE, sdep, wanted))
    back = json_patch(after, patch_to(PIPELINE, after, previous))
    assert read(PIPELINE, back) == previous
    assert repr(others(back)) == repr(others(sdep))


@settings(max_examples=many(50), deadline=None, derandomize=True)
@given(sdep=live_objects(), replicas=st.tuples(*(st.integers(1, 9) for _ in PIPELINE.stages)))
def test_a_replica_only_change_leaves_every_pod_template_as_it_is(
    sdep: dict[str, Any], replicas: tuple[int, ...]
) -> None:
    running = read(PIPELINE, sdep)
    wanted = tuple(
        StageConfig(one.stage, one.variant, one.batch_size, one.cores, count)
        for one, count in zip(running, replicas, strict=True)
    )
    patch = patch_to(PIPELINE, sdep, wanted)
    assert all(one["path"].endswith("/replicas") for one in patch if one["op"] != "test")
