"""Whatever happens to it, the loop keeps its invariants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ipa.control.engine.guards import GuardSettings, bound_faults, total_cores
from ipa.control.engine.observe import observe
from ipa.control.engine.state import EngineState, TickRequest
from ipa.control.engine.tick import on_tick
from ipa.control.ports import PipelineControl, Signals, StageState, WorkloadState
from ipa.model.decision import Action, Change, Mode, ReasonCode
from ipa.model.errors import ConflictError, ForbiddenError, UnavailableError
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.policies.ours import Ours
from tests.amounts import many
from tests.fakes.world import PIPELINE, SMALLEST, planner, profiled, scenario, window_max
from tests.faults import drive

VARIANTS = [(stage.name, variant.name) for stage in PIPELINE.stages for variant in stage.variants]
BAD: dict[str, Callable[[Signals], Signals]] = {
    **drive.BAD,
    "ended": lambda signals: replace(signals, load=Measured(LoadHistory(1.0, (9.0, *[None] * 30)))),
}


class ByName:
    """The planner, remembering by what can differ here."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: tuple[StageConfig, ...] = ()) -> Plan:
        key = (pipeline.stages, pipeline.bounds, pipeline.slowdowns, rate_rps, running)
        if key not in self._plans:
            self._plans[key] = planner(pipeline, rate_rps, running)
        return self._plans[key]


PLANNER = ByName()


class Trouble(RuleBasedStateMachine):
    """Ticks between any faults and any hands."""

    def __init__(self) -> None:
        super().__init__()
        self.rate_rps, self.bad, self.hands = 5.0, "", False
        self.made = scenario(lambda t_s: self.rate_rps, policy=Ours(PIPELINE, PLANNER))
        self.made.metrics.fault = lambda now_s, signals: BAD[self.bad](signals) if self.bad else signals
        self.made.workload.before_write = self.check

    def check(self, change: Change) -> None:
        """Called with every write just before the world sees it."""
        recorded = self.made.store.decision(change.decision_id)
        assert recorded.configs == change.configs and recorded.action is Action.APPLY
        control = self.made.store.control(PIPELINE.name)
        assert control.mode is Mode.ACTIVE and not control.paused
        assert change.configs != change.previous
        if change.is_rollback:
            return
        assert bound_faults(PIPELINE, change.configs) == []
        assert not self.bad, "nothing but a rollback is decided without data"
        assert self.made.workload.ready, "one change at a time"

    @rule(rate_rps=st.sampled_from([0.0, 1e-9, 0.5, 5.0, 12.0, 33.0, 80.0, 5000.0]))
    def load(self, rate_rps: float) -> None:
        self.rate_rps = rate_rps

    @rule(count=st.integers(1, 9))
    def ticks(self, count: int) -> None:
        before = total_cores(self.made.workload.desired)
        decisions = self.made.ticks(count)
        if self.bad and not any(decision.reason is ReasonCode.ROLLBACK for decision in decisions):
            assert total_cores(self.made.workload.desired) >= before

    @rule(kind=st.sampled_from(["", *BAD]))
    def data(self, kind: str) -> None:
        self.bad = kind

    @precondition(lambda self: self.made.store.failing is None)
    @rule(paused=st.booleans(), mode=st.sampled_from(Mode))
    def say(self, paused: bool, mode: Mode) -> None:
        self.made.say(paused=paused, mode=mode)

    @rule(error=st.sampled_from([ConflictError("modified"), ForbiddenError("no"), UnavailableError("lost")]))
    def refuse_the_next_write(self, error: Exception) -> None:
        self.made.workload.errors["write"].append(error)  # type: ignore[arg-type]

    @rule(verb=st.sampled_from(["read", "rollout"]))
    def fail_the_next(self, verb: str) -> None:
        self.made.workload.errors[verb].append(UnavailableError("no route to host"))

    @rule()
    def lose_the_next_answer(self) -> None:
        self.made.workload.lose_answers += 1

    @rule(broken=st.sets(st.sampled_from([pair for pair in VARIANTS if pair[1] == "big"])))
    def break_variants(self, broken: set[tuple[str, str]]) -> None:
        self.made.workload.broken = broken

    @rule(failing=st.booleans())
    def fill_the_disk(self, failing: bool) -> None:
        self.made.store.failing = UnavailableError("disk full") if failing else None

    @precondition(lambda self: self.made.store.failing is None)
    @rule(replicas=st.integers(1, 6))
    def edit_by_hand(self, replicas: int) -> None:
        self.made.workload.by_another_hand("read", replicas=replicas)

    @precondition(lambda self: self.made.store.failing is None)
    @rule()
    def restart(self) -> None:
        self.made = self.made.restarted(run_id=f"run{len(self.made.store.recorded)}")

    @invariant()
    def ids_and_ticks_are_unique(self) -> None:
        decisions = self.made.store.recorded
        assert len({decision.decision_id for decision in decisions}) == len(decisions)
        assert len({decision.tick for decision in decisions}) == len(decisions)

    def teardown(self) -> None:
        """After the last fault it converges, and then is quiet."""
        self.rate_rps, self.bad, self.made.store.failing = 5.0, "", None
        for errors in self.made.workload.errors.values():
            errors.clear()
        self.made.workload.broken, self.made.workload.lose_answers = set(), 0
        self.made.say(mode=Mode.ACTIVE, paused=True)
        self.made.ticks(1)
        self.made.say(paused=False)
        # The longest quarantine is two doublings here: no more than that many failures fit in a run.
        self.made.ticks(400)
        writes = len(self.made.workload.writes)
        last = self.made.ticks(12)
        assert {decision.reason for decision in last} <= {ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE}
        assert len(self.made.workload.writes) == writes


