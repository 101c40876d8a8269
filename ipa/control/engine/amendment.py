"""Amendments of the change in flight: what can be added to it at once while requests are late."""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine import quarantine
from ipa.control.engine.change_words import changes
from ipa.control.engine.feedback import lateness
from ipa.control.engine.guards import bound_faults
from ipa.control.engine.kept_replicas import keeps_all, with_kept
from ipa.control.engine.load_rules import forecast_of
from ipa.control.engine.overrides import held_back, pin_faults
from ipa.control.engine.plan_selection import MORE, plan_for
from ipa.control.engine.state import Configs, EngineState, TickRequest, TickVerdict
from ipa.control.engine.transition import lacking
from ipa.model.decision import Action, Change, ReasonCode
from ipa.model.forecast import Forecast
from ipa.model.parts import is_shared, stage_pairs
from ipa.model.plan import Plan
from ipa.model.resources import NO_RESOURCES

# What rolls out for longer than this part of its deadline is not added to: it may never be ready.
AMENDED_RATIO = 0.5


def amended(request: TickRequest, state: EngineState, running: Configs, held: TickVerdict) -> TickVerdict:
    """The verdict to add to the change in flight while requests are late; `held` if nothing may be added.

    It adds what keeps the replicas of that change: more of them, another batch size, another resident
    variant. The configuration before the change stays the one to return to.
    """
    change = state.actuation.change
    if change is None or not _may_be_added(request, state, change, running):
        return held
    forecast = forecast_of(request)
    if not isinstance(forecast, Forecast):
        return held
    held = replace(held, forecast=forecast)
    plan = _planned(request, state, change, running, forecast)
    if plan is None:
        return held
    configs = tuple(
        replace(new, replicas=max(old.replicas, new.replicas))
        for old, new in zip(running, plan.configs, strict=True)
    )
    if not _is_more(request, running, configs, plan.rate_rps) or _faults(request, state, change, configs):
        return held
    late = lateness(request.observation, request.pipeline)
    words = f"{late}; added to the change that rolls out: {changes(running, configs)}"
    return TickVerdict(Action.APPLY, ReasonCode.AMENDED, words, configs, plan, forecast, amends=True)


def _may_be_added(request: TickRequest, state: EngineState, change: Change, running: Configs) -> bool:
    """True if requests are late, and the change is the loop's own and may still become ready."""
    if change.is_rollback or running != change.configs or is_shared(running) or not request.rolling.amends:
        return False
    is_young = request.now_s - state.actuation.started_s < AMENDED_RATIO * request.settings.rollout_deadline_s
    return state.feedback.is_broken and is_young and state.counts(request)


def _planned(
    request: TickRequest, state: EngineState, change: Change, running: Configs, forecast: Forecast
) -> Plan | None:
    """The policy's plan that keeps what the change started; None if it has none."""
    asked = with_kept(request, stage_pairs(change.previous, running))
    plan = plan_for(asked, state, running, forecast, reachable=True)
    return plan if isinstance(plan, Plan) and keeps_all(request.rolling, running, plan.configs) else None


def _is_more(request: TickRequest, running: Configs, configs: Configs, rate_rps: float) -> bool:
    """True if it carries more than the change in flight."""
    before, after = (request.predict(each, rate_rps) for each in (running, configs))
    return before is not None and after is not None and after.capacity_rps > before.capacity_rps * MORE


def _faults(request: TickRequest, state: EngineState, change: Change, configs: Configs) -> bool:
    """True if bounds, pins, a quarantine or the mode forbid it, or there is no room beside what runs."""
    pipeline, previous = request.pipeline, change.previous
    return bool(
        lacking(previous, configs, request.rolling, pipeline.bounds) != NO_RESOURCES
        or bound_faults(pipeline, configs)
        or pin_faults(pipeline, configs)
        or quarantine.objection(state.failures, previous, configs, request.now_s)
        or held_back(request.control.mode, change.configs, configs)
    )
