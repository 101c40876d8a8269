"""The state of a loop after a tick, as a value that no later tick changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from ipa.control.engine.actuation import Actuation, ActuationPhase
from ipa.control.engine.canary import CanaryTrial
from ipa.control.engine.correction import UNCORRECTED, Correction
from ipa.control.engine.guards import total_cores
from ipa.control.engine.quarantine import FailedRollout
from ipa.control.engine.state import EngineState, TickRequest
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision, Effects
from ipa.model.observation import Forecast, Observation, known
from ipa.model.plan import Plan, StageConfig
from ipa.model.resources import NO_RESOURCES, Resources, total

# The history that the page plots.
HISTORY_S = 900.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A tick of the recent past; `at` in RFC 3339, None if missing.

    `predicted_latency_s` is the profiles' prediction for the running configuration at the observed rate;
    `is_overload`: they predict that it cannot carry that rate, so its latency has no bound. `beside` are the
    resources of the running configuration other than cores, `busy` is the measured share of the time in which
    the replicas of each stage served. `slo_broken` is that of the decision; the rates of dropped, failed and
    retried requests are None if they were not observed.
    """

    at: str
    rate_rps: float | None
    forecast_rps: float | None
    forecast_upper_rps: float | None
    latency_s: float | None
    cores: float | None
    pas: float | None
    reason: str
    predicted_latency_s: float | None = None
    beside: Resources = NO_RESOURCES
    is_overload: bool = False
    in_time_ratio: float | None = None
    dropped_rps: float | None = None
    failed_rps: float | None = None
    retried_rps: float | None = None
    slo_broken: bool = False
    busy: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the loop. `plan` and `forecast` are the latest ones, `tick_s` is the duration of the tick.

    `skipped_ticks` were not run because the tick before them took too long, `early_ticks` were brought
    forward. `quarantines` are the failed rollouts that are not retried yet. `would` is the configuration
    after the decision, in shadow mode after all of them, be it written or not; empty if none is known.
    `correction` are the slowdowns of the variants, `is_late` says that too many of the last requests were
    late, `ended` is the change that ended in this tick. `trial` is the canary that starts or is measured.
    """

    pipeline: str
    tick: int
    control: PipelineControl
    phase: ActuationPhase
    history: tuple[Sample, ...] = ()
    observation: Observation | None = None
    forecast: Forecast | None = None
    plan: Plan | None = None
    decision: Decision | None = None
    next_tick_at: datetime | None = None
    tick_s: float = 0.0
    skipped_ticks: int = 0
    early_ticks: int = 0
    would: tuple[StageConfig, ...] = ()
    correction: Correction = UNCORRECTED
    is_late: bool = False
    ended: Actuation | None = None
    quarantines: tuple[FailedRollout, ...] = ()
    trial: CanaryTrial | None = None
    # The progress of a rollout that no loop follows, in words, and what is wrong with it.
    detail: str = ""
    problems: tuple[str, ...] = ()


def after_tick(
    before: Snapshot, request: TickRequest, effects: Effects, state: EngineState, tick_s: float
) -> Snapshot:
    """The snapshot after a tick that took `tick_s`; its history goes back `HISTORY_S`."""
    points = max(1, round(HISTORY_S / request.settings.tick_s))
    observation, decision, forecast = request.observation, effects.decision, effects.decision.forecast
    running, rate_rps = observation.running(), known(observation.arrival_rate_rps)
    prediction = request.predict(running, rate_rps) if running and rate_rps else None
    ended = decision.attainment
    newest = Sample(
        at=decision.at,
        rate_rps=rate_rps,
        forecast_rps=forecast.point_rps if forecast else None,
        forecast_upper_rps=forecast.upper_rps if forecast else None,
        latency_s=known(observation.latency_s),
        cores=total_cores(running) if running else None,
        pas=prediction.pas if prediction else None,
        reason=decision.reason.value,
        predicted_latency_s=prediction.latency_s if prediction and prediction.carries else None,
        beside=total(request.pipeline.bounds.beside(each) * each.replicas for each in running or ()),
        is_overload=prediction is not None and not prediction.carries,
        in_time_ratio=ended.in_time_ratio if ended else None,
        dropped_rps=ended.dropped_rps if ended else None,
        failed_rps=ended.failed_rps if ended else None,
        retried_rps=ended.retried_rps if ended else None,
        slo_broken=decision.slo_broken,
        busy=observation.busy(),
    )
    return replace(
        before,
        tick=state.tick,
        control=request.control,
        phase=state.actuation.phase,
        history=(*before.history, newest)[-points:],
        observation=request.observation,
        forecast=decision.forecast or before.forecast,
        plan=decision.plan or before.plan,
        decision=decision,
        tick_s=tick_s,
        would=state.shadow or effects.proposed or decision.configs,
        correction=state.correction,
        is_late=state.is_late,
        ended=state.ended,
        quarantines=tuple(failure for failure in state.failures if request.now_s < failure.until_s),
        trial=state.trial,
    )
