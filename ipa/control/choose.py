"""From a forecast to a verdict: the policy's plan against what runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.control import quarantine
from ipa.control.guards import bound_faults, limit_steps, total_cores
from ipa.control.stabiliser import remember, ripe
from ipa.control.state import EngineState, TickRequest, Verdict, hold
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import IpaError
from ipa.model.forecast import Forecast
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.policies.base import PolicyState, Prediction

Configs = tuple[StageConfig, ...]


def choose(
    request: TickRequest, state: EngineState, running: Configs, forecast: Forecast
) -> tuple[Verdict, EngineState]:
    """Apply the plan at once where what runs does not carry the rate; else only a better one, and slowly."""
    reset = replace(state, lower=())
    plan = _plan(request, state, running, forecast)
    if isinstance(plan, Verdict):
        return plan, reset
    short = plan.note if plan.rate_rps < forecast.upper_rps * (1 - 1e-9) else ""
    if plan.configs == running:
        return _kept(ReasonCode.NO_CHANGE, "the best plan runs", short, plan, forecast), reset
    now = request.predict(running, plan.rate_rps)
    urgent = now is None or _urgent(plan, now)
    if now is not None and not urgent:
        gain_ratio = _gain_ratio(plan, now)
        if now.feasible and gain_ratio < request.settings.tolerance_ratio:
            words = f"another plan is better by {max(gain_ratio, 0):.1%} only"
            return _kept(ReasonCode.WITHIN_TOLERANCE, words, short, plan, forecast), reset
        ticks = request.settings.down_after_ticks
        state = replace(state, lower=remember(state.lower, plan, ticks))
        settled_on = ripe(state.lower, ticks)
        if settled_on is None:
            words = f"not needed now, better for {len(state.lower)} of {ticks} ticks: {_words(plan.configs)}"
            return hold(ReasonCode.STABILISING, words, plan=plan, forecast=forecast), state
        plan = settled_on
    return _checked(request, state, running, plan=plan, forecast=forecast, urgent=urgent), state


def classify(running: Sequence[StageConfig], configs: Sequence[StageConfig], urgent: bool) -> ReasonCode:
    """What kind of change this is: the variant counts before the size, the size before the batch."""
    now = {config.stage: config for config in running}
    pairs = [(now.get(config.stage), config) for config in configs]
    if any(old is None or old.variant != new.variant for old, new in pairs):
        return ReasonCode.SWITCH_VARIANT
    if all(old and (old.cores, old.replicas) == (new.cores, new.replicas) for old, new in pairs):
        return ReasonCode.REBATCH
    grown = total_cores(configs) - total_cores(running)
    up = urgent if abs(grown) < 1e-9 else grown > 0
    return ReasonCode.SCALE_UP if up else ReasonCode.SCALE_DOWN


def capacity_rps(plan: Plan) -> float:
    """Requests a second the whole plan can carry: the least over its stages."""
    return min(stage.replicas * stage.capacity_rps * plan.rate_rps / stage.rate_rps for stage in plan.stages)


def _plan(request: TickRequest, state: EngineState, running: Configs, forecast: Forecast) -> Plan | Verdict:
    """The policy's plan, or the hold where it has none."""
    banned = quarantine.excluded(state.failures, running, request.now_s)
    try:
        plan = request.policy.decide(
            request.observation, forecast, PolicyState(running, banned, request.now_s)
        )
    except IpaError as error:
        return hold(ReasonCode.SOLVER_FAILED, str(error), forecast=forecast)
    if plan.termination is Termination.INFEASIBLE:
        said = "; ".join(plan.relaxations) or plan.note
        return hold(
            ReasonCode.INFEASIBLE, f"no plan meets the constraints: {said}", plan=plan, forecast=forecast
        )
    if not plan.stages:
        return hold(
            ReasonCode.SOLVER_FAILED, plan.note or "no plan was found in time", plan=plan, forecast=forecast
        )
    return plan


def _checked(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    *,
    plan: Plan,
    forecast: Forecast,
    urgent: bool,
) -> Verdict:
    """The verdict to apply, unless steps, quarantine, bounds or advisory mode say otherwise."""
    bounds = request.pipeline.bounds
    configs = limit_steps(plan.configs, running, bounds, request.settings.max_step_replicas)
    objection = quarantine.objection(state.failures, running, configs, request.now_s)
    if objection:
        return hold(ReasonCode.QUARANTINED, objection, plan=plan, forecast=forecast)
    faults = bound_faults(request.pipeline, configs)
    if faults:
        return hold(ReasonCode.SOLVER_FAILED, "; ".join(faults), plan=plan, forecast=forecast)
    if configs == running:
        return hold(ReasonCode.NO_CHANGE, "the step limit allows no change", plan=plan, forecast=forecast)
    reason = classify(running, configs, urgent) if state.planned else ReasonCode.FIRST_PLAN
    detail = _why(plan, forecast) + changes(running, configs)
    if request.control.mode is Mode.ADVISORY:
        return hold(ReasonCode.ADVISORY, f"would {reason.value}: {detail}", plan=plan, forecast=forecast)
    return Verdict(Action.APPLY, reason, detail, configs, plan, forecast)


def _kept(reason: ReasonCode, words: str, short: str, plan: Plan, forecast: Forecast) -> Verdict:
    """The hold of what runs; under more load than can be carried that is what it says."""
    return hold(ReasonCode.INFEASIBLE if short else reason, short or words, plan=plan, forecast=forecast)


def _urgent(plan: Plan, now: Prediction) -> bool:
    """What runs lacks throughput; or it misses the SLA and the plan has no less throughput.

    A plan with less waits all the same: a falling rate stretches the forming of batches, and following it at
    once would flap.
    """
    return not now.carries or (not now.feasible and capacity_rps(plan) >= now.capacity_rps)


def _gain_ratio(plan: Plan, now: Prediction) -> float:
    assert plan.objective is not None
    scale = max(abs(plan.objective), abs(now.objective), 1e-9)
    return (plan.objective - now.objective) / scale


def _why(plan: Plan, forecast: Forecast) -> str:
    expected = f"{forecast.upper_rps:.3g} rps expected within {forecast.horizon_s:g} s ({forecast.rung}); "
    return expected + (f"{plan.note}; " if plan.rate_rps < forecast.upper_rps * (1 - 1e-9) else "")


def changes(running: Sequence[StageConfig], configs: Sequence[StageConfig]) -> str:
    """What changes, stage by stage, in words."""
    now = {config.stage: config for config in running}
    return ", ".join(
        f"{now.get(config.stage, 'nothing')} → {config}"
        for config in configs
        if now.get(config.stage) != config
    )


def _words(configs: Sequence[StageConfig]) -> str:
    return ", ".join(str(config) for config in configs)
