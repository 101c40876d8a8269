"""Graphs in pipeline files: each form, good and bad ones, and from the file to a plan and its manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.observe import NOT_READ, observe
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl, Signals, StageState, WorkloadState
from ipa.files import load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.files.plans import read_plan
from ipa.model.errors import InputError
from ipa.model.pipeline import CombineRule, Edge, Pipeline, StageKind
from ipa.model.plan import Plan, Termination
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.resources import BESIDE_CORES, Resources
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.service.live_state import live_state
from ipa.targets.seldon.manifest import read, render


def a_pipeline(graph: Any, served: str, **stages: dict[str, Any]) -> Pipeline:
    """A pipeline of that graph; the stages served have the variants s and l."""
    return pipeline_from_mapping(
        {
            "apiVersion": "ipa/v1",
            "kind": "Pipeline",
            "name": "shop",
            "sla": {"latency": "1s"},
            "graph": graph,
            "objectives": {"default": {}},
            "stages": [
                {"name": name, "variants": [{"name": "s"}, {"name": "l"}], **stages.get(name, {})}
                for name in served.split()
            ],
        }
    )


BY_VARIANT = {"s": 2.6, "l": 18.9}
DIAMOND = {"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}}
ROUTED = {
    "a": {},
    "route": {"after": "a", "type": "router"},
    "b": {"after": "route"},
    "c": {"after": "route"},
    "d": {"after": ["b", "c"]},
}


def after_a(fan_out: float | dict[str, float]) -> dict[str, Any]:
    return {"after": {"a": {"fan_out": fan_out}}}


def test_a_list_is_a_chain_and_a_stage_s_fan_out_is_that_of_its_edge() -> None:
    short = a_pipeline(["b", "a", "c"], "a b c", a={"fan_out": BY_VARIANT}, b={"fan_out": 3})
    assert [stage.after for stage in short.stages] == [(), (Edge("b", 3.0),), (Edge("a", BY_VARIANT),)]
    long = a_pipeline(
        {"b": {}, "a": {"after": ["b"]}, "c": {"after": {"a": {}}}},
        "a b c",
        a={"fan_out": BY_VARIANT},
        b={"fan_out": 3},
    )
    assert long == short
    assert short.is_chain
    assert pipeline_to_mapping(short)["graph"] == ["b", "a", "c"]


def test_a_fan_out_goes_along_every_edge_that_does_not_give_its_own() -> None:
    graph = {"a": {}, "b": {"after": "a"}, "c": {"after": {"a": {"fan_out": 0.5}}}}
    pipeline = a_pipeline(graph, "a b c", a={"fan_out": BY_VARIANT})
    assert pipeline.stage("b").after == (Edge("a", BY_VARIANT),)
    assert pipeline.stage("c").after == (Edge("a", 0.5),)
    assert [pipeline.stage("b").after[0].items(variant) for variant in "sl"] == [2.6, 18.9]


@pytest.mark.parametrize(
    ("names", "expected"), [("d c b a", "a c b d"), ("b d a c", "a b c d"), ("c a d b", "a c b d")]
)
def test_stages_are_in_topological_order_and_else_in_that_of_the_file(names: str, expected: str) -> None:
    pipeline = a_pipeline({name: DIAMOND[name] for name in names.split()}, "a b c d")
    assert [stage.name for stage in pipeline.stages] == expected.split()
    assert not pipeline.is_chain


def test_a_router_without_shares_sends_equal_ones() -> None:
    pipeline = a_pipeline(ROUTED, "a b c d")
    assert [pipeline.stage(name).after[0].share for name in "bc"] == [0.5, 0.5]
    assert pipeline.stage("d").after == (Edge("b"), Edge("c"))


def test_a_router_or_combiner_needs_no_variants() -> None:
    graph = {**DIAMOND, "d": {"after": ["b", "c"], "type": "combiner", "accuracy": "max"}}
    pipeline = a_pipeline(graph, "a b c")
    combiner = pipeline.stage("d")
    assert (combiner.kind, combiner.combine, combiner.variants) == (StageKind.COMBINER, CombineRule.MAX, ())


@pytest.mark.parametrize(
    "graph",
    [
        ROUTED,
        # Whatever is routed, d is reached: e waits for both.
        {**ROUTED, "e": {"after": ["a", "d"]}},
        # Routers in a row, and one in a branch of another.
        {**ROUTED, "e": {"after": "d", "type": "router"}, "f": {"after": "e"}, "g": {"after": "e"}},
        {
            "route": {"type": "router"},
            "a": {"after": "route"},
            "inner": {"after": "route", "type": "router", "shares": {"b": 0.9, "c": 0.1}},
            "b": {"after": "inner"},
            "c": {"after": "inner"},
            "d": {"after": ["a", "b", "c"]},
        },
        {**DIAMOND, "b": after_a(2), "c": after_a(2)},
        # Twice as many, then half of them.
        {**DIAMOND, "b": after_a(2), "d": {"after": {"b": {"fan_out": 0.5}, "c": {}}}},
        {**DIAMOND, "b": after_a(BY_VARIANT), "c": after_a(BY_VARIANT)},
        # The same whatever the variant is no difference.
        {**DIAMOND, "b": after_a({"s": 2, "l": 2}), "c": after_a(2)},
        {**DIAMOND, "d": {"after": ["b", "c"], "type": "combiner", "accuracy": "mean"}},
    ],
)  # fmt: skip
def test_good_graphs_read_back_as_they_were_written(graph: dict[str, Any]) -> None:
    served = [name for name, node in graph.items() if node.get("type") != "router"]
    pipeline = a_pipeline(graph, " ".join(served))
    assert pipeline_from_mapping(json.loads(json.dumps(pipeline_to_mapping(pipeline)))) == pipeline
    names = [stage.name for stage in pipeline.stages]
    for at, stage in enumerate(pipeline.stages):
        assert {edge.parent for edge in stage.after} <= set(names[:at])


def test_thirds_sum_to_one() -> None:
    graph = {"r": {"type": "router"}, **{name: {"after": "r"} for name in "abc"}}
    pipeline = a_pipeline(graph, "a b c")
    assert pipeline_from_mapping(pipeline_to_mapping(pipeline)) == pipeline


def test_a_join_of_a_branch_that_not_all_requests_take_is_refused_below_it_too() -> None:
    graph = {**ROUTED, "d": {"after": "b"}, "e": {"after": ["a", "d"]}}
    with pytest.raises(InputError, match="'e' comes after 'a' and 'd', but some requests are routed past"):
        a_pipeline(graph, "a b c d e")


def test_a_variant_dependent_fan_out_must_reach_a_join_by_all_its_ways() -> None:
    graph = {**DIAMOND, "c": {"after": "b"}, "d": {"after": ["a", "c"]}}
    with pytest.raises(InputError, match="the fan_out of 'b' depends on the variant"):
        a_pipeline(graph, "a b c d", b={"fan_out": BY_VARIANT})
    assert a_pipeline({**graph, "d": {"after": ["b", "c"]}}, "a b c d", a={"fan_out": BY_VARIANT})


def test_one_stage_may_run_several_variants() -> None:
    data = pipeline_to_mapping(a_pipeline(["a"], "a"))
    assert pipeline_from_mapping({**data, "sets": True}).sets


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
    return solve(planning_problem(pipeline, profiles, rate_rps, objective=objective))


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
