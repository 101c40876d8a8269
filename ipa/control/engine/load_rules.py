"""What a tick comes to by what is seen of the load, and by what is not."""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine import quarantine
from ipa.control.engine.guards import Hold, forecast_fault, load_of
from ipa.control.engine.overload_guard import Crowd, crowds_of, more
from ipa.control.engine.overrides import held_back
from ipa.control.engine.plan_selection import changes, checked, choose, plan_for
from ipa.control.engine.state import EngineState, TickRequest, Verdict, hold
from ipa.control.engine.telemetry_loss import fallback_forecast
from ipa.control.engine.transition import safe_step
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import IpaError
from ipa.model.forecast import Forecast
from ipa.model.parts import is_shared
from ipa.model.pipeline import Fallback
from ipa.model.plan import StageConfig
from ipa.model.rounding import rounded_forecast
from ipa.policies.base import ANY_RATE_RPS

Configs = tuple[StageConfig, ...]


def on_load(request: TickRequest, state: EngineState, running: Configs) -> tuple[Verdict, EngineState]:
    """The verdict by the load, or by what else asks for more. Whoever was blind counts the ticks anew.

    In shadow mode it goes on from what its own decisions would have made of what runs.
    """
    is_shadow = request.control.mode is Mode.SHADOW
    basis = state.shadow or running if is_shadow else running
    forecast = _forecast(request)
    fallback = request.pipeline.fallback
    if isinstance(forecast, Hold):
        blindness = state.blindness.unseen(fallback) if state.counts(request) else state.blindness
        state = replace(state, lower=(), blindness=blindness)
        verdict = _blind(request, state, basis, forecast)
    else:
        blindness = state.blindness.seen(fallback) if state.counts(request) else state.blindness
        state = replace(state, blindness=blindness)
        if fallback is not None and state.blindness.in_fallback:
            forecast = fallback_forecast(fallback, forecast)
        verdict, state = choose(request, state, basis, forecast)
    if is_shadow:
        return verdict, replace(state, shadow=verdict.would or basis)
    return _heed(request, state, running, verdict)


def _forecast(request: TickRequest) -> Forecast | Hold:
    """The forecast of a load that can be trusted, or the hold where there is none."""
    load = load_of(request.observation, request.settings)
    if isinstance(load, Hold):
        return load
    try:
        forecast = request.forecaster(load.value)
    except IpaError as error:
        return Hold(ReasonCode.METRICS_INVALID, f"no forecast: {error}")
    return forecast_fault(forecast) or rounded_forecast(forecast)


def _blind(request: TickRequest, state: EngineState, running: Configs, why: Hold) -> Verdict:
    """The hold of a tick that did not see the load; in the fall-back, what its rate still needs."""
    fallback = request.pipeline.fallback
    if fallback is None or not state.blindness.in_fallback:
        return hold(why.reason, why.detail)
    verdict = _fall_back(request, state, running, fallback)
    if verdict.action is Action.APPLY or verdict.would:
        words = f"{why.detail}, {state.blindness.blind_ticks} ticks in a row; {verdict.detail}"
        return replace(verdict, detail=words)
    words = f"{why.detail}; the fall-back of {fallback.rate_rps:g} rps is in force"
    return hold(why.reason, words, plan=verdict.plan, forecast=verdict.forecast)


def _fall_back(request: TickRequest, state: EngineState, running: Configs, fallback: Fallback) -> Verdict:
    forecast = fallback_forecast(fallback)
    plan = plan_for(request, state, running, forecast, only_more=True)
    if isinstance(plan, Verdict):
        return plan
    return checked(
        request, state, running, plan=plan, forecast=forecast, urgent=True, reason=ReasonCode.FALLBACK
    )


