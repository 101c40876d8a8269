"""The rules of the load: decide from its forecast, hold if it is missing, add to a change that rolls out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ipa.control.engine import quarantine
from ipa.control.engine.canary import CanaryTrial, beside, without
from ipa.control.engine.guards import (
    GuardSettings,
    bound_faults,
    mode_objection,
    pin_faults,
)
from ipa.control.engine.lateness import lateness
from ipa.control.engine.observe import sane
from ipa.control.engine.plan_selection import MORE, advantage, capacity_rps, checked, choose, plan_for
from ipa.control.engine.state import EngineState, TickRequest, TickVerdict, hold
from ipa.control.engine.transition import changes, keeps_all, safe_step, with_pins
from ipa.model.decision import Action, Change, Mode, ReasonCode
from ipa.model.errors import IpaError, PluginError
from ipa.model.observation import Forecast, LoadHistory, Measured, Missing, MissingReason, Observation
from ipa.model.parts import Configs, in_order, is_shared, parts_of, stage_pairs
from ipa.model.pipeline import Fallback
from ipa.model.plan import Plan
from ipa.model.resources import NO_RESOURCES
from ipa.model.rounding import rounded_forecast
from ipa.policies.base import ANY_RATE_RPS, lacking

# The holds for a value that is there; for any other METRICS_MISSING.
REASONS = {
    MissingReason.STALE: ReasonCode.METRICS_STALE,
    MissingReason.INVALID: ReasonCode.METRICS_INVALID,
}


def telemetry_lost(request: TickRequest, state: EngineState) -> tuple[TickVerdict | None, EngineState]:
    """Hold if the load is missing or has no forecast.

    After several such ticks in a row the verdict adds the capacity that the declared fall-back rate needs.
    """
    forecast, fallback = forecast_of(request), request.pipeline.fallback
    if state.counts(request):
        loss, is_blind = state.telemetry_loss, isinstance(forecast, TickVerdict)
        loss = loss.without_load(fallback) if is_blind else loss.with_load(fallback)
        state = replace(state, telemetry_loss=loss)
    if not isinstance(forecast, TickVerdict):
        return None, state
    basis = _basis(request, state)
    verdict = _blind(request, state, basis, forecast)
    return verdict, _shadowed(request, state, basis, verdict)


def planned(request: TickRequest, state: EngineState, passed: str = "") -> tuple[TickVerdict, EngineState]:
    """Apply the policy's plan for the forecast load, or hold if the running configuration is as good.

    While requests are late, only a plan of more capacity. After a canary that `passed`, in words, without
    waiting.
    """
    late = lateness(request.observation, request.pipeline) if state.is_late else ""
    forecast, fallback = forecast_of(request), request.pipeline.fallback
    assert isinstance(forecast, Forecast)
    if fallback is not None and state.telemetry_loss.in_fallback:
        forecast = fallback_forecast(fallback, forecast)
    basis = _basis(request, state)
    try:
        verdict = choose(request, state, basis, forecast, late, passed)
    except PluginError as error:
        # The policy made a plan, and failed to say how urgent it is.
        verdict = hold(ReasonCode.SOLVER_FAILED, str(error), forecast=forecast)
    return verdict, _shadowed(request, state, basis, verdict)


def carries_forecast(request: TickRequest, configs: Configs) -> bool:
    """True if the configuration carries the load to plan for in time."""
    forecast = forecast_of(request)
    if isinstance(forecast, TickVerdict):
        return False
    prediction = request.predict(configs, forecast.upper_rps)
    return prediction is not None and prediction.feasible


def beside_trial(request: TickRequest, state: EngineState, trial: CanaryTrial, words: str) -> TickVerdict:
    """The hold that waits for the canary; the change to more capacity of the others if the load needs it.

    They are planned without unproven variants, in the room that the canary leaves.
    """
    forecast, pipeline, running = forecast_of(request), request.pipeline, request.running
    assert isinstance(forecast, Forecast)
    held = hold(ReasonCode.CANARY_MEASURED, words, forecast=forecast)
    if not state.is_late and carries_forecast(request, running):
        return held
    base, limit = without(trial, running), pipeline.bounds.cores
    room_cores = None if limit is None else limit - pipeline.bounds.held(trial.canary).cpu_cores
    plan = plan_for(request, state, base, forecast, only_proven=True, room_cores=room_cores)
    now = request.predict(base, ANY_RATE_RPS)
    if isinstance(plan, TickVerdict) or now is None or capacity_rps(plan) <= now.capacity_rps * MORE:
        return held
    canary = in_order([part for part in parts_of(running) if trial.of(part)])
    configs = beside(plan.configs, canary)
    step = safe_step(running, configs, request.rolling, pipeline.bounds)
    if step.configs == running or bound_faults(pipeline, configs):
        return held
    blocked = mode_objection(request.control.mode, running, step.configs)
    if blocked is not None:
        return replace(held, reason=blocked)
    detail = f"{words}; the others need more: {changes(running, step.configs)}"
    return TickVerdict(
        Action.APPLY,
        ReasonCode.SCALE_UP,
        detail,
        step.configs,
        plan,
        forecast,
        follow_up=step.follow_up,
    )


def _basis(request: TickRequest, state: EngineState) -> Configs:
    """The configuration to decide from: in shadow mode that of its own decisions, else the running one."""
    shadow = state.shadow if request.control.mode is Mode.SHADOW else None
    return shadow or request.running


def _shadowed(request: TickRequest, state: EngineState, basis: Configs, verdict: TickVerdict) -> EngineState:
    """The state with the configuration that shadow mode would run by now."""
    if request.control.mode is not Mode.SHADOW:
        return state
    return replace(state, shadow=verdict.proposed or basis)


def forecast_of(request: TickRequest) -> Forecast | TickVerdict:
    """The forecast of a valid load, or the hold if there is none."""
    load = _valid_load(request.observation, request.settings)
    if isinstance(load, TickVerdict):
        return load
    try:
        forecast = request.forecaster(load.value)
    except IpaError as error:
        return hold(ReasonCode.METRICS_INVALID, f"no forecast: {error}")
    if sane(forecast.point_rps) and sane(forecast.upper_rps):
        return rounded_forecast(forecast)
    rates = f"point {forecast.point_rps}, upper {forecast.upper_rps} rps"
    return hold(ReasonCode.METRICS_INVALID, f"the forecast of {forecast.rung} is invalid: {rates}")


def _valid_load(observation: Observation, settings: GuardSettings) -> Measured[LoadHistory] | TickVerdict:
    """The load to plan for; a hold if the load or the present rate is missing, stale or invalid."""
    limit = f"the limit is {settings.stale_after_s:g} s"
    signals: tuple[tuple[str, Measured[Any] | Missing], ...] = (
        ("the arrival rate", observation.arrival_rate_rps),
        ("the load", observation.load),
    )
    for name, value in signals:
        if isinstance(value, Missing):
            cause = f": {value.detail}" if value.detail else ""
            reason = REASONS.get(value.reason, ReasonCode.METRICS_MISSING)
            return hold(reason, f"{name} is {value.reason.value}{cause}")
        if value.age_s > settings.stale_after_s:
            return hold(ReasonCode.METRICS_STALE, f"{name} is {value.age_s:.0f} s old, {limit}")
    load = observation.load
    assert isinstance(load, Measured)
    blind_s = load.age_s + trailing_gap_s(load.value)
    if blind_s > settings.stale_after_s:
        words = f"the newest rate of the load is {blind_s:.0f} s old, {limit}"
        return hold(ReasonCode.METRICS_STALE, words)
    return load


def trailing_gap_s(load: LoadHistory) -> float:
    """The length of the gap at the end of the load, in seconds."""
    known = (at for at, rate in enumerate(reversed(load.rates_rps)) if rate is not None)
    return next(known, len(load.rates_rps)) * load.step_s


def _blind(request: TickRequest, state: EngineState, running: Configs, why: TickVerdict) -> TickVerdict:
    """The hold of a tick without load; in the fall-back, the change to the capacity that its rate needs."""
    fallback = request.pipeline.fallback
    if fallback is None or not state.telemetry_loss.in_fallback:
        return why
    forecast = fallback_forecast(fallback)
    plan = plan_for(request, state, running, forecast, only_more=True)
    if isinstance(plan, TickVerdict):
        verdict = plan
    else:
        verdict = checked(
            request, state, running, plan=plan, forecast=forecast, urgent=True, reason=ReasonCode.FALLBACK
        )
    if verdict.action is Action.APPLY or verdict.proposed:
        words = f"{why.detail} for {state.telemetry_loss.blind_ticks} ticks in a row; {verdict.detail}"
        return replace(verdict, detail=words)
    words = f"{why.detail}; the plan is for the fallback rate of {fallback.rate_rps:g} rps"
    return hold(why.reason, words, plan=verdict.plan, forecast=verdict.forecast)


def fallback_forecast(fallback: Fallback, observed: Forecast | None = None) -> Forecast:
    """The forecast of the fall-back: its declared rate, or the observed one if that is higher."""
    if observed is None:
        return Forecast(fallback.rate_rps, fallback.rate_rps, 1.0, 0.0, "fall-back", 0.0)
    rates_rps = tuple(max(rate, fallback.rate_rps) for rate in observed.rates_rps)
    return replace(observed, upper_rps=max(observed.upper_rps, fallback.rate_rps), rates_rps=rates_rps)


# What rolls out for longer than this part of its deadline is not added to: it may never be ready.
AMENDED_RATIO = 0.5


def amended(request: TickRequest, state: EngineState, running: Configs, held: TickVerdict) -> TickVerdict:
    """The verdict to add to the change in flight what is worth more than it costs; `held` for nothing.

    It adds what keeps the replicas of that change: more of them, another batch size, another resident
    variant. The configuration before the change stays the one to return to.
    """
    change = state.actuation.change
    if change is None or change.is_rollback or running != change.configs or is_shared(running):
        return held
    within_s = AMENDED_RATIO * request.settings.rollout_deadline_s
    if not request.rolling.amends or request.now_s - state.actuation.started_s >= within_s:
        return held
    forecast = forecast_of(request)
    if not isinstance(forecast, Forecast):
        return held
    held = replace(held, forecast=forecast)
    # It keeps what the change started.
    keeping = with_pins(request, stage_pairs(change.previous, running))
    plan = plan_for(keeping, state, running, forecast, reachable=True)
    if not isinstance(plan, Plan) or not keeps_all(request.rolling, running, plan.configs):
        return held
    stages = (
        replace(stage, replicas=max(old.replicas, stage.replicas))
        for old, stage in zip(running, plan.stages, strict=True)
    )
    more = replace(plan, stages=tuple(stages))
    configs = more.configs
    why = advantage(request, state, running, more, forecast)
    if not why or _faults(request, state, change, configs):
        return held
    words = f"{why}; added to the change that rolls out: {changes(running, configs)}"
    return TickVerdict(Action.APPLY, ReasonCode.AMENDED, words, configs, plan, forecast, amends=True)


def _faults(request: TickRequest, state: EngineState, change: Change, configs: Configs) -> bool:
    """True if bounds, pins, a quarantine or the mode forbid it, or `previous` leaves no room for it."""
    pipeline, previous = request.pipeline, change.previous
    return bool(
        lacking(previous, configs, request.rolling, pipeline.bounds) != NO_RESOURCES
        or bound_faults(pipeline, configs)
        or pin_faults(pipeline, configs)
        or quarantine.barred(state.failures, previous, request.now_s, configs)
        or mode_objection(request.control.mode, change.configs, configs)
    )
