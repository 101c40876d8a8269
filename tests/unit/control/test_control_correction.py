"""Learning from profiles that are wrong: from what is observed, in steps, once it is no chance."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from math import log

import pytest

from ipa.control.engine.correction import (
    DRIFT,
    FIRST_DEVIATION,
    UNCORRECTED,
    Correction,
    ObservedSlowdown,
    _within_savings,
    alarms,
    learned,
    planned_with,
)
from ipa.control.engine.guards import STEP, GuardSettings, total_cores
from ipa.control.engine.tick import on_tick
from ipa.control.ports import Signals
from ipa.model.decision import Action, Mode, Notice
from ipa.model.observation import Batches, Measured, Missing, MissingReason, Observation, StageObservation
from ipa.model.plan import StageConfig
from ipa.model.profile import MOST_SLOWDOWN, Slowdown
from ipa.policies.base import Prediction
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, profiled, scenario

SETTINGS = GuardSettings(tick_s=10.0, correct_profiles=True)
FORGET_S = (FIRST_DEVIATION / DRIFT) ** 2
ABSENT = Missing(MissingReason.ABSENT)
WINDOW_S = 10.0
# What a full window has, where nothing else is said: as many as make a ratio sure in a tick.
MANY = 300.0


def service_s(config: StageConfig, items: float = 1.0) -> float:
    """The time of a batch by the profile."""
    known = profiled().predict(SMALLEST if config in SMALLEST else (config, SMALLEST[1]), 1.0)
    assert known is not None
    return known.services[0].mean_s(items, config.batch_size)


def observed(
    ratio: float,
    config: StageConfig = SMALLEST[0],
    *,
    items: float = 1.0,
    count: float = MANY,
    age_s: float = 0.0,
    settled: bool = True,
    window_s: float = WINDOW_S,
) -> Observation:
    """The first stage runs `config`, whose batches take `ratio` times their profile."""
    batches = Batches(count, ratio * service_s(config, items), items, window_s)
    stages = tuple(
        StageObservation(one.stage, Measured(one), Measured(one.replicas), ABSENT, ABSENT, batches=served)
        for one, served in ((config, Measured(batches, age_s)), (SMALLEST[1], ABSENT))
    )
    return Observation("pages", 0.0, ABSENT, ABSENT, ABSENT, stages, settled=settled)


STAGES = tuple(stage.name for stage in PIPELINE.stages)


def after(
    *observations: Observation,
    known: Correction = UNCORRECTED,
    first_s: float = 0.0,
    moving: tuple[str, ...] = (),
    is_broken: bool = False,
    settings: GuardSettings = SETTINGS,
) -> Correction:
    """The knowledge after ticks that saw these."""
    for tick, observation in enumerate(observations):
        now_s = first_s + tick * settings.tick_s
        known = learned(
            known,
            observation,
            profiled().predict,
            settings,
            now_s,
            moving=moving,
            measured={},
            is_broken=is_broken,
        )
    return known


def ratio_of(known: Correction, variant: str = "small") -> float:
    """The problem that is planned."""
    ratios = {each.variant: each.ratio for each in known.slowdowns(PIPELINE) if each.stage == "detect"}
    return ratios.get(variant, 1.0)


def test_what_is_seen_is_learned_within_a_few_ticks_and_in_steps() -> None:
    slow = observed(1.3)
    # Within the first window something else may have run.
    ratios = [ratio_of(after(*[slow] * ticks)) for ticks in range(1, 9)]
    assert ratios[0] == 1.0
    assert all(ratio == pytest.approx(1.3, rel=0.03) for ratio in ratios[1:])
    assert ratios[-1] == STEP ** round(log(1.3) / log(STEP))


def test_a_batch_that_took_long_is_no_slow_variant() -> None:
    for tick in range(3, 9):
        observations = [observed(1.0)] * 9
        observations[tick] = observed(3.0)
        assert all(after(*observations[:ticks]).slowdowns(PIPELINE) == () for ticks in range(1, 10))


def test_a_change_that_comes_into_the_window_slowly_is_planned_with_as_it_comes() -> None:
    """With a window of three ticks."""
    ramp = [observed(ratio, window_s=30.0) for ratio in (1.0, 1.0, 1.0, 1.0, 1.15, 1.3, 1.45, 1.45, 1.45)]
    ratios = [ratio_of(after(*ramp[:ticks])) for ticks in range(1, 10)]
    assert ratios == sorted(ratios) and ratios[:5] == [1.0] * 5
    assert all(ratio == pytest.approx(1.45, rel=0.03) for ratio in ratios[7:])


def test_what_it_was_before_counts_again_once_the_window_says_so() -> None:
    known = after(*[observed(1.5)] * 9)
    ratios = [ratio_of(after(*[observed(1.0)] * n, known=known, first_s=90.0)) for n in (1, 2, 3)]
    assert ratios == [ratio_of(known), 1.0, 1.0]


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.02])
def test_what_is_as_measured_or_quicker_is_left_alone(ratio: float) -> None:
    for is_broken in (False, True):
        known = after(*[observed(ratio)] * 20, is_broken=is_broken)
        assert known.slowdowns(PIPELINE) == ()


def test_items_are_weighed_as_the_profile_has_them() -> None:
    """A batch of eight takes longer than one of one, which says nothing of the profile."""
    config = replace(SMALLEST[0], batch_size=8)
    for items in (1.0, 3.5, 8.0):
        assert after(*[observed(1.0, config, items=items)] * 9).slowdowns(PIPELINE) == ()
        assert ratio_of(after(*[observed(1.5, config, items=items)] * 9)) == pytest.approx(1.5, rel=0.03)


def test_several_items_of_one_request_are_weighed_as_they_are_planned() -> None:
    """Without batches plans count them one after another, and the replica takes them at once."""
    single = replace(SMALLEST[0], batch_size=1)
    # `observed` has the time of one.
    assert ratio_of(after(*[observed(6 * 1.3, single, items=6.0)] * 4)) == pytest.approx(1.3, rel=0.03)


def test_it_ends_where_what_runs_is_broken_and_not_slow() -> None:
    assert ratio_of(after(*[observed(50.0)] * 20)) == pytest.approx(MOST_SLOWDOWN, rel=STEP - 1)


def test_nothing_is_learned_of_what_is_on_its_way_old_little_or_not_there() -> None:
    slow = observed(2.0)
    known = after(slow)
    assert known.observed == ()
    never = [
        observed(2.0, count=4.0),
        observed(2.0, age_s=SETTINGS.stale_after_s + 1),
        replace(slow, stages=(replace(slow.stages[0], batches=ABSENT), slow.stages[1])),
        replace(slow, stages=(replace(slow.stages[0], running=ABSENT), slow.stages[1])),
        replace(slow, stages=(replace(slow.stages[0], running=Measured(unmeasured())), slow.stages[1])),
    ]
    for observation in never:
        assert after(*[observation] * 5, known=known, first_s=10.0).observed == ()
    assert after(*[slow] * 5, known=known, first_s=10.0, moving=STAGES).observed == ()
    assert after(*[slow] * 5, known=known, first_s=10.0).observed != ()
    assert after(*[slow] * 9, settings=replace(SETTINGS, correct_profiles=False)) == UNCORRECTED


def unmeasured() -> StageConfig:
    """A world that no profile knows."""
    return replace(SMALLEST[0], cores=7.0)


def side_by_side(*parts: Observation, is_own: bool = True) -> Observation:
    """The parts with equal shares; `is_own`: metrics tell their batches apart."""
    stages = [
        replace(
            stage,
            running=Measured(replace(stage.running.value, share_percent=100 // len(parts))),
            is_own=is_own,
        )
        for part in parts
        for stage in part.stages
        if isinstance(stage.running, Measured)
    ]
    return replace(parts[0], stages=tuple(stages))


def test_parts_that_share_the_load_are_not_told_apart_so_not_learned_of() -> None:
    assert after(*[side_by_side(observed(2.0), observed(2.0), is_own=False)] * 9).observed == ()


def test_parts_that_are_told_apart_are_learned_of_by_their_own_batches() -> None:
    big = replace(SMALLEST[0], variant="big")
    both = side_by_side(observed(1.3), observed(2.0, big))
    known = after(*[both] * 9)
    assert ratio_of(known) == pytest.approx(1.3, rel=0.03)
    assert ratio_of(known, "big") == pytest.approx(2.0, rel=0.03)
    # One of them goes on alone, and is known already.
    assert after(observed(1.3), known=known, first_s=90.0).of("detect", "small").at_s == 90.0  # type: ignore[union-attr]


def test_parts_of_one_variant_are_learned_of_by_the_one_with_more_batches() -> None:
    quick = observed(1.3, replace(SMALLEST[0], replicas=2), count=MANY / 2)
    for parts in ((quick, observed(2.0)), (observed(2.0), quick)):
        assert ratio_of(after(*[side_by_side(*parts)] * 9)) == pytest.approx(2.0, rel=0.03)


def test_other_replicas_are_watched_for_a_window_before_anything_is_learned_of_them() -> None:
    slow, other = observed(1.3), observed(3.0, replace(SMALLEST[0], cores=2.0))
    known = after(*[slow] * 9)
    # More of the same are the same, and so are those that get larger batches.
    for changed in (replace(SMALLEST[0], replicas=5), replace(SMALLEST[0], batch_size=4)):
        assert after(observed(1.3, changed), known=known, first_s=90.0).observed[0].at_s == 90.0
    assert [after(*[other] * n, known=known, first_s=90.0).observed[0].at_s for n in (1, 2)] == [80.0, 100.0]
    # What was on its way in between is other replicas too.
    gone = after(other, known=known, first_s=90.0, moving=STAGES)
    assert after(slow, known=gone, first_s=100.0).observed[0].at_s == 80.0


def test_a_variant_that_was_not_seen_takes_what_its_stage_takes() -> None:
    known = after(*[observed(1.4)] * 9)
    assert {(each.stage, each.variant) for each in known.slowdowns(PIPELINE)} == {
        ("detect", "small"),
        ("detect", "big"),
    }
    assert ratio_of(known, "big") == ratio_of(known, "small")
    # Its own ratio begins there, and counts from then on.
    big = observed(1.4, replace(SMALLEST[0], variant="big"))
    now = after(*[big] * 3, known=known, first_s=90.0)
    assert ratio_of(now, "big") == ratio_of(known, "big")
    free = after(*[observed(1.0, replace(SMALLEST[0], variant="big"))] * 12, known=known, first_s=90.0)
    assert (ratio_of(free, "big"), ratio_of(free, "small")) == (1.0, ratio_of(known, "small"))
    # A quick one says nothing of others.
    seen = observed(0.6)
    first, second = seen.stages
    predicted = profiled().predict(SMALLEST, 1.0)
    assert predicted is not None
    batches = Batches(MANY, 0.6 * predicted.services[1].mean_s(1.0, 1), 1.0, WINDOW_S)
    quick = after(*[replace(seen, stages=(first, replace(second, batches=Measured(batches))))] * 9)
    assert (ratio_of(quick, "small") < 0.7, ratio_of(quick, "big")) == (True, 1.0)


def test_what_was_long_ago_is_forgotten() -> None:
    known = after(*[observed(1.4)] * 9)
    (slowdown,) = known.observed
    quiet = replace(observed(1.0), stages=tuple(replace(it, batches=ABSENT) for it in observed(1.0).stages))
    assert after(quiet, known=known, first_s=slowdown.at_s + FORGET_S - 1).observed == (slowdown,)
    assert after(quiet, known=known, first_s=slowdown.at_s + FORGET_S).observed == ()


def test_few_batches_move_no_plan_that_many_do() -> None:
    """As few as differ so much by chance."""
    few, many = (after(*[observed(1.15, count=count)] * 3).observed[0] for count in (6.0, MANY))
    assert 1.0 < few.ratio < many.ratio == pytest.approx(1.15, rel=0.01)
    assert few.variance > 10 * many.variance and (few.steps, many.steps) == (0, 3)


def test_while_requests_are_late_a_surprise_counts_at_once() -> None:
    known = after(*[observed(1.0)] * 9)
    assert ratio_of(after(observed(2.0), known=known, first_s=90.0)) == 1.0
    broken = after(observed(2.0), known=known, first_s=90.0, is_broken=True)
    assert ratio_of(broken) == pytest.approx(2.0, rel=0.03)


def test_people_are_told_once_and_again_only_after_it_was_well() -> None:
    known = after(*[observed(1.3)] * 9)
    reported, events = alarms(known, PIPELINE)
    (event,) = events
    assert event.reason is Notice.PROFILE_SLOW and event.is_warning
    assert "batches of detect=small take 1.3 x their profiled time" in event.message
    assert "ipa profile pages --stage detect" in event.message
    assert alarms(reported, PIPELINE) == (reported, ())
    well = after(*[observed(1.0)] * 9, known=reported, first_s=90.0)
    well, events = alarms(well, PIPELINE)
    assert events == () and not well.observed[0].is_reported
    again = after(*[observed(1.3)] * 9, known=well, first_s=180.0)
    assert len(alarms(again, PIPELINE)[1]) == 1
    assert alarms(after(*[observed(1.2)] * 9), PIPELINE)[1] == ()


def test_words_name_what_of_a_plan_is_slower() -> None:
    slow = (Slowdown("detect", "small", 1.4071), Slowdown("read", "big", 2.0))
    plan, plain = (profiled().describe(SMALLEST, 1.0, each) for each in (slow, slow[1:]))
    assert plan is not None and plain is not None
    assert planned_with(plan) == "planned with detect=small at 1.41 x its profiled batch time"
    assert planned_with(plain) == ""


def slowed(made: Scenario, ratio: float, waiting: float = 0.0) -> None:
    """Let batches take that many times their profile, full ones, and items wait, in the fake's metrics."""

    def fault(now_s: float, signals: Signals) -> Signals:
        known = profiled().predict(made.workload.serving, 1.0)
        assert known is not None
        stages = {}
        for config, service in zip(made.workload.serving, known.services, strict=True):
            items = float(config.batch_size)
            took_s = ratio * service.mean_s(items, config.batch_size)
            batches = Measured(Batches(MANY, took_s, items, WINDOW_S))
            stages[config.stage] = replace(
                signals.stages[config.stage], batches=batches, queue_length=Measured(waiting)
            )
        return replace(signals, stages=stages)

    made.metrics.fault = fault


