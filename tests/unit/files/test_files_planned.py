"""Pipelines with other graphs than chains, from their files to a plan and its SeldonDeployment."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.observe import NOT_READ, observe
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl, Signals, StageState, WorkloadState
from ipa.files import load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.files.plans import read_plan
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.resources import BESIDE_CORES, Resources
from ipa.policies.planning import plan_pipeline
from ipa.service.live_state import live_state
from ipa.targets.seldon.manifest import read, render

GRAPHS = sorted((Path(__file__).parents[2] / "fixtures" / "graphs").glob("*.yaml"))
# Made up: accuracy, and seconds of one item on one core.
SPEEDS = {"light": (0.6, 0.02), "heavy": (0.9, 0.05)}


def profile_of(pipeline: Pipeline, stage: str, names: list[str]) -> StageProfile:
    variants = []
    for name in names:
        accuracy, one_s = SPEEDS[name]
        points = tuple(
            ProfilePoint(1.0, b, one_s * (0.5 + 0.5 * b), one_s * (0.4 + 0.4 * b)) for b in (1, 2, 4, 8)
        )
        variants.append(VariantProfile(name, accuracy, points, readiness_s=1.0))
    return StageProfile(pipeline.name, stage, tuple(variants), "none", date(2026, 11, 24), "made up")


def planned(pipeline: Pipeline, rate_rps: float, objective: str | None = None) -> Plan:
    profiles = {
        stage.name: profile_of(pipeline, stage.name, [variant.name for variant in stage.variants])
        for stage in pipeline.served
    }
    return plan_pipeline(pipeline, profiles, rate_rps, objective=objective)


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_every_objective_s_plan_runs_on_seldon(path: Path) -> None:
    pipeline = load_pipeline(path)
    assert pipeline_from_mapping(pipeline_to_mapping(pipeline)) == pipeline
    for objective in pipeline.objectives:
        plan = planned(pipeline, 5.0, objective)
        assert plan.termination is Termination.OPTIMAL
        assert [config.stage for config in plan.configs] == [stage.name for stage in pipeline.served]
        assert read(pipeline, render(pipeline, plan.configs)) == plan.configs


def test_a_plan_from_its_file_has_every_resource_of_its_replicas(tmp_path: Path) -> None:
    amounts = {each.name: at + 0.5 for at, each in enumerate(BESIDE_CORES)}
    beside = Resources.of({**amounts, "nvidia.com/gpu": 1.0})
    plan = planned(load_pipeline(GRAPHS[0]), 5.0)
    plan = replace(plan, stages=tuple(replace(stage, beside=beside) for stage in plan.stages))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    assert read_plan(path).beside == {(each.stage, each.variant): beside for each in plan.stages}


def test_rates_follow_the_variant_s_fan_out_and_the_router_s_shares() -> None:
    pipeline = load_pipeline(next(path for path in GRAPHS if path.stem == "traffic"))
    for objective in pipeline.objectives:
        plan = planned(pipeline, 5.0, objective)
        detect, plates, people = plan.stages
        crops_rps = 5.0 * {"light": 2, "heavy": 8}[detect.variant]
        assert (plates.rate_rps, people.rate_rps) == pytest.approx((0.25 * crops_rps, 0.75 * crops_rps))
        assert people.variant == "heavy", "pinned"
        assert 2 <= plates.replicas <= 16
        assert plates.batch_size <= 4


def test_a_mean_combiner_averages_the_accuracies_of_its_stages() -> None:
    pipeline = load_pipeline(next(path for path in GRAPHS if path.stem == "ensemble"))
    plan = planned(pipeline, 5.0)
    scale, first, second, mean, words = (stage.accuracy for stage in plan.stages)
    assert plan.pas == pytest.approx(scale * (first + second) / 2 * mean * words)
    assert (first, second) == (0.9, 0.9), "the most accurate, whatever it costs"


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_what_runs_has_the_accuracy_that_was_planned(path: Path) -> None:
    pipeline = load_pipeline(path)
    plan = planned(pipeline, 5.0)
    running = WorkloadState("1", tuple(StageState(config, config.replicas) for config in plan.configs), True)
    signals = Signals(NOT_READ, NOT_READ, NOT_READ, {})
    profiles = {
        stage.name: profile_of(pipeline, stage.name, [variant.name for variant in stage.variants])
        for stage in pipeline.served
    }
    observation = observe(pipeline, signals, running, at_s=0.0)
    snapshot = Snapshot(pipeline.name, 1, PipelineControl(), ActuationPhase.IDLE, observation=observation)
    live = live_state(pipeline, profiles, snapshot, now=datetime(2026, 11, 24, tzinfo=UTC), tick_s=5.0)
    assert live.pas == pytest.approx(plan.pas)
    assert live.cost_cores == pytest.approx(plan.cost_cores)
    unseen = live_state(pipeline, {}, snapshot, now=datetime(2026, 11, 24, tzinfo=UTC), tick_s=5.0)
    assert unseen.pas is None
