"""The shipped figures against the published ones, where those are at hand (IPA_SHARED_DATA)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ipa.files import dump_profile, load_pipeline, load_profiles
from ipa.model.pipeline import Bounds, Objective, Pipeline
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.profiling.points import Allocation, LatencySource, base_allocation, operating_points, stage_sla_s

PIPELINES = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")
CELLS = [(name, f"paper-{version}") for name in PIPELINES for version in ("v1", "v3")]
SERIES = {"paper-v1": "ms14", "paper-v3": "ms18"}


@pytest.fixture(scope="module")
def tool(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_profiles", root / "tools" / "import_profiles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared_data / "ipa_profiles.json").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def unrounded(tool: ModuleType, published: dict[str, Any]) -> dict[tuple[str, str], StageProfile]:
    """The profiles as the tool makes them, less its rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "rounded", float)
        patch.setattr(tool, "rounded_throughput", float)
        return {(profile.pipeline, profile.stage): profile for profile in tool.ipa_profiles(published)}


def test_the_shipped_profiles_are_what_the_tool_writes(
    tool: ModuleType, published: dict[str, Any], shared_data: Path, root: Path
) -> None:
    resnets = json.loads((shared_data / "infadapter.json").read_text("utf-8"))
    for profile in [*tool.ipa_profiles(published), tool.resnet_profile(resnets)]:
        path = root / "profiles" / profile.pipeline / f"{profile.stage}.yaml"
        assert path.read_text("utf-8") == dump_profile(profile), path


def shipped(root: Path, name: str) -> Pipeline:
    return load_pipeline(root / "pipelines" / name / "pipeline.yaml")


@pytest.mark.parametrize(("name", "objective"), CELLS)
def test_base_allocation_and_slas_are_the_published_ones(
    name: str,
    objective: str,
    root: Path,
    published: dict[str, Any],
    unrounded: dict[tuple[str, str], StageProfile],
) -> None:
    setting = published["settings"][f"{name}-{SERIES[objective]}"]
    weights = shipped(root, name).objective(objective)
    rounded = load_profiles(root / "profiles", name)
    for stage, expected in setting["base_allocation"].items():
        assert dict(base_allocation(unrounded[name, stage], weights)) == expected
        assert dict(base_allocation(rounded[stage], weights)) == expected
        # The published latencies carry six digits.
        assert stage_sla_s(unrounded[name, stage], weights) == pytest.approx(
            setting["stage_sla_s"][stage], rel=2e-6
        )
    assert weights.sla_s == setting["sla_solver_s"]


@pytest.mark.parametrize(("name", "objective"), CELLS)
def test_the_objectives_carry_the_published_settings(
    name: str, objective: str, root: Path, published: dict[str, Any]
) -> None:
    setting = published["settings"][f"{name}-{SERIES[objective]}"]
    weights = shipped(root, name).objective(objective)
    assert (weights.alpha, weights.beta, weights.delta) == (
        setting["alpha"],
        setting["beta"],
        setting["gamma"],
    )
    assert (weights.max_batch_size, weights.max_replicas) == (
        setting["batching_cap"],
        setting["scaling_cap"],
    )
    assert weights.threshold_rps == setting["threshold"]
    assert weights.latency_margin_ratio == setting["latency_margin"] / 100
    assert weights.throughput_margin_ratio == setting["throughput_margin"] / 100
    ranked = "rank-" if setting["normalize_accuracy"] else ""
    rule = {"sum": "sum", "multiply": "product"}[setting["accuracy_method"]]
    assert weights.accuracy_rule == ranked + rule
    assert weights.rank_floor == (setting["lowest_model_accuracy"] if ranked else None)


@pytest.mark.parametrize(("name", "objective"), CELLS)
def test_rounding_changes_no_plan(
    name: str, objective: str, root: Path, unrounded: dict[tuple[str, str], StageProfile]
) -> None:
    """At every whole rate: replicas are rounded up, so a digit too few could ask for one more or less."""
    pipeline = shipped(root, name)
    weights = pipeline.objective(objective)
    rounded = load_profiles(root / "profiles", name)
    for rate_rps in range(1, 46):
        few = best(pipeline, rounded, weights, rate_rps)
        many = best(pipeline, {s.name: unrounded[name, s.name] for s in pipeline.stages}, weights, rate_rps)
        assert few == pytest.approx(many, abs=1e-9)


def best(
    pipeline: Pipeline, profiles: dict[str, StageProfile], weights: Objective, rate_rps: float
) -> float | None:
    """The best objective of all plans within the SLA, accuracy counted by the variant's place."""
    stages = [
        operating_points(
            profiles[stage.name],
            stage,
            weights,
            Bounds(),
            allocation=Allocation.BASE,
            source=LatencySource.MEASURED,
        )
        for stage in pipeline.stages
    ]
    ranks = [{v.name: index for index, v in enumerate(stage.variants)} for stage in pipeline.stages]
    assert weights.sla_s is not None
    return max(
        (
            weights.alpha * sum(rank[p.variant] for rank, p in zip(ranks, plan, strict=True))
            - sum(cost(point, weights, rate_rps) for point in plan)
            for plan in itertools.product(*stages)
            if (sum(point.latency_s for point in plan) <= weights.sla_s)
        ),
        default=None,
    )


def cost(point: OperatingPoint, weights: Objective, rate_rps: float) -> float:
    replicas = math.ceil(rate_rps / point.capacity_rps)
    return weights.beta * replicas * point.cores + weights.delta * point.batch_size
