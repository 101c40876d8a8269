"""From a forecast to a verdict: compare the policy's plan with the running configuration."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from ipa.control.engine import quarantine
from ipa.control.engine.canary import CanaryTrial, proven_by, trial_of
from ipa.control.engine.correction import planned_with
from ipa.control.engine.feedback import loaded, present_rps
from ipa.control.engine.guards import (
    bound_faults,
    disagreement,
    limit_steps,
    mode_objection,
    pin_faults,
    pins_of,
    total_cores,
)
from ipa.control.engine.stabiliser import CHANGE_S, STARTS_S
from ipa.control.engine.state import EngineState, TickRequest, TickVerdict, hold
from ipa.control.engine.transition import (
    TransitionStep,
    as_served,
    beside_lost,
    changes,
    classify,
    keeps_all,
    lost_words,
    make_room,
    no_room,
    safe_step,
    serving_replicas,
    with_pins,
)
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import IpaError
from ipa.model.observation import Forecast
from ipa.model.parts import Configs, is_shared, only_shares, stage_pairs
from ipa.model.plan import Plan, Termination, in_words
from ipa.model.resources import CORES, words_of
from ipa.model.rolling import Rolling, first_hop
from ipa.model.rounding import rounded_plan
from ipa.model.serving import wrong_rows
from ipa.policies.base import PolicyState, Prediction, is_at_once

# A plan must carry this much more to be worth a temporary loss of capacity.
WORTH_A_DIP = 1.1
# While requests wait, a plan that starts replicas must be better by this ratio than one that starts none; if
# none carries the load, it must carry this much more.
WORTH_NEW_REPLICAS_RATIO, CARRIES_MORE = 0.1, 1.25
# While requests are late, a plan must carry this much more.
MORE = 1.01
# If no plan meets the SLA, a configuration slower than the plan by this ratio is changed at once.
LATER = 1.05
# A smaller gain is counted as this.
LEAST_GAIN_RATIO = 1e-3


def choose(
    request: TickRequest, state: EngineState, running: Configs, forecast: Forecast, late: str = ""
) -> tuple[TickVerdict, EngineState]:
    """Apply the plan at once if the running configuration does not carry the rate.

    Else apply it only if it stays better for several ticks. If requests are `late`, in words, a plan of more
    capacity is applied at once, and no other.
    """
    reset = state.without_row()
    serving = serving_replicas(request.observation, running)
    plan = plan_for(request, state, serving, forecast)
    if isinstance(plan, TickVerdict):
        return plan, reset
    now = request.predict(serving, plan.rate_rps)
    lacks = now is not None and _urgent(plan, now)
    carries = lacks and not late and state.feedback.carried_rps >= plan.carried_rps
    urgent = now is None or (lacks and not carries) or bool(pin_faults(request.pipeline, running))
    is_unstabilised = is_at_once(request.policy, running)
    urgent = urgent or is_unstabilised or bool(wrong_rows(request.pipeline, running))
    is_needed = lacks or bool(late)
    # Each write may replace what counts the load: until its rates are new, replicas are kept.
    is_bridged = bool(request.observation.bridged_s)
    if (is_bridged or request.rolling.switches_at_once) and (is_needed or not is_unstabilised):
        steady = _steadier(request, state, serving, forecast, plan)
        # Without need what can be had in place comes first; then what other replicas are worth.
        plan = steady if is_needed or is_bridged or steady.configs != serving else plan
    if late and (not urgent or plan.configs == serving):
        verdict = _while_late(request, state, running, plan, forecast, now, late)
        return verdict, _damped(request, reset, running, verdict, urgent=True)
    carries = carries and not urgent
    held = _no_better(request, state, serving, plan, forecast, None if urgent else now, carries=carries)
    if held is not None:
        return held, reset
    # If no pod starts or stops, waiting has no benefit.
    moves_requests = only_shares(running, plan.configs)
    if now is not None and not urgent and not moves_requests:
        plan, state, waits = _weighed(request, state, running, plan, now)
        if waits:
            more = total_cores(plan.configs) - total_cores(running)
            gain = f"{more:+g} {words_of(CORES, abs(more))}, PAS {(plan.pas or 0.0) - now.pas:+.2g}"
            words = f"another plan ({gain}) must stay better {waits}: {in_words(plan.configs)}"
            return hold(ReasonCode.STABILISING, words, plan=plan, forecast=forecast), state
        is_less = capacity_rps(plan) < now.capacity_rps * (1 - 1e-9)
        objection = disagreement(request.observation, now.sla_s) if is_less else ""
        if objection:
            words = f"the plan would remove capacity, but {objection}"
            return hold(ReasonCode.SIGNALS_DISAGREE, words, plan=plan, forecast=forecast), reset
    verdict = checked(request, state, running, plan=plan, forecast=forecast, urgent=urgent)
    return verdict, _damped(request, state, running, verdict, urgent=urgent)


def _damped(
    request: TickRequest, state: EngineState, running: Configs, verdict: TickVerdict, *, urgent: bool
) -> EngineState:
    """The state that knows of a smaller plan, or of a larger one that may take it back.

    Replicas that are only more or fewer come and go with the load: that replaces none.
    """
    if verdict.action is not Action.APPLY or verdict.plan is None:
        return state
    if keeps_all(request.rolling, running, verdict.plan.configs):
        return state
    known, now_s = state.damping, request.now_s
    return replace(
        state, damping=known.grown(verdict.plan.rate_rps, now_s) if urgent else known.shrunk(now_s)
    )


def wanted(request: TickRequest, state: EngineState, forecast: Forecast) -> Forecast:
    """The load to plan for: the forecast as the requests in time correct it, and what waits."""
    is_slow = bool(state.correction.slowdowns(request.pipeline))
    is_quick = request.rolling.switches_at_once
    return loaded(forecast, state.feedback, request.observation, is_slow=is_slow, is_quick=is_quick)


def _steadier(
    request: TickRequest, state: EngineState, running: Configs, forecast: Forecast, plan: Plan
) -> Plan:
    """The best plan that starts no replica, else that replaces none; `plan` if those are much worse.

    Until a replica is ready it takes the processor from those that serve.
    """
    if is_shared(running) or is_shared(plan.configs):
        return plan
    same = [(old, old) for old in running]
    for is_in_place in (True, False):
        if keeps_all(request.rolling, running, plan.configs, is_in_place=is_in_place):
            return plan
        keeping = with_pins(request, same, is_in_place=is_in_place)
        steady = plan_for(keeping, state, running, forecast)
        if isinstance(steady, TickVerdict) or steady.is_late or pin_faults(request.pipeline, steady.configs):
            continue
        if not keeps_all(request.rolling, running, steady.configs, is_in_place=is_in_place):
            continue
        if _is_nearly_as_good(steady, plan, wanted(request, state, forecast).upper_rps):
            return steady
    return plan


def _is_nearly_as_good(steady: Plan, plan: Plan, load_rps: float) -> bool:
    """True if waiting for `plan` would not be worth it."""
    if plan.carried_rps < load_rps * (1 - 1e-9):
        # Neither carries all.
        return steady.carried_rps * CARRIES_MORE >= plan.carried_rps
    if steady.carried_rps < plan.carried_rps * (1 - 1e-9):
        return False
    assert steady.objective is not None
    return _gain_ratio(plan, steady.objective) < WORTH_NEW_REPLICAS_RATIO


def _weighed(
    request: TickRequest, state: EngineState, running: Configs, plan: Plan, now: Prediction
) -> tuple[Plan, EngineState, str]:
    """The plan that has paid for the change to it, and the state that knows of this tick.

    Without one the newest plan, and what it waits for, in words.
    """
    settings, row = request.settings, state.row
    if state.counts(request) or not row.plans:
        row = row.longer(plan)
    state = replace(state, row=row)
    waits = ""
    for since, each in reversed(row.plans):
        ticks, gain_ratio = row.ticks - since, _gain_ratio(each, now.objective)
        needed, must_rps = _ticks_to_pay(request, state, running, each, gain_ratio)
        is_better = gain_ratio >= settings.tolerance_ratio or settings.down_after_ticks <= 1
        if ticks >= needed and not must_rps and (is_better or not now.feasible):
            return each, state, ""
        carrying = f"and carry {must_rps:.3g} rps too, for which the last one was too small"
        waits = waits or (carrying if must_rps else f"for {_part_of(ticks, needed, settings.tick_s)}")
    return plan, state, waits


def _ticks_to_pay(
    request: TickRequest, state: EngineState, running: Configs, plan: Plan, gain_ratio: float
) -> tuple[int, float]:
    """The ticks in which the plan gains what the change costs, and a rate that it does not carry and must."""
    ticks, tick_s = request.settings.down_after_ticks, request.settings.tick_s
    if ticks <= 1:
        return ticks, 0.0
    is_in_place = keeps_all(request.rolling, running, plan.configs, is_in_place=True)
    # More if it starts replicas that it could keep.
    cost_s = CHANGE_S if is_in_place or not request.rolling.switches_at_once else STARTS_S
    must_rps = 0.0
    if not keeps_all(request.rolling, running, plan.configs):
        cost_s *= state.damping.cost_ratio(plan, request.now_s)
        must_rps = state.damping.must_carry_rps(plan, request.now_s)
        at_peak = request.predict(plan.configs, must_rps) if must_rps > plan.rate_rps else None
        if at_peak is None or at_peak.feasible:
            must_rps = 0.0
    least_ratio = max(gain_ratio, request.settings.tolerance_ratio, LEAST_GAIN_RATIO)
    return max(ticks, ceil(cost_s / (least_ratio * tick_s))), must_rps


def _part_of(passed: int, whole: int, tick_s: float) -> str:
    """Ticks and the part of them that has passed, as times in one unit: `30 min, 2 of them have passed`."""
    unit_s, unit = (60.0, "min") if whole * tick_s >= 120 else (1.0, "s")
    return f"{whole * tick_s / unit_s:.3g} {unit}, {passed * tick_s / unit_s:.2g} of them have passed"


def _while_late(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    plan: Plan,
    forecast: Forecast,
    now: Prediction | None,
    late: str,
) -> TickVerdict:
    """The verdict to apply a plan of more capacity; a hold if this one has no more."""
    serving = serving_replicas(request.observation, running)
    if plan.configs != serving and now is not None and capacity_rps(plan) > now.capacity_rps * MORE:
        reason = ReasonCode.RELIEVED
        return checked(
            request, state, running, plan=plan, forecast=forecast, urgent=True, reason=reason, why=late
        )
    words = f"{late}; no plan for {plan.rate_rps:.3g} rps with more capacity is better"
    return _keep_running(request, state, ReasonCode.SLO_BROKEN, words, plan, forecast)


def _no_better(
    request: TickRequest,
    state: EngineState,
    running: Configs,
    plan: Plan,
    forecast: Forecast,
    now: Prediction | None,
    *,
    carries: bool,
) -> TickVerdict | None:
    """The hold if the running plan is as good up to the tolerance; `now` is None if it certainly is not.

    `carries`: it has carried the load of the plan, though the model says that it cannot.
    """
    if plan.configs == running:
        words = "the running plan is the best"
        return _keep_running(request, state, ReasonCode.NO_CHANGE, words, plan, forecast)
    if carries and total_cores(plan.configs) >= total_cores(running):
        words = f"the running plan has carried {state.feedback.carried_rps:.3g} rps in time"
        return _keep_running(request, state, ReasonCode.NO_CHANGE, words, plan, forecast)
    gain_ratio = _gain_ratio(plan, now.objective) if now is not None and now.feasible else None
    if gain_ratio is None or gain_ratio >= request.settings.tolerance_ratio:
        return None
    tolerated = f"the tolerance is {request.settings.tolerance_ratio:.1%}"
    words = f"another plan is only {max(gain_ratio, 0):.1%} better, {tolerated}"
    return _keep_running(request, state, ReasonCode.WITHIN_TOLERANCE, words, plan, forecast)


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
    if only_proven:
        excluded |= _unproven(request, state, running)
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
        expected = wanted(request, state, forecast)
        plan = rounded_plan(request.policy.decide(request.observation, expected, policy_state))
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


def _unproven(request: TickRequest, state: EngineState, running: Configs) -> frozenset[tuple[str, str]]:
    """The variants that need a canary; none without one."""
    canary, stages = request.pipeline.canary, request.pipeline.served
    if canary is None:
        return frozenset()
    known = frozenset((stage.name, variant.name) for stage in stages for variant in stage.variants)
    return known - proven_by(running, canary, state.proven)


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
    trial = trial_for(request, state, running, plan)
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
        _short_of(request, state, plan, forecast),
        planned_with(plan),
        changes(running, step.configs),
    ]
    pairs = stage_pairs(running, step.configs)
    switches = [new.stage for old, new in pairs if old and request.rolling.is_switch(old, new)]
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


def trial_for(
    request: TickRequest, state: EngineState, running: Configs, plan: Plan
) -> tuple[CanaryTrial, Configs] | None:
    """The canary that the plan needs first, and the configuration with it; None if it needs none.

    Shadow mode runs none: nothing of it could be measured.
    """
    canary = request.pipeline.canary
    if canary is None or request.control.mode is Mode.SHADOW:
        return None
    proven = proven_by(running, canary, state.proven)
    return trial_of(plan.configs, running, canary, proven, request.predict, plan.rate_rps)


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
    return step if step.configs != running else hold(ReasonCode.NO_ROOM, no_room(step, running, aim))


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
    rate_rps = present_rps(request.observation)
    prediction = None if rate_rps is None else request.predict(configs, rate_rps)
    return prediction is not None and prediction.carries


def _aim(request: TickRequest, state: EngineState, running: Configs, plan: Plan) -> Configs | TickVerdict:
    """The plan's configurations within the step limit; a hold if they are not allowed."""
    bounds = request.pipeline.bounds
    beside = beside_lost(request.observation, request.pipeline, request.rolling, plan.configs)
    configs = limit_steps(beside, running, bounds, request.settings.max_step_replicas)
    objection = quarantine.objection(state.failures, running, configs, request.now_s)
    if objection:
        return hold(ReasonCode.QUARANTINED, objection)
    faults = [*bound_faults(request.pipeline, configs), *pin_faults(request.pipeline, plan.configs)]
    if faults:
        return hold(ReasonCode.SOLVER_FAILED, "; ".join(faults))
    return configs