def test_invariants_hold_through_any_trouble() -> None:
    run_state_machine_as_test(
        Trouble,
        settings=settings(
            max_examples=many(6),
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
measured = st.builds(Measured, numbers, st.floats(0, 40))
missing = st.builds(Missing, st.sampled_from(MissingReason))
rates = st.lists(st.none() | numbers, max_size=30).map(tuple)
loads = st.builds(Measured, st.builds(LoadHistory, st.just(1.0), rates), st.floats(0, 40))
signals = st.builds(
    Signals, arrival_rate_rps=measured | missing, load=loads | missing, latency_s=measured | missing
)
workloads = st.sampled_from(
    [None, WorkloadState("7", tuple(StageState(config, config.replicas) for config in SMALLEST), True)]
)


def request(signals: Signals, workload: WorkloadState | None, *, mode: Mode = Mode.ACTIVE) -> TickRequest:
    return TickRequest(
        pipeline=PIPELINE,
        control=PipelineControl(mode=mode),
        observation=observe(PIPELINE, signals, workload, at_s=9.0),
        forecaster=window_max,
        policy=Ours(PIPELINE, PLANNER),
        predict=profiled().predict,
        settings=GuardSettings(),
        now_s=9.0,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        run_id="run",
    )


def trusted(signals: Signals) -> bool:
    """True if a person would decide on these signals."""
    rate, load = signals.arrival_rate_rps, signals.load
    if isinstance(rate, Missing) or isinstance(load, Missing):
        return False
    sane = [rate is not None and 0 <= rate < float("inf") for rate in reversed(load.value.rates_rps)]
    newest = sane.index(True) if True in sane else 99
    return 0 <= rate.value < float("inf") and max(rate.age_s, load.age_s + newest) <= 15.0


@settings(max_examples=many(75), deadline=None, derandomize=True)
@given(observed=signals, workload=workloads)
def test_what_cannot_be_trusted_is_never_acted_upon(
    observed: Signals, workload: WorkloadState | None
) -> None:
    effects, _ = on_tick(request(observed, workload), EngineState())
    if workload is None:
        assert effects.decision.reason is ReasonCode.WORKLOAD_UNKNOWN
    elif not trusted(observed):
        assert effects.decision.reason in {
            ReasonCode.METRICS_MISSING,
            ReasonCode.METRICS_STALE,
            ReasonCode.METRICS_INVALID,
        }
    if workload is None or not trusted(observed):
        assert effects.change is None


@settings(max_examples=many(30), deadline=None, derandomize=True)
@given(observed=signals, workload=workloads, mode=st.sampled_from(Mode))
def test_a_decision_is_a_function_of_its_recorded_inputs(
    observed: Signals, workload: WorkloadState | None, mode: Mode
) -> None:
    first, state = on_tick(request(observed, workload, mode=mode), EngineState())
    again, state_again = on_tick(request(observed, workload, mode=mode), EngineState())
    assert repr(first) == repr(again) and repr(state) == repr(state_again)
    assert first.decision.inputs_digest == again.decision.inputs_digest


@given(rate_rps=st.floats(0.1, 50), other_rps=st.floats(0.1, 50))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_different_inputs_have_different_digests(rate_rps: float, other_rps: float) -> None:
    digests = set()
    for rate in (rate_rps, other_rps):
        signals = Signals(Measured(rate), Measured(LoadHistory(1.0, (rate,))), Missing(MissingReason.ABSENT))
        effects, _ = on_tick(request(signals, WorkloadState("1", (), True)), EngineState())
        digests.add(effects.decision.inputs_digest)
    assert len(digests) == len({rate_rps, other_rps})
