"""From a forecast to a verdict: compare the policy's plan with the running configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log

from ipa.control.counters import present_rps
from ipa.control.engine import quarantine
from ipa.control.engine.canary import CanaryTrial, proven_by, trial_of
from ipa.control.engine.correction import planned_with
from ipa.control.engine.guards import (
    bound_faults,
    disagreement,
    limit_steps,
    mode_objection,
    pin_faults,
    pins_of,
)
from ipa.control.engine.lateness import waiting_requests
from ipa.control.engine.state import EngineState, TickRequest, TickVerdict, hold
from ipa.control.engine.transition import (
    TransitionStep,
    as_served,
    beside_lost,
    changes,
    classify,
    lost_words,
    make_room,
    no_room,
    safe_step,
    serving_replicas,
    with_pins,
)
from ipa.control.engine.worth import (
    HORIZON_S,
    Candidate,
    Loads,
    Worth,
    loads_of,
    serving_s,
    weigh,
    what_stays,
)
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import IpaError
from ipa.model.observation import Forecast, Measured
from ipa.model.parts import Configs, is_shared, stage_pairs
from ipa.model.plan import Plan, Termination, in_words
from ipa.model.resources import NO_RESOURCES, Resources
from ipa.model.rolling import Rolling, change_peak, first_hop
from ipa.model.rounding import rounded_plan
from ipa.model.serving import wrong_rows
from ipa.policies.base import ANY_RATE_RPS, PolicyState, Prediction, is_at_once, lacking

# A plan must carry this much more to be worth a temporary loss of capacity.
WORTH_A_DIP = 1.1
# While requests are late, a plan must carry this much more.
MORE = 1.01
# The loads that are planned for, of those that plans are weighed by: rounded up to a grid, so that equal ones
# come again.
PLANNED, LEAST_RPS, GRID = (4, 6), 1e-3, 1.02
# A change that nothing can be added to while it rolls out costs so many times as much as one that is amended.
# Of 1 to 7, at 5 there are a third of the changes, as few requests late, and a tenth more cores.
FINAL_RATIO = 5.0
# What waits is to be served within this time.
DRAIN_S = 10.0


def choose(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    forecast: Forecast,
    late: str = "",
    passed: str = "",
) -> TickVerdict:
    """Apply the plan of the highest worth if it is worth more than the change to it costs.

    If requests are `late`, in words, no plan of less capacity is applied. If a canary `passed`, in words, the
    plan is applied as it is.
    """
    serving = serving_replicas(request.observation, running)
    now = request.predict(serving, ANY_RATE_RPS)
    is_wrong = bool(pin_faults(request.pipeline, running) or wrong_rows(request.pipeline, running))
    if now is None or is_wrong or passed or is_at_once(request.policy, running):
        return _at_once(request, state, running, serving, forecast, late, passed)
    loads = _loads(request, forecast)
    plans = _plans(request, state, serving, forecast, loads)
    if isinstance(plans, TickVerdict):
        return plans
    allowed_ratio = 1 - request.pipeline.sla.percentile / 100
    least_rps = now.capacity_rps * (1 - 1e-9) if late else 0.0
    stay, *rest = _weighed(request, serving, plans, now, loads, least_rps)
    best = max(rest, key=lambda each: each.gain - each.price, default=None)
    plan = best.candidate.plan if best is not None else plans[-1]
    assert plan is not None
    if best is None or best.gain + state.missed_gain <= best.price:
        words = "the running plan is the best" if best is None else _compared(state, stay, best)
        reason = ReasonCode.NO_CHANGE if best is None else ReasonCode.WITHIN_TOLERANCE
        short = _short_of(plans[-1], forecast)
        if short and stay.late_ratio > allowed_ratio:
            reason, words = ReasonCode.INFEASIBLE, f"{short}; {words}"
        elif late:
            reason, words = ReasonCode.SLO_BROKEN, f"{late}; {words}"
        held = hold(reason, words, plan=plan, forecast=forecast)
        return held if best is None else replace(held, gain=best.gain / HORIZON_S)
    is_more = best.candidate.prediction.capacity_rps > now.capacity_rps * (1 + 1e-9)
    objection = "" if is_more else disagreement(request.observation, now.sla_s)
    if objection and best.candidate.prediction.capacity_rps < now.capacity_rps * (1 - 1e-9):
        words = f"the plan would remove capacity, but {objection}"
        return hold(ReasonCode.SIGNALS_DISAGREE, words, plan=plan, forecast=forecast)
    return checked(
        request,
        state,
        running,
        plan=plan,
        forecast=forecast,
        urgent=is_more,
        reason=ReasonCode.RELIEVED if late and is_more else None,
        why="; ".join(filter(None, (late, _compared(state, stay, best)))),
    )


def _at_once(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    serving: Configs,
    forecast: Forecast,
    late: str,
    passed: str,
) -> TickVerdict:
    """The verdict to apply the policy's plan as it is."""
    plan = plan_for(request, state, serving, forecast)
    if isinstance(plan, TickVerdict):
        return replace(plan, detail="; ".join(filter(None, (passed, plan.detail))))
    if plan.configs == serving:
        reason = ReasonCode.SLO_BROKEN if late else ReasonCode.NO_CHANGE
        short = _short_of(plan, forecast)
        said = "; ".join(filter(None, (passed, late, "the running plan is the best")))
        return hold(ReasonCode.INFEASIBLE if short else reason, short or said, plan=plan, forecast=forecast)
    return checked(request, state, running, plan=plan, forecast=forecast, urgent=True, why=passed)


