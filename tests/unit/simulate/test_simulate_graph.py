"""Requests on their way through a graph of stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Edge, Objective, Pipeline, Sla, Stage, StageKind, Variant, chain
from ipa.queueing.service import ServiceTime
from ipa.simulate.columns import Items
from ipa.simulate.graph import PipelineSim
from ipa.simulate.queue import Pods

ONE = (Variant("small"), Variant("large"))


def stage(
    name: str, *after: Edge, kind: StageKind = StageKind.MODEL, variants: tuple[Variant, ...] = ONE
) -> Stage:
    return Stage(name, variants, after, kind, batch_timeout_s=0.0)


def pipeline_of(*stages: Stage, drop_after_s: float | None = None) -> Pipeline:
    return Pipeline("p", stages, Sla(1.0), {"default": Objective()}, drop_after_s=drop_after_s)


def simulate(
    pipeline: Pipeline,
    times: list[float],
    service_s: Mapping[str, float],
    cuts: tuple[float, ...] = (),
    **rules: object,
) -> tuple[PipelineSim, Items]:
    """The pipeline with enough replicas that nothing waits."""
    sim = PipelineSim(pipeline, **rules)  # type: ignore[arg-type]
    for name, seconds in service_s.items():
        sim.set_replicas(name, 0.0, [Pods(5000, 1, ServiceTime(seconds, seconds), variant="small")])
    sim.offer(times)
    parts = [sim.run(cut) for cut in (*cuts, 1e6)]
    return sim, Items.joined(parts)


def test_a_chain_adds_up_its_stages_and_hops() -> None:
    stages = [replace(stage(name), hop_s=0.125) for name in "ab"]
    _, finished = simulate(pipeline_of(*chain(stages)), [1.0, 2.0], {"a": 0.5, "b": 0.25})
    assert finished.ids.tolist() == [0, 1]
    assert finished.latency_s.tolist() == [1.0, 1.0]


def test_a_join_waits_for_the_last_and_a_fork_ends_with_the_last() -> None:
    fork = (stage("a"), stage("b", Edge("a")), stage("c", Edge("a")))
    _, finished = simulate(pipeline_of(*fork), [0.0, 0.25], {"a": 0.5, "b": 1.0, "c": 2.0})
    assert finished.latency_s.tolist() == [2.5, 2.5]
    joined = (
        *fork,
        stage("d", Edge("b"), Edge("c"), kind=StageKind.COMBINER, variants=()),
        stage("e", Edge("d")),
    )
    sim, finished = simulate(pipeline_of(*joined), [0.0, 0.25], {"a": 0.5, "b": 1.0, "c": 2.0, "e": 1.0})
    assert finished.latency_s.tolist() == [3.5, 3.5]
    assert [sim.stage("e").items_before(second) for second in (2, 3)] == [0, 2]
    assert sim.inside == 0


def test_a_router_sends_each_request_one_way_by_share() -> None:
    pipeline = pipeline_of(
        stage("r", kind=StageKind.ROUTER, variants=()),
        stage("b", Edge("r", share=0.25)),
        stage("c", Edge("r", share=0.75)),
        stage("d", Edge("b"), Edge("c")),
    )
    times = np.arange(8000) / 100
    sim, finished = simulate(pipeline, times.tolist(), {"b": 1.0, "c": 2.0, "d": 1.0})
    assert np.mean(np.isclose(finished.latency_s, 2.0)) == pytest.approx(0.25, abs=0.02)
    assert np.mean(np.isclose(finished.latency_s, 3.0)) == pytest.approx(0.75, abs=0.02)
    came = {name: sim.stage(name).items_before(1000) for name in "bcd"}
    assert came["b"] + came["c"] == came["d"] == 8000


@pytest.mark.parametrize("fan_out", [2.5, {"small": 2.5, "large": 9.0}])
def test_fan_out_multiplies_items(fan_out: float | Mapping[str, float]) -> None:
    pipeline = pipeline_of(*chain([stage("a"), stage("b"), stage("c")], [fan_out, 2.0]))
    sim = PipelineSim(pipeline)
    served = {"a": 1, "b": 0, "c": 0}
    for name in "abc":
        sim.set_replicas(
            name, 0.0, [Pods(served[name] * 4000, 1, ServiceTime(0.001, 0.001), variant="small")]
        )
    sim.offer(np.arange(4000) / 100)
    sim.run(100.0)
    assert sim.stage("b").queue.waiting == pytest.approx(10_000, abs=150)
    sim.set_replicas("b", 100.0, [Pods(1, 64, ServiceTime(0.001, 0.001), variant="small")])
    items = sim.stage("b").queue.waiting
    sim.run(200.0)
    assert sim.stage("c").queue.waiting == 2 * items


def test_the_fan_out_is_that_of_the_variant_that_served_it() -> None:
    pipeline = pipeline_of(*chain([stage("a"), stage("b")], [{"small": 1.0, "large": 3.0}]))
    sim = PipelineSim(pipeline)
    sim.set_replicas("a", 0.0, [Pods(1, 1, ServiceTime(1.0, 1.0), "x", "small")])
    sim.offer([0.0, 20.0])
    sim.run(10.0)
    sim.set_replicas("a", 10.0, [Pods(1, 1, ServiceTime(1.0, 1.0), "y", "large")])
    assert sim.stage("b").queue.waiting == 1
    sim.run(30.0)
    assert sim.stage("b").queue.waiting == 4


def test_a_request_without_items_is_passed_at_once() -> None:
    pipeline = pipeline_of(*chain([stage("a"), stage("b"), stage("c")], [0.0, 4.0]))
    _, finished = simulate(pipeline, [0.0], {"a": 0.5, "b": 7.0, "c": 7.0})
    assert finished.latency_s.tolist() == [0.5]


def test_a_request_is_lost_once_with_the_first_stage_that_loses_it() -> None:
    stages = (stage("a"), stage("b", Edge("a")), stage("c", Edge("a")), stage("d", Edge("b"), Edge("c")))
    sim = PipelineSim(pipeline_of(*stages, drop_after_s=2.0))
    sim.set_replicas("a", 0.0, [Pods(9, 1, ServiceTime(0.5, 0.5))])
    sim.set_replicas("c", 0.0, [Pods(9, 1, ServiceTime(0.5, 0.5))])
    sim.set_replicas("d", 0.0, [Pods(9, 1, ServiceTime(0.5, 0.5))])
    sim.offer([0.0, 1.0])
    early = sim.run(2.25)
    sim.set_replicas("b", 2.25, [Pods(1, 1, ServiceTime(0.25, 0.25))])
    finished = Items.joined([early, sim.run(99.0)])
    assert finished.ids.tolist() == [0, 1]
    assert finished.lost.tolist() == [True, False]
    assert finished.done_s.tolist() == [2.0, 3.0]
    assert sim.inside == 0


@pytest.mark.parametrize("queue", ["central", "replica", "choosing"])
def test_a_run_in_several_calls_is_equal_to_one_in_one_call(queue: str) -> None:
    stages = (
        stage("a"),
        stage("r", Edge("a", 2.5), kind=StageKind.ROUTER, variants=()),
        stage("b", Edge("r", share=0.3)),
        stage("c", Edge("r", share=0.7)),
        stage("j", Edge("b"), Edge("c")),
        stage("x", Edge("j", {"small": 2.3, "large": 1.0})),
        stage("y", Edge("j")),
        stage("z", Edge("x"), Edge("y"), kind=StageKind.COMBINER, variants=()),
    )
    stages = tuple(replace(it, hop_s=0.01, resident="all" if queue == "choosing" else 1) for it in stages)

    def run(cuts: list[float]) -> list[np.ndarray]:
        pipeline = pipeline_of(*stages, drop_after_s=None if queue == "replica" else 0.6)
        sim = PipelineSim(pipeline, queue="replica" if queue == "replica" else "central", seed=5)
        for name in "abcjxy":
            old = Pods(4, 8, ServiceTime(0.1, 0.05, 0.2), "old", "small", heavier=("large",))
            sim.set_replicas(name, 0.0, [old])
        sim.offer(np.sort(np.random.default_rng(0).uniform(0.0, 100.0, 2000)))
        parts = []
        for at_s in sorted({*cuts, 20.0, 45.0, 1e4}):
            parts.append(sim.run(at_s))
            for name in "abcjxy":
                if at_s == 20.0:
                    sim.stage(name).fail(at_s, name="old", count=3)
                elif at_s == 45.0:
                    new = Pods(2, 4, ServiceTime(0.06, 0.05, 0.2), "new", "large")
                    sim.set_replicas(name, at_s, [replace(old, count=3), new])
        columns = [np.concatenate([getattr(p, n) for p in parts]) for n in ("ids", "done_s", "lost")]
        counts = [
            np.array([count(second) for second in range(120)])
            for name in "abcjxy"
            for count in (sim.stage(name).items_before, sim.stage(name).waiting_at)
        ]
        assert sim.inside == 0
        assert 0 < columns[2].sum() < 1500
        return [*columns, *counts]

    whole = run([])
    for step in (0.7, 7.3, 20.0):
        pieces = run(np.arange(step, 100.0, step).tolist())
        assert all(np.array_equal(one, other) for one, other in zip(whole, pieces, strict=True))


@pytest.mark.parametrize(("kind", "passed"), [(StageKind.COMBINER, 5), (StageKind.ROUTER, 8)])
def test_requests_give_way_once_the_slowest_way_on_would_be_late(kind: StageKind, passed: int) -> None:
    """A fork waits for its slower stage, so 3/8 s are left; a router may take the quicker, so 3/4 s are."""
    stages = (stage("a"), stage("r", Edge("a"), kind=kind, variants=()))
    ways = (stage("b", Edge("r", share=0.5)), stage("c", Edge("r", share=0.5)))
    sim = PipelineSim(pipeline_of(*stages, *ways, drop_after_s=1.0), queue="deadline")
    for name, seconds, count in (("a", 0.125, 1), ("b", 0.125, 9), ("c", 0.5, 9)):
        sim.set_replicas(name, 0.0, [Pods(count, 1, ServiceTime(seconds, seconds))])
    sim.offer([0.0] * 8)
    sim.run(99.0)
    came = [sim.stage(name).items_before(99) for name in "bc"]
    # The last has no other to give way to.
    assert (sum(came) if kind is StageKind.ROUTER else max(came)) == passed


@pytest.mark.parametrize(("batch_size", "admitted"), [(1, 4), (2, 7)])
def test_a_request_behind_those_in_service_and_the_next_batch_is_admitted(
    batch_size: int, admitted: int
) -> None:
    """However little time the deadline leaves: two replicas serve, and one batch waits for a place."""
    sim = PipelineSim(pipeline_of(stage("a"), drop_after_s=1.25), queue="deadline")
    sim.set_replicas("a", 0.0, [Pods(2, batch_size, ServiceTime(1.0, 1.0))])
    sim.offer([0.0] * 12)
    sim.run(99.0)
    assert sim.stage("a").items_before(99) == admitted


def test_a_stage_that_does_not_serve_is_refused() -> None:
    sim = PipelineSim(pipeline_of(stage("a")))
    with pytest.raises(NotFoundError, match="'b'"):
        sim.stage("b")