def _keep_running(
    request: TickRequest, state: EngineState, reason: ReasonCode, words: str, plan: Plan, forecast: Forecast
) -> TickVerdict:
    """The hold that keeps the running configuration; INFEASIBLE if that does not carry the load."""
    short = _short_of(request, state, plan, forecast)
    return hold(ReasonCode.INFEASIBLE if short else reason, short or words, plan=plan, forecast=forecast)


def _urgent(plan: Plan, now: Prediction) -> bool:
    """True if the running configuration lacks throughput, or misses the SLA and the plan has no less of it.

    A plan with less throughput waits: a falling rate makes batches form more slowly, and following it at once
    would flap. If no plan meets the SLA, a configuration that is much slower than the plan counts as missing
    it.
    """
    misses = now.latency_s > plan.latency_s * LATER if plan.is_late and plan.latency_s else not now.feasible
    return not now.carries or (misses and capacity_rps(plan) >= now.capacity_rps)


def _gain_ratio(plan: Plan, objective: float) -> float:
    """The gain of the plan over another objective, relative to the larger of the two."""
    assert plan.objective is not None
    scale = max(abs(plan.objective), abs(objective), 1e-9)
    return (plan.objective - objective) / scale


def _short_of(request: TickRequest, state: EngineState, plan: Plan, forecast: Forecast) -> str:
    """The plan's note if it carries less than the load to plan for or misses the SLA; else empty."""
    load_rps = wanted(request, state, forecast).upper_rps
    return plan.note if plan.is_late or plan.carried_rps < load_rps * (1 - 1e-9) else ""
