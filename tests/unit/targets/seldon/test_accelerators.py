"""Accelerators in containers: written, read back, changed with the variant, and noticed where they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import DriftError
from ipa.model.pipeline import Pipeline, Sla
from ipa.model.plan import StageConfig
from ipa.targets.base import ImportRequest
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import seldon_of
from ipa.targets.seldon.variants import at_cluster

HOME = Path(__file__).parents[3] / "fixtures" / "accelerated"
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"
LARGE = (StageConfig("classify", "large", 4, 1.0, 2), StageConfig("rank", "network", 1, 1.0, 1))
SMALL = (replace(LARGE[0], variant="small"), replace(LARGE[1], variant="trees"))


def vision() -> Pipeline:
    pipeline = load_pipeline(HOME / "pipelines" / "vision" / "pipeline.yaml")
    return at_cluster(pipeline, load_profiles(HOME / "profiles", "vision"))


def container(sdep: dict[str, Any], stage: int) -> dict[str, Any]:
    found: dict[str, Any] = sdep["spec"]["predictors"][0]["componentSpecs"][stage]["spec"]["containers"][0]
    return found


def live(configs: tuple[StageConfig, ...]) -> dict[str, Any]:
    sdep = render(vision(), configs)
    sdep["metadata"].update(resourceVersion="41", uid="u", generation=3)
    return sdep


def test_each_variant_requests_and_is_limited_to_its_own() -> None:
    sdep = live(LARGE)
    for kind in ("requests", "limits"):
        assert container(sdep, 0)["resources"][kind] == {"cpu": "1000m", "memory": "8192Mi", GPU: "1"}
        assert container(sdep, 1)["resources"][kind] == {"cpu": "1000m", "memory": "5120Mi", SLICE: "1"}
    assert read(vision(), sdep) == LARGE
    assert GPU not in container(live(SMALL), 0)["resources"]["limits"]


@pytest.mark.parametrize("count", [None, "2"])
def test_another_number_is_drift(count: str | None) -> None:
    sdep = live(LARGE)
    limits = container(sdep, 0)["resources"]["limits"]
    limits.pop(GPU)
    if count is not None:
        limits[GPU] = count
    with pytest.raises(DriftError, match="stage 'classify' runs none of its variants") as refusal:
        read(vision(), sdep)
    shown = "absent" if count is None else repr(count)
    assert f"nearest is 'large': {GPU} is {shown}, not '1'" in str(refusal.value)


def test_an_imported_deployment_keeps_what_it_requests() -> None:
    pipeline = imported(live(LARGE), ImportRequest(Sla(0.6))).pipeline
    runs = [seldon_of(stage.variants[0]) for stage in pipeline.stages]
    assert [run and dict(run.accelerators) for run in runs] == [{GPU: 1.0}, {SLICE: 1.0}]
