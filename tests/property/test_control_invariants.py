"""A tick acts on trusted signals only, and is a function of its recorded inputs.

tests/faults/test_machine.py has the invariants of the loop, whatever happens to it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.observe import observe
from ipa.control.engine.state import EngineState, PlannerProvenance, TickRequest
from ipa.control.engine.tick import on_tick
from ipa.control.ports import PipelineControl, Signals, StageState, WorkloadState
from ipa.model.decision import Mode, ReasonCode
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.policies.ours import Ours
from tests.amounts import many
from tests.fakes.world import PIPELINE, SMALLEST, profiled, window_max
from tests.faults.world import PLANNER

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
        rolling=SIDE_BY_SIDE,
        made_of=PlannerProvenance(),
        rollout=None,
        requested=None,
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