def _heed(
    request: TickRequest, state: EngineState, running: Configs, verdict: Verdict
) -> tuple[Verdict, EngineState]:
    """The verdict, or more replicas where stages were crowded for long and it brings them none.

    Where the model knows that what runs does not carry the load, the plan sees to it; but where it came to
    know that by a slowdown, requests have piled up until then, which the plan knows nothing of.
    """
    knows = _knows(request, running, verdict)
    if knows and not (state.correction.slowdowns(request.pipeline) and verdict.action is Action.APPLY):
        return verdict, state
    crowds, state = _lasting(request, state, running)
    words = "; ".join(crowd.words for crowd in crowds)
    if not crowds:
        return verdict, state
    if knows:
        return _widened(request, state, running, verdict, crowds, words), state
    if verdict.action is Action.APPLY and _helps(request, running, verdict.configs, crowds):
        return verdict, state
    relief = _relief(request, state, running, crowds, words)
    if relief is None:
        return replace(verdict, detail=f"{verdict.detail}; {words}, and no more may be added"), state
    return replace(relief, plan=verdict.plan, forecast=verdict.forecast), replace(state, lower=())


def _lasting(
    request: TickRequest, state: EngineState, running: Configs
) -> tuple[tuple[Crowd, ...], EngineState]:
    """The crowded stages, once some were for long enough; the state counts these ticks."""
    known = request.predict(running, ANY_RATE_RPS)
    capacities = known.capacities_rps if known else ()
    sla_s = known.sla_s if known else request.pipeline.sla.latency_s
    crowds = crowds_of(request.observation, capacities, sla_s, request.settings)
    if not crowds:
        return (), replace(state, crowding=replace(state.crowding, ticks=0))
    ticks = state.crowding.ticks + state.counts(request)
    if ticks < request.settings.crowded_ticks:
        return (), replace(state, crowding=replace(state.crowding, ticks=ticks))
    crowding = state.crowding.acted(request.now_s, request.settings.crowded_hold_s)
    return crowds, replace(state, crowding=crowding)


def _knows(request: TickRequest, running: Configs, verdict: Verdict) -> bool:
    """Whether the model itself says that what runs does not carry the load: then the plan sees to it."""
    if verdict.forecast is None:
        return False
    plan = verdict.plan
    needed_rps = verdict.forecast.upper_rps if plan is None or plan.peak_rps is None else plan.rate_rps
    expected = request.predict(running, needed_rps)
    return expected is not None and not expected.carries


def _relief(
    request: TickRequest, state: EngineState, running: Configs, crowds: tuple[Crowd, ...], words: str
) -> Verdict | None:
    """The verdict to add replicas; None where bounds, room or a quarantine leave none to add."""
    configs = more(request.pipeline, running, crowds, request.settings)
    step = safe_step(running, configs, request.rolling, request.pipeline.bounds)
    if step.configs == running or quarantine.objection(state.failures, running, step.configs, request.now_s):
        return None
    detail = f"{words}: {changes(running, step.configs)}"
    held = held_back(request.control.mode, running, step.configs)
    if held is not None:
        return hold(held, f"would {ReasonCode.SATURATED.value}: {detail}", would=step.configs)
    return Verdict(Action.APPLY, ReasonCode.SATURATED, detail, step.configs)


def _widened(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    verdict: Verdict,
    crowds: tuple[Crowd, ...],
    words: str,
) -> Verdict:
    """The change with replicas for what has piled up, as far as bounds, room and quarantines allow."""
    configs = more(request.pipeline, verdict.configs, crowds, request.settings)
    step = safe_step(running, configs, request.rolling, request.pipeline.bounds)
    if configs == verdict.configs or step.configs != configs:
        return verdict
    if quarantine.objection(state.failures, running, configs, request.now_s):
        return verdict
    detail = f"{verdict.detail}; {words}, so more of it: {changes(verdict.configs, configs)}"
    return replace(verdict, configs=configs, detail=detail)


def _helps(request: TickRequest, running: Configs, configs: Configs, crowds: tuple[Crowd, ...]) -> bool:
    """Whether the change lets every crowded stage carry more; all together, where parts share the load."""
    before, after = (request.predict(each, ANY_RATE_RPS) for each in (running, configs))
    if before is None or after is None:
        return False
    if is_shared(running) or is_shared(configs):
        return after.capacity_rps > before.capacity_rps
    now, then = (
        [config.replicas * each_rps for config, each_rps in zip(configs, seen.capacities_rps, strict=True)]
        for configs, seen in ((running, before), (configs, after))
    )
    return all(then[crowd.place] > now[crowd.place] for crowd in crowds)
