"""The trial of a canary: what is measured, when it passes, fails, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ipa.control.canonical import canonical_json, plain, restored
from ipa.control.engine import quarantine
from ipa.control.engine.canary import (
    CanaryTrial,
    EndedCount,
    beside,
    has_failed,
    has_passed,
    measured,
    proven_by,
    trial_of,
    without,
    without_canary,
)
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import EngineState, PlannerProvenance
from ipa.control.engine.tick import DecisionInputs, recalled_failures
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.observation import (
    Attainment,
    Measured,
    Missing,
    MissingReason,
    Observation,
    PartObservation,
    StageObservation,
)
from ipa.model.parts import in_order, parts_of, share_of, with_share
from ipa.model.pipeline import Canary
from ipa.model.plan import StageConfig
from ipa.model.profile import AS_MEASURED
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.policies.base import Prediction
from ipa.service.live_state import canary_live
from tests.fakes.mixed import SHOP

CANARY = Canary(5, 60.0)
TRIED = replace(SHOP, canary=CANARY)
OLD = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "middle", 1, 1.0, 3))
NEW = (StageConfig("detect", "only", 1, 1.0, 2), StageConfig("classify", "high", 1, 1.0, 30))
PROVEN = frozenset({("detect", "only"), ("classify", "middle")})
ABSENT = Missing(MissingReason.ABSENT)


def predict(configs, rate_rps, slowdowns=AS_MEASURED):  # type: ignore[no-untyped-def]
    return Prediction(rate_rps, 2 * rate_rps, 0.1, 0.75, 1.0, 0.9)


def begun() -> tuple[CanaryTrial, tuple[StageConfig, ...]]:
    trial = trial_of(NEW, OLD, CANARY, PROVEN, predict, 40.0)
    assert trial is not None
    return trial


def observe_row(row: tuple[StageConfig, ...], *in_time: float, count: float = 30.0) -> Observation:
    """The observation of that row; each part has so many of its requests of the last 30 s in time."""
    stages = tuple(
        StageObservation(config.stage, Measured(config), Measured(config.replicas), ABSENT, ABSENT)
        for config in row
    )
    parts = tuple(
        PartObservation(Measured(0.2), Measured(Attainment(count, ratio, 30.0))) for ratio in in_time
    )
    whole = Measured(Attainment(count * len(parts), sum(in_time) / max(len(parts), 1), 30.0))
    return Observation("shop", 0.0, ABSENT, ABSENT, ABSENT, stages, attainment=whole, parts=parts)


def after(*in_time: float, until_s: float, count: float = 30.0) -> CanaryTrial:
    """The trial after ticks of 10 s."""
    trial, row = begun()
    for at_s in range(0, round(until_s) + 1, 10):
        trial = measured(trial, observe_row(row, *in_time, count=count), float(at_s))
    return trial


def test_it_starts_with_the_replicas_of_its_share_taken_from_the_largest_part() -> None:
    trial, row = begun()
    old, new = parts_of(row)
    assert old == with_share(OLD, 95) and share_of(new) == 5
    assert [it.replicas for it in new] == [1, 2] and trial.canary == new and trial.wanted == NEW
    assert trial.is_in(row) and without(trial, row) == OLD and beside(OLD, new) == row
    # Replicas that come beside it change nothing.
    assert trial.is_in(tuple(replace(it, replicas=it.replicas + 1) for it in row))
    assert not trial.is_in(OLD)


def test_it_starts_as_it_is_wanted_if_a_small_one_would_be_late() -> None:
    def late(configs, rate_rps, slowdowns=AS_MEASURED):  # type: ignore[no-untyped-def]
        return replace(predict(configs, rate_rps), latency_s=9.0)

    trial = trial_of(NEW, OLD, CANARY, PROVEN, late, 40.0)
    assert trial is not None and parts_of(trial[1])[1] == with_share(NEW, 5)


def test_what_is_proven_needs_none_and_a_small_part_proves_nothing() -> None:
    assert proven_by(OLD, CANARY, frozenset()) == PROVEN
    row = in_order([with_share(OLD, 95), with_share(NEW, 5)])
    assert proven_by(row, CANARY, frozenset()) == PROVEN
    assert trial_of(OLD, row, CANARY, PROVEN, predict, 40.0) is None
    both = PROVEN | {("classify", "high")}
    assert trial_of(NEW, OLD, CANARY, both, predict, 40.0) is None
    # Of a mixture only the unproven part is tried.
    mixture = in_order([with_share(OLD, 60), with_share(NEW, 40)])
    trial = trial_of(mixture, OLD, CANARY, PROVEN, predict, 40.0)
    assert trial is not None and [share_of(part) for part in parts_of(trial[1])] == [95, 5]
    assert trial[0].wanted == mixture


def test_requests_are_counted_from_the_first_window_that_is_its_own() -> None:
    trial = after(1.0, 1.0, until_s=20)
    assert trial.since_s == 0.0 and trial.measured_s == 0.0
    trial = after(1.0, 1.0, until_s=50)
    assert trial.measured_s == 50.0 and trial.own.all == pytest.approx(50.0)
    assert trial.latency_s == 0.2 and not has_passed(trial, CANARY)
    trial = after(1.0, 1.0, until_s=60)
    assert has_passed(trial, CANARY) and not has_failed(trial, TRIED, CANARY, 60.0)


@pytest.mark.parametrize(
    ("others", "own", "count", "passes"),
    [
        (1.0, 1.0, 30.0, True),
        # One of a hundred may be late, and some more by chance.
        (1.0, 0.97, 30.0, True),
        (1.0, 0.9, 30.0, False),
        # As bad as the others is no fault of its own.
        (0.7, 0.68, 30.0, True),
        (0.7, 0.4, 30.0, False),
    ],
)
def test_it_passes_by_the_slo_and_beside_the_others(
    others: float, own: float, count: float, passes: bool
) -> None:
    trial = after(others, own, until_s=60, count=count)
    assert has_failed(trial, TRIED, CANARY, 60.0) is not passes
    assert f"{100 * own:.1f} % of its 60 requests (5 %) were in time" in trial.figures(TRIED)


def test_a_bad_one_fails_before_its_time_is_over() -> None:
    assert has_failed(after(1.0, 0.2, until_s=30), TRIED, CANARY, 30.0)
    # Five of thirty might be chance; each tick tries.
    assert not has_failed(after(1.0, 0.9, until_s=30), TRIED, CANARY, 30.0)


def test_without_requests_it_neither_passes_nor_waits_for_ever() -> None:
    few = after(1.0, 1.0, until_s=290, count=0.5)
    assert not has_passed(few, CANARY) and not has_failed(few, TRIED, CANARY, 290.0)
    assert has_failed(few, TRIED, CANARY, 310.0)
    unseen = after(until_s=310)
    assert unseen.own.all == 0 and has_failed(unseen, TRIED, CANARY, 310.0)
    assert "none of its 5 % of the requests has been measured yet" in unseen.figures(TRIED)


def test_the_lateness_of_a_canary_is_not_that_of_the_others() -> None:
    trial, row = begun()
    observation = observe_row(row, 1.0, 0.0)
    assert isinstance(observation.attainment, Measured)
    assert observation.attainment.value.in_time_ratio == 0.5
    alone = without_canary(observation, trial)
    assert isinstance(alone.attainment, Measured) and alone.attainment.value.in_time_ratio == 1.0
    assert without_canary(observation, None) is observation
    assert without_canary(observe_row(OLD, 1.0), trial).attainment == observe_row(OLD, 1.0).attainment


def test_a_failed_one_is_remembered_with_its_figures_over_a_restart() -> None:
    trial, row = begun()
    words = f"the canary failed: {trial.figures(TRIED)}"
    rollback = Decision(
        *("shop-7-run", "shop", 7, datetime(2026, 1, 1, tzinfo=UTC).isoformat()),
        *(Action.APPLY, ReasonCode.ROLLBACK, words, OLD, row, Mode.ACTIVE),
    )
    # Sixty seconds ago by a clock that has begun anew meanwhile.
    inputs = DecisionInputs(
        **{"pipeline": "", "policy": "", "version": "", "state": EngineState(), "rolling": SIDE_BY_SIDE},
        **{"made_of": PlannerProvenance(), "control": PipelineControl(), "settings": GuardSettings()},
        **{"observation": observe_row(row, 1.0, 0.0), "rollout": None, "requested": None},
        **{"now_s": 5.0, "at": datetime(2026, 1, 1, tzinfo=UTC)},
    )
    failures = recalled_failures(rollback, inputs, 300.0, 935.0)
    message = quarantine.barred(failures, OLD, 1000.0)
    assert message == f"classify=high is not planned for 240 s: {words}"
    assert quarantine.barred(failures, row, 1000.0) == "", "it runs again"
    assert quarantine.barred(failures, OLD, 1241.0) == ""


def test_the_state_with_a_trial_is_read_back_and_without_one_is_as_before() -> None:
    trial, _ = begun()
    state = EngineState(trial=replace(trial, own=EndedCount(3.0, 1.0)), proven=PROVEN)
    assert canonical_json(restored(EngineState, plain(state))) == canonical_json(state)
    assert '"trial"' not in canonical_json(EngineState())


def test_status_has_no_canary_where_none_runs() -> None:
    from ipa.control.engine.actuation import ActuationPhase
    from ipa.control.loop.snapshot import Snapshot

    snapshot = Snapshot("shop", 1, PipelineControl(), ActuationPhase.IDLE)
    assert canary_live(TRIED, snapshot) is None
    live = canary_live(TRIED, replace(snapshot, trial=begun()[0]))
    assert live is not None and (live.share_percent, live.in_time_ratio, live.requests) == (5, None, 0.0)
    live = canary_live(TRIED, replace(snapshot, trial=after(1.0, 0.9, until_s=40)))
    assert live is not None and live.in_time_ratio == pytest.approx(0.9) and live.measured_s == 40.0
