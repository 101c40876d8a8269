"""The parts of the engine, one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ipa.control.canonical import canonical_json, digest
from ipa.control.engine import quarantine
from ipa.control.engine.actuation import (
    IDLE,
    Actuation,
    ActuationPhase,
    accepted,
    advance,
    begin,
    unanswered,
    withdrawn,
)
from ipa.control.engine.canary import with_rest
from ipa.control.engine.guards import limit_steps
from ipa.control.engine.load_rules import trailing_gap_s
from ipa.control.engine.observe import checked_load, observe
from ipa.control.engine.transition import classify
from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import (
    PartSignals,
    Rollout,
    RolloutPhase,
    Signals,
    StageSignals,
    StageState,
    WorkloadState,
)
from ipa.model.decision import Change, Mode, ReasonCode
from ipa.model.observation import Batches, LoadHistory, Measured, Missing, MissingReason, Observation
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from tests.fakes.clock import VirtualClock
from tests.fakes.world import PIPELINE, SMALLEST

UNSEEN = Missing(MissingReason.NOT_ASKED)
GROWN = tuple(replace(config, replicas=3) for config in SMALLEST)
OTHER = tuple(replace(config, replicas=2) for config in SMALLEST)
CHANGE = Change("pages-1-run", "pages", "1", SMALLEST, GROWN, deadline_s=30.0)
READY, WAITING = Rollout(RolloutPhase.READY), Rollout(RolloutPhase.PROGRESSING, "1 of 3 ready")
FAILED = Rollout(RolloutPhase.FAILED, "crash loop")


def observe_configs(configs: tuple[StageConfig, ...] | None) -> Observation:
    stages = tuple(StageState(config, config.replicas) for config in configs or ())
    state = WorkloadState("2", stages, settled=True) if configs else None
    return observe(PIPELINE, Signals(UNSEEN, UNSEEN, UNSEEN), state, at_s=0.0)


def waiting(change: Change = CHANGE) -> Actuation:
    return accepted(begin(change, 0.0))


@pytest.mark.parametrize(
    ("rollout", "running", "now_s", "phase"),
    [
        (WAITING, GROWN, 10.0, ActuationPhase.WAITING_READY),
        (WAITING, GROWN, 30.0, ActuationPhase.FAILED),
        (FAILED, GROWN, 1.0, ActuationPhase.FAILED),
        (READY, GROWN, 10.0, ActuationPhase.SETTLED),
        (READY, SMALLEST, 10.0, ActuationPhase.WAITING_READY),
        (READY, OTHER, 10.0, ActuationPhase.MOVED),
        (None, GROWN, 99.0, ActuationPhase.WAITING_READY),
        (READY, None, 99.0, ActuationPhase.WAITING_READY),
    ],
    ids=["waits", "overdue", "failed", "settled", "stale read", "moved", "no rollout", "no workload"],
)
def test_a_change_in_flight_follows_what_is_seen(
    rollout: Rollout | None, running: tuple[StageConfig, ...] | None, now_s: float, phase: ActuationPhase
) -> None:
    assert advance(waiting(), observe_configs(running), rollout, now_s).phase is phase


def test_a_change_that_has_settled_waits_for_nothing() -> None:
    actuation = advance(waiting(), observe_configs(GROWN), WAITING, 5.0)
    assert actuation.detail == WAITING.detail
    assert advance(actuation, observe_configs(GROWN), READY, 10.0).detail == ""


@pytest.mark.parametrize(
    ("running", "phase"),
    [
        (GROWN, ActuationPhase.WAITING_READY),
        (SMALLEST, ActuationPhase.NOT_APPLIED),
        (OTHER, ActuationPhase.MOVED),
        (None, ActuationPhase.UNKNOWN),
    ],
    ids=["applied", "not applied", "moved", "not read"],
)
def test_an_unanswered_write_is_read_back(
    running: tuple[StageConfig, ...] | None, phase: ActuationPhase
) -> None:
    lost = unanswered(begin(CHANGE, 0.0), "timed out")
    assert lost.in_flight
    assert advance(lost, observe_configs(running), None, 5.0).phase is phase


def test_a_rollback_ends_rolled_back_or_for_a_person() -> None:
    back = waiting(replace(CHANGE, previous=GROWN, configs=SMALLEST, is_rollback=True))
    assert advance(back, observe_configs(SMALLEST), READY, 5.0).phase is ActuationPhase.ROLLED_BACK
    assert advance(back, observe_configs(SMALLEST), FAILED, 5.0).phase is ActuationPhase.ROLLBACK_FAILED


def test_a_rollback_that_did_not_happen_leaves_what_it_was_to_undo() -> None:
    back = waiting(replace(CHANGE, previous=GROWN, configs=SMALLEST, is_rollback=True))
    left = withdrawn(back, 40.0)
    assert left.change is not None and not left.change.is_rollback
    assert (left.change.previous, left.change.configs) == (SMALLEST, GROWN)
    assert advance(left, observe_configs(GROWN), WAITING, 45.0).phase is ActuationPhase.FAILED
    assert withdrawn(waiting(), 40.0) == IDLE


def test_an_actuation_takes_no_step_that_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="from idle to waiting_ready"):
        accepted(IDLE)


def test_a_failure_waits_twice_as_long_each_time_and_no_longer_than_five_doublings() -> None:
    big = tuple(replace(config, variant="big") for config in SMALLEST)
    failures: tuple[quarantine.FailedRollout, ...] = ()
    now_s, waits = 0.0, []
    for _ in range(8):
        failures = quarantine.add(failures, SMALLEST, big, 60.0, now_s)
        waits.append(failures[0].until_s - now_s)
        now_s = failures[0].until_s
    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 1920.0, 1920.0]
    assert quarantine.excluded(failures, SMALLEST, now_s - 1) == {("detect", "big"), ("read", "big")}
    assert quarantine.excluded(failures, SMALLEST, now_s) == frozenset()
    assert quarantine.forgive(failures, big) == ()


def test_a_variant_that_runs_is_never_excluded() -> None:
    big = (replace(SMALLEST[0], variant="big"), SMALLEST[1])
    failures = quarantine.add((), SMALLEST, big, 60.0, 0.0)
    assert quarantine.excluded(failures, big, 1.0) == frozenset()


def test_steps_are_limited_but_never_over_the_budget() -> None:
    many = (replace(SMALLEST[0], replicas=8), SMALLEST[1])
    wanted = (SMALLEST[0], replace(SMALLEST[1], replicas=8))
    loose = limit_steps(wanted, many, Bounds(), 3)
    assert [config.replicas for config in loose] == [5, 4]
    tight = limit_steps(wanted, many, Bounds(cores=8), 3)
    assert [config.replicas for config in tight] == [1, 4]
    switched = (replace(wanted[0], variant="big", replicas=8), wanted[1])
    assert limit_steps(switched, SMALLEST, Bounds(), 3)[0].replicas == 8


@pytest.mark.parametrize(
    ("changed", "urgent", "reason"),
    [
        ({"variant": "big", "replicas": 9}, True, ReasonCode.SWITCH_VARIANT),
        ({"replicas": 2}, True, ReasonCode.SCALE_UP),
        ({"cores": 0.5}, False, ReasonCode.SCALE_DOWN),
        ({"cores": 0.5, "replicas": 2}, True, ReasonCode.SCALE_UP),
        ({"cores": 0.5, "replicas": 2}, False, ReasonCode.SCALE_DOWN),
        ({"batch_size": 4}, True, ReasonCode.REBATCH),
    ],
)
def test_the_reason_is_the_gravest_of_the_changes(
    changed: dict[str, object], urgent: bool, reason: ReasonCode
) -> None:
    configs = (replace(SMALLEST[0], **changed), SMALLEST[1])  # type: ignore[arg-type]
    assert classify(SMALLEST, configs, urgent) is reason


def test_senseless_samples_become_gaps_and_a_load_of_nothing_else_is_invalid() -> None:
    rates = (1.0, float("nan"), None, -0.5, float("inf"), 3.0)
    cleaned = checked_load(Measured(LoadHistory(1.0, rates, averaged_s=5.0), age_s=2.0))
    assert cleaned == Measured(
        LoadHistory(1.0, (1.0, None, None, None, None, 3.0), averaged_s=5.0), age_s=2.0
    )
    nothing = checked_load(Measured(LoadHistory(1.0, (float("nan"), None))))
    assert isinstance(nothing, Missing) and nothing.reason is MissingReason.INVALID
    gaps = checked_load(Measured(LoadHistory(1.0, (None, None))))
    assert isinstance(gaps, Missing) and gaps.reason is MissingReason.ABSENT
    assert trailing_gap_s(LoadHistory(2.0, (1.0, None, None))) == 4.0


def test_a_stage_that_was_not_read_is_missing_not_empty() -> None:
    half = WorkloadState("1", (StageState(SMALLEST[0], 1),), settled=True)
    observation = observe(PIPELINE, Signals(UNSEEN, UNSEEN, UNSEEN), half, at_s=0.0)
    assert observation.running() is None
    assert isinstance(observation.stages[1].running, Missing)
    assert observe_configs(SMALLEST).running() == SMALLEST


def test_equal_values_have_one_text() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one = {"b": frozenset({"y", "x"}), "a": (Mode.ACTIVE, at, None, 1.5), "c": SMALLEST[0]}
    two = {"c": SMALLEST[0], "a": [Mode.ACTIVE, at, None, 1.5], "b": frozenset({"x", "y"})}
    assert canonical_json(one) == canonical_json(two)
    assert digest(canonical_json(one)) != digest(canonical_json({**one, "a": None}))
    with pytest.raises(TypeError, match="object"):
        canonical_json(object())
    # The latency of a stage that cannot carry its load; JSON has no infinity.
    assert canonical_json({"latency_s": float("inf")}) == canonical_json({"latency_s": None})


def test_clocks_only_grow() -> None:
    for clock in (SystemClock(), VirtualClock()):
        before = clock.monotonic_s()
        clock.wait(0.0)
        clock.wait(-1.0)
        assert clock.monotonic_s() >= before
        assert clock.now().tzinfo is UTC


def test_batches_are_of_one_part_only_if_several_run_and_metrics_distinguish_them() -> None:
    batches = Measured(Batches(9.0, 0.1, 1.0, 10.0))
    own = {"a": PartSignals(UNSEEN, UNSEEN, {"detect": batches})}
    signals = Signals(UNSEEN, UNSEEN, UNSEEN, parts=own)
    shared = [
        StageState(replace(config, share_percent=50), 1, part=part) for part in "ab" for config in SMALLEST
    ]
    observation = observe(PIPELINE, signals, WorkloadState("2", tuple(shared), settled=True), at_s=0.0)
    assert [stage.is_own for stage in observation.stages] == [True, False, False, False]
    assert observation.stages[0].batches == batches
    alone = tuple(StageState(config, 1, part="a") for config in SMALLEST)
    observation = observe(PIPELINE, signals, WorkloadState("2", alone, settled=True), at_s=0.0)
    assert not any(stage.is_own for stage in observation.stages)


@pytest.mark.parametrize("stages", [1, 2])
def test_each_part_has_its_own_latency(stages: int) -> None:
    pipeline = replace(PIPELINE, stages=PIPELINE.stages[:stages])
    parts = {part: PartSignals(Measured(latency_s), UNSEEN) for part, latency_s in (("a", 0.1), ("b", 0.2))}
    running = tuple(
        StageState(replace(config, share_percent=50), 1, part=part)
        for part in "ab"
        for config in SMALLEST[:stages]
    )
    signals = Signals(UNSEEN, UNSEEN, UNSEEN, parts=parts)
    observation = observe(pipeline, signals, WorkloadState("2", running, settled=True), at_s=0.0)
    assert [part.latency_s for part in observation.parts] == [Measured(0.1), Measured(0.2)]


def test_the_largest_part_takes_what_the_others_leave() -> None:
    parts = [tuple(replace(config, share_percent=share) for config in SMALLEST) for share in (10, 55, 30)]
    assert [config.share_percent for config in with_rest(parts, 100)] == [60, 60, 30, 30, 10, 10]


@pytest.mark.parametrize(("count", "service_s"), [(3.0, 0.2), (0.0, None)])
def test_batches_have_a_time_only_where_there_were_any(count: float, service_s: float | None) -> None:
    stage = replace(observe_configs(SMALLEST).stages[0], batches=Measured(Batches(count, 0.2, 1.0, 10.0)))
    assert stage.service_s == service_s
    assert replace(stage, batches=UNSEEN).service_s is None


@pytest.mark.parametrize("unseen", [MissingReason.UNREACHABLE, MissingReason.INVALID])
def test_a_workload_that_was_not_read_is_missing_for_the_reason_given(unseen: MissingReason) -> None:
    signals = Signals(UNSEEN, UNSEEN, UNSEEN)
    observation = observe(PIPELINE, signals, None, problem="the server is down", unseen=unseen, at_s=0.0)
    missing = Missing(unseen, "the server is down")
    assert [(stage.running, stage.ready_replicas) for stage in observation.stages] == [(missing, missing)] * 2
    assert not observation.settled


def test_a_stage_that_a_workload_lacks_is_absent_whatever_the_reason_given() -> None:
    workload = WorkloadState("2", (StageState(SMALLEST[0], 1),), settled=True)
    signals = Signals(UNSEEN, UNSEEN, UNSEEN)
    result = observe(PIPELINE, signals, workload, unseen=MissingReason.INVALID, at_s=0.0)
    assert result.stages[0].running == Measured(SMALLEST[0])
    assert result.stages[1].running == result.stages[1].ready_replicas == Missing(MissingReason.ABSENT)
    assert result.running() is None


@pytest.mark.parametrize(
    ("rate_rps", "queue", "is_seen"), [(0.0, 549.0, False), (0.0, 1.0, True), (3.0, 549.0, True)]
)
def test_no_load_beside_a_queue_is_a_contradiction(rate_rps: float, queue: float, is_seen: bool) -> None:
    """A queue that its replicas take at once may be the end of a load."""
    stages = {
        config.stage: StageSignals(Measured(rate_rps), UNSEEN, Measured(queue if at == 0 else 0.0))
        for at, config in enumerate(SMALLEST)
    }
    signals = Signals(Measured(rate_rps), Measured(LoadHistory(1.0, (rate_rps,))), UNSEEN, stages)
    workload = WorkloadState("2", tuple(StageState(config, 1) for config in SMALLEST), settled=True)
    observation = observe(PIPELINE, signals, workload, at_s=0.0)
    for value in (observation.arrival_rate_rps, observation.load):
        if is_seen:
            assert isinstance(value, Measured)
        else:
            assert isinstance(value, Missing) and value.reason is MissingReason.INVALID
            assert value.detail == "it is 0, and 549 items wait for detect"