def _loads(request: TickRequest, forecast: Forecast) -> Loads:
    """The loads of the next seconds."""
    load, waiting = request.observation.load, waiting_requests(request.observation)
    present = present_rps(load.value) if isinstance(load, Measured) else 0.0
    return loads_of(forecast, present, waiting, request.pipeline.deadline_s)


def _plans(
    request: TickRequest, state: EngineState, serving: Configs, forecast: Forecast, loads: Loads
) -> list[Plan] | TickVerdict:
    """The policy's plans for some of the loads, for the highest last; a hold if it has none for any.

    If variants change in place, also those that start no replica, and if there is no room for one of them,
    those of one step.
    """
    rates = [float(rate) for rate in loads.rates_rps[list(PLANNED)]]
    if loads.waiting:
        # What waits is served within a while.
        rates.append(rates[-1] + loads.waiting / DRAIN_S)
    found: dict[Configs, Plan] = {}
    failed: list[TickVerdict] = []

    def add(asked: TickRequest, *, reachable: bool = False) -> None:
        for rate_rps in rates:
            rate = GRID ** ceil(log(max(rate_rps, LEAST_RPS)) / log(GRID))
            expected = replace(forecast, point_rps=rate, upper_rps=rate)
            plan = plan_for(asked, state, serving, expected, reachable=reachable)
            if isinstance(plan, TickVerdict):
                failed.append(plan)
            elif asked is request or not pin_faults(request.pipeline, plan.configs):
                found[plan.configs] = plan

    if request.rolling.amends and request.rolling.switches and not is_shared(serving):
        add(with_pins(request, [(old, old) for old in serving], is_in_place=True))
    add(request)
    if any(_has_no_room(request, serving, plan) for plan in found.values()):
        add(request, reachable=True)
    return list(found.values()) or failed[-1]


def _has_no_room(request: TickRequest, serving: Configs, plan: Plan) -> bool:
    """True if the plan takes several steps, since there is no room for old and new replicas together."""
    return lacking(serving, plan.configs, request.rolling, request.pipeline.bounds) != NO_RESOURCES


def _weighed(
    request: TickRequest,
    serving: Configs,
    plans: Sequence[Plan],
    now: Prediction,
    loads: Loads,
    least_rps: float = 0.0,
) -> list[Worth]:
    """The worth of the serving configuration, then of all others of the plans that carry `least_rps`."""
    pipeline, rolling = request.pipeline, request.rolling
    bounds, beta = pipeline.bounds, pipeline.objective(request.made_of.objective).beta

    def cost(resources: Resources) -> float:
        return beta * pipeline.prices.cost(resources)

    staying = cost(bounds.held(serving))
    candidates = [Candidate(now, now, staying, staying, 0.0)]
    for plan in plans:
        if plan.configs == serving:
            continue
        prediction = request.predict(plan.configs, ANY_RATE_RPS)
        meanwhile = request.predict(what_stays(serving, plan.configs, rolling), ANY_RATE_RPS)
        if prediction is None or meanwhile is None or prediction.capacity_rps < least_rps:
            continue
        peak = change_peak(serving, plan.configs, rolling, bounds)
        serves_s = serving_s(serving, plan.configs, rolling, prediction.readiness_s)
        # One step waits for the other.
        serves_s *= 2 if _has_no_room(request, serving, plan) else 1
        candidates.append(
            Candidate(prediction, meanwhile, cost(bounds.held(plan.configs)), cost(peak), serves_s, plan)
        )
    price_s = request.settings.change_price_s * (1.0 if rolling.amends else FINAL_RATIO)
    return weigh(candidates, loads, 1 - pipeline.sla.percentile / 100, price_s)


