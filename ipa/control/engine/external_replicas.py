"""Stages whose replicas another controller decides: plans with those that run, and what we would run.

That controller may change their number at any moment, also while a change of ours rolls out. It is therefore
never remembered: each tick takes it from the observation, and what earlier ticks left is brought up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.control.engine.guards import HoldReason
from ipa.control.engine.load_rules import forecast_of
from ipa.control.engine.lost_replicas import serving
from ipa.control.engine.overload_guard import overloaded_stages, with_more_replicas
from ipa.control.engine.overrides import stop_of
from ipa.control.engine.plan_selection import plan_for
from ipa.control.engine.state import Configs, EngineState, TickRequest, TickVerdict
from ipa.control.engine.telemetry_loss import fallback_forecast
from ipa.model.decision import Change
from ipa.model.external import replicas_of, with_replicas_of
from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Pipeline, ReplicaOwner
from ipa.policies.base import ANY_RATE_RPS


def adopted(request: TickRequest, state: EngineState) -> tuple[TickRequest, EngineState]:
    """The request and the state with the replicas that run now, in stages where we do not decide them.

    A row of smaller plans ends if that number has changed: they were made for another.
    """
    external, running = request.rolling.external, request.observation.running()
    if not external or running is None:
        return request, state
    seen: Configs = running

    def now(configs: Configs) -> Configs:
        return with_replicas_of(external, configs, seen)

    last, actuation, goal = state.last_applied, state.actuation, state.goal
    if last is not None and now(last) != last:
        state = state.without_pending()
    state = replace(
        state,
        last_applied=None if last is None else now(last),
        shadow=None if state.shadow is None else now(state.shadow),
        goal=None if goal is None else replace(goal, configs=now(goal.configs)),
        actuation=replace(actuation, change=_adopted(actuation.change, external, seen)),
    )
    asked = request.requested
    if asked is None or now(asked.configs) == asked.configs:
        return request, state
    kept = ", ".join(name for name in external if name in {config.stage for config in asked.configs})
    words = f"{asked.detail} (another controller decides the replicas of {kept}, which stay)"
    return replace(request, requested=replace(asked, configs=now(asked.configs), detail=words)), state


def _adopted(change: Change | None, external: tuple[str, ...], running: Configs) -> Change | None:
    if change is None:
        return None
    return replace(
        change,
        previous=with_replicas_of(external, change.previous, running),
        configs=with_replicas_of(external, change.configs, running),
        amends=_adopted(change.amends, external, running),
    )


def desired(request: TickRequest, state: EngineState) -> Mapping[str, int]:
    """The replicas that we would run of stages whose number another controller decides, by stage.

    It is that of the best plan in which it is free, and more while the stage is overloaded. While no plan can
    be made, and while people stopped the pipeline, it stays: a number that vanished or fell to zero for want
    of metrics would scale the stage down at its peak. Before the first plan it is what runs.
    """
    external, running = request.rolling.external, request.observation.running()
    if not external or running is None:
        return state.desired
    before = {**replicas_of(running, external), **state.desired}
    if stop_of(request.control, request.at) is not None:
        return before
    found = _planned(request, state, running)
    if found is None:
        return before
    if state.overload.holds(request.now_s):
        found = {stage: max(count, before[stage]) for stage, count in found.items()}
    relief = _relief(request, state, running)
    return {stage: max(count, relief.get(stage, 0)) for stage, count in found.items()}


def _planned(request: TickRequest, state: EngineState, running: Configs) -> dict[str, int] | None:
    """The replicas of the best plan in which they are free; None if there is no plan."""
    forecast, fallback = forecast_of(request), request.pipeline.fallback
    is_blind = isinstance(forecast, HoldReason)
    if fallback is not None and state.telemetry_loss.in_fallback:
        forecast = fallback_forecast(fallback, None if isinstance(forecast, HoldReason) else forecast)
    if not isinstance(forecast, Forecast):
        return None
    basis = serving(request.observation, running)
    plan = plan_for(request, state, basis, forecast, only_more=is_blind, frees_external=True)
    return None if isinstance(plan, TickVerdict) else replicas_of(plan.configs, request.rolling.external)


def _relief(request: TickRequest, state: EngineState, running: Configs) -> dict[str, int]:
    """The replicas that stages overloaded for several ticks need by what is observed, whatever the model."""
    if state.overload.ticks < request.settings.crowded_ticks:
        return {}
    known = request.predict(running, ANY_RATE_RPS)
    if known is None:
        return {}
    overloads = overloaded_stages(request.observation, known.capacities_rps, known.sla_s, request.settings)
    more = with_more_replicas(_planned_throughout(request.pipeline), running, overloads, request.settings)
    external = [each.stage for each in overloads if each.stage in request.rolling.external]
    return replicas_of(more, external)


def _planned_throughout(pipeline: Pipeline) -> Pipeline:
    stages = tuple(replace(stage, replicas=ReplicaOwner.PLANNED) for stage in pipeline.stages)
    return replace(pipeline, stages=stages)


def words(observation: Observation, desired: Mapping[str, int]) -> str:
    """The stages of which we would run another number of replicas than run; empty if there are none."""
    running = {config.stage: config.replicas for config in observation.running() or ()}
    return "; ".join(
        f"{count} replicas of {stage} would be best, but its own controller runs {running[stage]}"
        for stage, count in desired.items()
        if stage in running and running[stage] != count
    )
