"""The one guarded JSON Patch, by example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.predictors import draft_change
from tests.fakes.kube.patching import PatchError, json_patch
from tests.fakes.kube.samples import sample_configs, sample_pipeline

PIPELINE = sample_pipeline()
DETECT, READ, SORT = sample_configs()
CONFIGS = (DETECT, READ, SORT)
BASE = "/spec/predictors/0/componentSpecs"


def live() -> dict[str, Any]:
    sdep = render(PIPELINE, CONFIGS)
    sdep["metadata"].update(resourceVersion="41", uid="u", generation=3)
    return sdep


def changes(patch: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["op"], one["path"]) for one in patch if one["op"] != "test"]


def test_a_replica_only_change_touches_replicas_only() -> None:
    patch = draft_change(PIPELINE, live(), (replace(DETECT, replicas=4), READ, SORT)).patch()
    assert patch == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/generation", "value": 3},
        {"op": "test", "path": f"{BASE}/0/spec/containers/0/name", "value": "detect"},
        {"op": "replace", "path": f"{BASE}/0/replicas", "value": 4},
    ]


def test_resources_that_are_not_there_are_made() -> None:
    sdep = live()
    sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "1"}
    }
    wanted = (replace(DETECT, cores=0.5), READ, SORT)
    patched = json_patch(sdep, draft_change(PIPELINE, sdep, wanted).patch())
    assert read(PIPELINE, patched) == wanted


def test_a_batch_change_touches_its_env_value_by_tested_name() -> None:
    patch = draft_change(PIPELINE, live(), (replace(DETECT, batch_size=8), READ, SORT)).patch()
    where = f"{BASE}/0/spec/containers/0/env/0"
    assert {"op": "test", "path": f"{where}/name", "value": "MLSERVER_MODEL_MAX_BATCH_SIZE"} in patch
    assert changes(patch) == [("replace", f"{where}/value")]
    assert patch[-1]["value"] == "8"


def test_a_variant_brings_its_model_uri_on_a_node_tested_by_name() -> None:
    patch = draft_change(PIPELINE, live(), (DETECT, READ, replace(SORT, variant="c-l"))).patch()
    node = "/spec/predictors/0/graph/children/0/children/0"
    assert {"op": "test", "path": f"{node}/name", "value": "sort"} in patch
    assert changes(patch) == [("replace", f"{node}/modelUri")]


@pytest.mark.parametrize("broken", ["uid", "generation", "container", "env", "node"])
def test_on_an_object_that_moved_the_patch_does_nothing(broken: str) -> None:
    wanted = (DETECT, replace(READ, variant="r-m"), replace(SORT, variant="c-l"))
    patch = draft_change(PIPELINE, live(), wanted).patch()
    moved = live()
    predictor = moved["spec"]["predictors"][0]
    reader = predictor["componentSpecs"][1]["spec"]["containers"]
    if broken in ("uid", "generation"):
        moved["metadata"][broken] = {"uid": "v", "generation": 4}[broken]
    elif broken == "container":
        reader.insert(0, {"name": "sidecar", "env": reader[0]["env"]})
    elif broken == "env":
        reader[0]["env"].insert(0, {"name": "THEIRS", "value": "1"})
    else:
        predictor["graph"]["children"][0]["children"][0]["name"] = "other"
    with pytest.raises(PatchError):
        json_patch(moved, patch)


def test_cores_finer_than_a_millicore_are_no_change_for_ever() -> None:
    third = (replace(DETECT, cores=1 / 3), READ, SORT)
    patched = json_patch(live(), draft_change(PIPELINE, live(), third).patch())
    assert draft_change(PIPELINE, patched, third).patch() == []