def _compared(state: EngineState, stay: Worth, best: Worth) -> str:
    """The candidate of the highest worth beside staying, in words."""
    plan = best.candidate.plan
    assert plan is not None
    late, after = (f"{100 * min(each.late_ratio, 1.0):.1f} %" for each in (stay, best))
    worth = f"worth {abs(best.gain):.3g} {'more' if best.gain > 0 else 'less'}"
    missed = f", that of the last minutes {state.missed_gain:.2g}" if state.missed_gain >= 0.01 else ""
    return (
        f"{late} of the requests of the next {HORIZON_S:g} s would be late, with {in_words(plan.configs)} "
        f"{after}: that is {worth}{missed}, a change costs {best.price:.2g}"
    )


def advantage(
    request: TickRequest, state: EngineState, serving: Configs, plan: Plan, forecast: Forecast
) -> str:
    """The advantage of a plan over staying, in words; empty if it is less than a change costs."""
    now = request.predict(serving, ANY_RATE_RPS)
    if now is None:
        return ""
    stay, *rest = _weighed(request, serving, [plan], now, _loads(request, forecast))
    return _compared(state, stay, rest[0]) if rest and rest[0].gain > rest[0].price else ""


def capacity_rps(plan: Plan) -> float:
    """The requests per second that the plan carries at its shares: the least over its stages."""
    return min(
        stage.replicas * stage.capacity_rps * plan.rate_rps / stage.rate_rps
        for stage in plan.stages
        if stage.share_percent
    )


def plan_for(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    forecast: Forecast,
    *,
    only_more: bool = False,
    reachable: bool = False,
    only_proven: bool = False,
    room_cores: float | None = None,
) -> Plan | TickVerdict:
    """The policy's plan; a hold if it has none.

    If `only_proven`, it needs no canary. `room_cores` are all that it may have.
    """
    excluded = quarantine.excluded(state.failures, running, request.now_s)
    canary, stages = request.pipeline.canary, request.pipeline.served
    if only_proven and canary is not None:
        known = frozenset((stage.name, variant.name) for stage in stages for variant in stage.variants)
        excluded |= known - proven_by(running, canary, state.proven)
    bounds = request.pipeline.bounds
    room = [quarantine.room_cores(state.failures, running, bounds, request.now_s), room_cores]
    slowdowns = state.correction.slowdowns(request.pipeline)
    policy_state = PolicyState(
        running,
        excluded,
        request.now_s,
        pins_of(request.control),
        only_more=only_more or request.control.mode is Mode.GUARDED,
        room_cores=min((each for each in room if each is not None), default=None),
        reachable=reachable,
        memory=state.memory,
        slowdowns=slowdowns,
    )
    try:
        plan = rounded_plan(request.policy.decide(request.observation, forecast, policy_state))
    except IpaError as error:
        return hold(ReasonCode.SOLVER_FAILED, str(error), forecast=forecast)
    if plan.termination is Termination.INFEASIBLE:
        reasons = "; ".join(plan.relaxations) or plan.note
        return hold(
            ReasonCode.INFEASIBLE, f"no plan meets the constraints: {reasons}", plan=plan, forecast=forecast
        )
    if not plan.stages:
        return hold(
            ReasonCode.SOLVER_FAILED, plan.note or "no plan was found in time", plan=plan, forecast=forecast
        )
    faults = [] if plan.configs == running else bound_faults(request.pipeline, plan.configs)
    if faults:
        words = f"policy {request.policy.name!r} planned outside the bounds: {'; '.join(faults)}"
        return hold(ReasonCode.SOLVER_FAILED, words, forecast=forecast)
    return plan