def settled(mode: Mode = Mode.ACTIVE) -> Scenario:
    """A loop at its plan, whose profiles turn out to be too quick."""
    correcting = replace(scenario().settings, correct_profiles=True)
    made = scenario(10.0, settings=correcting, mode=mode)
    made.ticks(12)
    slowed(made, 1.5)
    return made


def test_the_loop_plans_for_what_it_sees_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    made = settled()
    before = made.workload.desired
    with caplog.at_level(logging.WARNING, "ipa.control"):
        decisions = made.ticks(12)
    applied = [decision for decision in decisions if decision.action is Action.APPLY]
    assert "detect=big at 1." in applied[0].detail and "x its profiled batch time" in applied[0].detail
    known = profiled().predict(made.workload.desired, 11.0)
    assert known is not None and made.workload.desired != before
    # What runs carries the load half as slow again.
    assert known.capacity_rps >= 1.45 * 11.0
    assert [line for line in caplog.messages if "notice.profile_slow" in line]
    slow = made.loop.snapshot().correction.slowdowns(PIPELINE)
    assert {each.stage for each in slow} == {"detect", "read"}
    assert all(each.ratio == pytest.approx(1.5, rel=0.03) for each in slow)


def test_the_plan_counts_what_waits_once_the_slowdown_is_known() -> None:
    made = settled()
    slowed(made, 1.5, waiting=60.0)
    first = next(it for it in made.ticks(8) if it.action is Action.APPLY)
    assert "x its profiled batch time" in first.detail
    assert first.plan is not None and first.forecast is not None
    assert first.plan.rate_rps > first.forecast.upper_rps
    assert total_cores(first.configs) > total_cores(first.previous)


