"""Feedback in the loop: what plans use, what a restart keeps, what is shown, and what a replay computes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.control.audit.replay import ReplayOutcome, replay
from ipa.control.engine.guards import accuracy_faults
from ipa.control.engine.tick import read_inputs
from ipa.control.loop.control_loop import MOST_FEEDBACK
from ipa.model.errors import BusyError
from ipa.model.measured import with_accuracies, with_profiles
from ipa.model.parts import parts_of
from ipa.model.profile import Slowdown
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.profiling.measured_accuracy import Feedback
from ipa.service.live_state import live_state
from tests.fakes.world import PIPELINE, PROFILES, Scenario, made_loop, ours, profiled, scenario

MEASURED = with_profiles(PIPELINE, PROFILES)
# The profile says 0.6 and 0.9; most answers of either are right.
RIGHT = [
    Feedback(float(at % 4 > 0), None, "detect", name, f"{name}{at}")
    for name in ("small", "big")
    for at in range(200)
]
PLANNER = Profiled(PlannerInputs(MEASURED, PROFILES, solver="exact"))


def judged(feedback: list[Feedback] = RIGHT) -> Scenario:
    made = scenario(pipeline=MEASURED)
    made.ticks(2)
    assert made.loop.give_feedback(feedback) == len(feedback)
    return made


def test_the_loop_measures_at_its_next_tick_and_plans_with_what_contradicts() -> None:
    made = judged()
    assert made.loop.snapshot().correction.slowdowns(MEASURED) == ()
    made.ticks(1)
    big, small = (each.interval for each in made.loop.snapshot().correction.accuracies)
    assert (small.labels, small.profiled, big.profiled) == (200, 0.6, 0.9)
    assert small.mean == big.mean == pytest.approx(0.75)
    assert small.lower > 0.6 and big.upper < 0.9
    used = {each.variant: each for each in made.loop.snapshot().correction.slowdowns(MEASURED)}
    assert used["small"] == Slowdown("detect", "small", 1.0, small.lower, small.mean)


def test_a_profile_that_is_not_contradicted_stands() -> None:
    made = judged([Feedback(float(at % 5 < 3), None, "detect", "small", str(at)) for at in range(300)])
    made.ticks(1)
    assert made.loop.snapshot().correction.accuracies[0].labels == 300
    assert made.loop.snapshot().correction.slowdowns(MEASURED) == ()


def test_a_restart_keeps_the_measurement_and_a_replay_uses_it() -> None:
    made = judged()
    decisions = made.ticks(3)
    known = made.loop.snapshot().correction.accuracies
    after = replace(made, loop=made_loop(made, ours(), "again", MEASURED))
    decisions += after.ticks(2)
    assert after.loop.snapshot().correction.accuracies == known
    for decision in decisions:
        inputs = read_inputs(decision.inputs)
        assert inputs.state.correction.accuracies == known
        result = replay(decision, inputs, MEASURED, ours(), profiled().predict)
        assert result.outcome is ReplayOutcome.SAME, result.differences


def test_a_repeated_judgement_counts_once_and_too_many_wait() -> None:
    made = judged(RIGHT[:10])
    assert made.loop.give_feedback(RIGHT[:12]) == 2
    # An agreement of the same request is another judgement.
    assert made.loop.give_feedback([replace(RIGHT[0], correct=None, agrees=1.0)]) == 1
    with pytest.raises(BusyError, match="13 judgements wait for the next tick"):
        made.loop.give_feedback(RIGHT[:1] * (MOST_FEEDBACK - 12))
    made.ticks(1)
    assert made.loop.snapshot().correction.accuracies[0].labels == 12


@pytest.mark.parametrize(("floor", "is_feasible"), [(0.56, True), (0.61, True), (0.62, False)])
def test_floors_count_the_lower_bound_and_the_objective_the_mean(floor: float, is_feasible: bool) -> None:
    """With the big reader (0.95) PAS is 0.95 x 0.65 of the small detector: its mean would carry 0.62."""
    known = (Slowdown("detect", "small", 1.0, 0.65, 0.75), Slowdown("detect", "big", 1.0, 0.60, 0.62))
    bounds = replace(MEASURED.bounds, accuracy_floor=floor)
    pipeline = replace(MEASURED, bounds=bounds, slowdowns=known)
    plan = PLANNER.plan(pipeline, 5.0)
    assert bool(plan.stages) is is_feasible
    if not is_feasible:
        return
    assert plan.pas is not None and plan.pas >= floor and plan.objective is not None
    described = PLANNER.describe(plan.configs, 5.0, known)
    assert described is not None and described.objective == pytest.approx(plan.objective)
    assert plan.stages[0].variant == "small" and plan.stages[0].accuracy == 0.65
    by_lower = [replace(each, mean_accuracy=None) for each in known]
    lower = PLANNER.describe(plan.configs, 5.0, tuple(by_lower))
    assert lower is not None and lower.pas == plan.pas and (lower.objective or 0.0) < plan.objective
    assert accuracy_faults(with_accuracies(pipeline, known), parts_of(plan.configs)) == []


def test_status_and_metrics_show_it_until_it_is_gone() -> None:
    made = judged()
    registry = CollectorRegistry()
    publish = Publisher(Catalogue(registry, [MEASURED]))
    decision = made.ticks(1)[0]
    snapshot = made.loop.snapshot()
    publish(decision, snapshot)
    live = live_state(MEASURED, PROFILES, snapshot, now=datetime(2026, 1, 1, tzinfo=UTC), tick_s=5.0)
    shown = {each.variant: each for each in live.stages[0].measured}
    assert shown["small"].contradicts and shown["small"].labels == 200 and not live.stages[1].measured

    def figure(name: str, variant: str = "small") -> float | None:
        labels = {"pipeline": "pages", "stage": "detect", "variant": variant, "figure": name}
        return registry.get_sample_value("ipa_accuracy_measured_ratio", labels)

    each = shown["small"]
    figures = [figure(it) for it in ("profile", "mean", "lower", "upper")]
    assert figures == [0.6, each.mean, each.lower, each.upper]
    publish(decision, replace(snapshot, correction=replace(snapshot.correction, accuracies=())))
    assert str(figure("mean")) == "nan"