def checked(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    *,
    plan: Plan,
    forecast: Forecast,
    urgent: bool,
    reason: ReasonCode | None = None,
    why: str = "",
) -> TickVerdict:
    """The verdict to apply the first step to the plan, unless step, quarantine, bounds, room or mode object.

    `reason` overrides the reason of the kind of the change; `why` is said first.
    """
    canary, trial = request.pipeline.canary, None
    # Shadow mode runs none: nothing of it could be measured.
    if canary is not None and request.control.mode is not Mode.SHADOW:
        proven = proven_by(running, canary, state.proven)
        trial = trial_of(plan.configs, running, canary, proven, request.predict, plan.rate_rps)
    if trial is not None and urgent:
        # What is proven may help at once.
        other = plan_for(request, state, running, forecast, only_proven=True)
        now = request.predict(running, plan.rate_rps)
        if isinstance(other, Plan) and (now is None or capacity_rps(other) > now.capacity_rps * MORE):
            plan, trial = other, None
    step = _step_to(request, state, running, plan, trial)
    if trial is None and isinstance(step, TickVerdict) and step.reason is ReasonCode.NO_ROOM:
        plan, step = _within_reach(request, state, running, plan, forecast, step)
    if isinstance(step, TickVerdict):
        return replace(step, plan=plan, forecast=forecast)
    if trial is not None:
        reason = ReasonCode.CANARY
        why = f"a canary is measured first, then {changes(running, plan.configs)}"
    elif reason is None:
        reason = classify(running, step.configs, urgent) if state.planned else ReasonCode.FIRST_PLAN
    parts = [
        why,
        f"{forecast.upper_rps:.3g} rps expected within {forecast.horizon_s:g} s ({forecast.rung})",
        _short_of(plan, forecast),
        planned_with(plan),
        changes(running, step.configs),
    ]
    switches = [
        new.stage
        for old, new in stage_pairs(running, step.configs)
        if old and old.variant != new.variant and request.rolling.keeps_replicas(old, new)
    ]
    parts += [f"{', '.join(switches)} in place" if switches else "", step.later]
    detail = "; ".join(filter(None, parts))
    held = mode_objection(request.control.mode, running, step.configs)
    if held is not None:
        words = f"would {reason.value}: {detail}"
        return hold(held, words, plan=plan, forecast=forecast, proposed=step.configs)
    return TickVerdict(
        Action.APPLY,
        reason,
        detail,
        step.configs,
        plan,
        forecast,
        follow_up=step.follow_up,
        trial=None if trial is None else trial[0],
    )


def _step_to(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    plan: Plan,
    trial: tuple[CanaryTrial, Configs] | None = None,
) -> TransitionStep | TickVerdict:
    """The first step to the plan, or to its canary; a hold if there is none."""
    aim = _aim(request, state, running, plan)
    if isinstance(aim, TickVerdict):
        return aim
    if trial is not None:
        aim = trial[1]
        faults = bound_faults(request.pipeline, aim)
        if faults:
            return hold(ReasonCode.NO_ROOM, f"for a canary beside the running plan: {'; '.join(faults)}")
    if trial is not None and aim == running:
        words = "it is already running; its measurement begins"
        return replace(hold(ReasonCode.CANARY_MEASURED, words), trial=trial[0])
    if aim == running:
        limit = request.settings.max_step_replicas
        why = f"the limit of {limit} replicas per step allows no change"
        if lost_words(request.observation):
            why = "further replicas would be lost too, or the bounds allow none"
        return hold(ReasonCode.NO_CHANGE, why)

    def suffices(configs: Configs) -> bool:
        served = as_served(request.observation, request.rolling, configs)
        prediction = request.predict(served, plan.rate_rps)
        return prediction is not None and prediction.feasible

    def carries_as_much(configs: Configs) -> bool:
        before, after = (request.predict(each, plan.rate_rps) for each in (running, configs))
        return before is not None and after is not None and after.capacity_rps >= before.capacity_rps

    bounds = request.pipeline.bounds
    step = safe_step(running, aim, request.rolling, bounds, suffices, carries_as_much)
    if step.configs != running:
        return step
    lately = quarantine.crowded_words(state.failures, request.now_s)
    return hold(ReasonCode.NO_ROOM, "; ".join(filter(None, (no_room(step, running, aim), lately))))