def test_a_quicker_machine_gives_cores_back_and_takes_them_again() -> None:
    made = settled()

    def steps() -> set[int]:
        known = made.loop._state.correction
        return {each.steps for it in known.since if (each := known.of(it.stage, it.variant)) is not None}

    slowed(made, 0.6)
    made.ticks(6)
    (quick,) = steps()
    assert STEP**quick == pytest.approx(0.6, rel=0.03)
    slowed(made, 1.0)
    made.ticks(6)
    assert steps() == {0}


def test_advisory_mode_learns_too() -> None:
    made = settled(Mode.ADVISORY)
    details = [decision.detail for decision in made.ticks(12)]
    assert any("x its profiled batch time" in detail for detail in details)
    assert made.workload.accepted == []


def test_a_decision_is_recorded_with_what_it_was_corrected_by(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settled()
    requests = []

    def recorded_tick(request, state):  # type: ignore[no-untyped-def]
        requests.append((request, state))
        return on_tick(request, state)

    monkeypatch.setattr("ipa.control.loop.control_loop.on_tick", recorded_tick)
    decisions = made.ticks(8)
    last = json.loads(decisions[-1].inputs)
    assert last["state"]["correction"]["seen"][0]["ratio"] > 1.3
    assert last["observation"]["stages"][0]["batches"]["value"]["count"] == MANY
    # Taken again from what it was given, it is the same.
    for request, state in requests:
        again, _ = on_tick(request, state)
        first = next(it for it in decisions if it.decision_id == again.decision.decision_id)
        assert again.decision == first


def test_a_jump_is_weighed_by_what_replicas_carry_really() -> None:
    """Between ticks, too, what runs is good enough for less where it is slower."""
    made = settled()
    made.ticks(12)
    corrected = made.loop._state.correction
    made.metrics.rate_rps = lambda t_s: 13.0
    assert made.loop._is_overrun()
    made.loop._state = replace(made.loop._state, correction=UNCORRECTED)
    assert not made.loop._is_overrun()
    made.loop._state = replace(made.loop._state, correction=corrected)


def test_a_restart_knows_what_was_learned_as_far_as_it_can_read(caplog: pytest.LogCaptureFixture) -> None:
    made = settled()
    made.ticks(12)
    known = made.loop.snapshot().correction.slowdowns(PIPELINE)
    again = made.restarted()
    last = again.ticks(1)[0]
    assert again.loop.snapshot().correction.slowdowns(PIPELINE) == known != ()
    inputs = json.loads(last.inputs)
    inputs["state"]["correction"]["believed"] = 1
    # A field that this version needs, and another one.
    inputs["state"]["failures"] = [{"variants": [], "cores": 9.0, "forgotten_s": 1e6}]
    inputs["settings"] = {"patience": 3}
    made.store.recorded[-1] = replace(last, inputs=json.dumps(inputs))
    again = made.restarted("third")
    again.ticks(1)
    snapshot = again.loop.snapshot()
    assert snapshot.correction.slowdowns(PIPELINE) == known
    assert snapshot.quarantines == ()
    [told] = [it.message for it in caplog.records if "before the restart" in it.message]
    for words in (told.removeprefix("pages: "), "/state/correction/", "/state/failures/0/until_s"):
        assert words in made.store.recorded[-1].detail
    again.ticks(1)
    assert "before the restart" not in made.store.recorded[-1].detail


def test_what_is_planned_with_is_a_power_of_the_step() -> None:
    assert ObservedSlowdown("s", "v", 1.0, 0, 0.0).planned_ratio == 1.0
    assert ObservedSlowdown("s", "v", 1.3, 5, 0.0).planned_ratio == pytest.approx(1.05**5)


def halves(configs: Sequence[StageConfig], rate_rps: float) -> Prediction | None:
    """The prediction where each replica has a quota of half a core."""
    full = profiled().predict(configs, rate_rps)
    return full and replace(full, services=tuple(replace(each, quota_cores=0.5) for each in full.services))


@pytest.mark.parametrize(
    ("ratio", "learned_ratio"), [(0.5, 1.0), (0.7, 1.0), (1.0, 1.0), (1.5, 1.5), (0.4, 0.8)]
)
def test_cpu_time_saved_while_idle_makes_no_variant_quick(ratio: float, learned_ratio: float) -> None:
    """Half a core computes at full speed after a pause: only what is quicker than that is a quick machine."""

    known = UNCORRECTED
    for tick in range(90):
        known = learned(known, observed(ratio), halves, SETTINGS, 10.0 * tick, measured={}, is_broken=False)
    slowdown = known.of("detect", "small")
    assert slowdown is not None
    assert slowdown.ratio == pytest.approx(learned_ratio, rel=0.03)
    assert learned_ratio / STEP <= slowdown.planned_ratio <= learned_ratio * STEP


@pytest.mark.parametrize(("observed_s", "expected_s", "ratio"), [(0.6, 1.0, 0.7), (0.06, 0.1, 1.0)])
def test_cpu_time_is_saved_for_a_period_at_most(observed_s: float, expected_s: float, ratio: float) -> None:
    assert _within_savings(1.0, observed_s, expected_s, 0.5) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("ratio", "kept_ratio"), [(0.45, 0.7), (0.6, 0.7), (0.9, 0.9), (1.5, 1.5), (0.3, 0.6)]
)
def test_a_quicker_machine_is_known_until_batches_contradict_it(ratio: float, kept_ratio: float) -> None:
    """A busier replica saves less: it takes longer than it did, and the machine is no slower."""
    known = UNCORRECTED
    for tick in range(30):
        known = learned(known, observed(0.35), halves, SETTINGS, 10.0 * tick, measured={}, is_broken=False)
    for tick in range(30, 60):
        known = learned(known, observed(ratio), halves, SETTINGS, 10.0 * tick, measured={}, is_broken=False)
    slowdown = known.of("detect", "small")
    assert slowdown is not None
    assert slowdown.ratio == pytest.approx(kept_ratio, rel=0.03)