def _within_reach(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    plan: Plan,
    forecast: Forecast,
    held: TickVerdict,
) -> tuple[Plan, TransitionStep | TickVerdict]:
    """The alternative to a plan without a first step: a reachable plan, a step that makes room, or a hold.

    The reachable plan is taken if it carries the load too, or at least more than the running configuration:
    room is made, at the price of capacity, only if no step carries more.
    """
    now = request.predict(running, plan.rate_rps)
    other = plan_for(request, state, running, forecast, reachable=True)
    second = held if isinstance(other, TickVerdict) else _step_to(request, state, running, other)
    reached = None if isinstance(other, TickVerdict) or isinstance(second, TickVerdict) else (other, second)
    if reached and reached[0].rate_rps >= plan.rate_rps * (1 - 1e-9):
        return reached
    if now is None:
        return plan, held
    if reached and capacity_rps(reached[0]) > now.capacity_rps:
        return reached
    return plan, _room_made(request, running, plan, now) or held


def _room_made(request: TickRequest, running: Configs, plan: Plan, now: Prediction) -> TransitionStep | None:
    """The step that makes room: the rest carries the present load, or the running configuration does not.

    None if there is no such step, or if the plan does not carry enough more to be worth the loss of capacity.
    """
    bounds = request.pipeline.bounds
    if not bounds.change_limits or now.carries or capacity_rps(plan) < now.capacity_rps * WORTH_A_DIP:
        return None
    enough = _as_much_as_now(running, plan, now, request.rolling)
    configs = make_room(running, enough, request.rolling, bounds)
    if configs == running or (_carries_now(request, running) and not _carries_now(request, configs)):
        return None
    step = TransitionStep(configs, f"then {changes(running, plan.configs)}")
    if is_shared(running) or is_shared(enough):
        return step
    after = tuple(
        old if new == old else replace(want, replicas=min(new.replicas, want.replicas))
        for old, new, want in zip(running, configs, enough, strict=True)
    )
    # What was removed is missed until its successor serves, so that comes next whatever the load is: else the
    # replicas would come back, and go again.
    if configs == after:
        return step
    # Of replicas that are kept until their successors serve, some may be too many then: the load decides.
    hops = tuple(
        new if old == new else first_hop(old, new, request.rolling)
        for old, new in zip(configs, after, strict=True)
    )
    return replace(step, follow_up=hops)


def _as_much_as_now(running: Configs, plan: Plan, now: Prediction, rolling: Rolling) -> Configs:
    """The plan's configurations, with no more replicas of a new variant than carry what the old ones do.

    Parts that share the load have no counterparts among the old ones: their configurations stay.
    """
    if is_shared(running) or is_shared(plan.configs):
        return plan.configs
    least = (
        ceil(old.replicas * each_rps / stage.capacity_rps - 1e-9)
        for old, each_rps, stage in zip(running, now.capacities_rps, plan.stages, strict=True)
    )
    return tuple(
        replace(want, replicas=min(want.replicas, max(1, replicas)))
        for want, replicas in zip(plan.configs, least, strict=True)
    )


def _carries_now(request: TickRequest, configs: Configs) -> bool:
    """True if the configuration carries the present load, not only the forecast one; False if unknown."""
    load = request.observation.load
    prediction = request.predict(configs, present_rps(load.value)) if isinstance(load, Measured) else None
    return prediction is not None and prediction.carries


def _aim(request: TickRequest, state: EngineState, running: Configs, plan: Plan) -> Configs | TickVerdict:
    """The plan's configurations within the step limit; a hold if they are not allowed."""
    bounds = request.pipeline.bounds
    beside = beside_lost(request.observation, request.pipeline, request.rolling, plan.configs)
    configs = limit_steps(beside, running, bounds, request.settings.max_step_replicas)
    objection = quarantine.barred(state.failures, running, request.now_s, configs)
    if objection:
        return hold(ReasonCode.QUARANTINED, objection)
    faults = [*bound_faults(request.pipeline, configs), *pin_faults(request.pipeline, plan.configs)]
    if faults:
        return hold(ReasonCode.SOLVER_FAILED, "; ".join(faults))
    return configs


def _short_of(plan: Plan, forecast: Forecast) -> str:
    """The plan's note if it carries less than the load to plan for or misses the SLA; else empty."""
    return plan.note if plan.is_late or plan.carried_rps < forecast.upper_rps * (1 - 1e-9) else ""
