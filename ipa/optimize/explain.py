"""Explain a plan: why it is the best, its binding limits, and its alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ipa.model.errors import DeadlineError, InputError
from ipa.model.plan import Plan, PlanSummary, Termination, in_words
from ipa.optimize.backends import label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import reduce_program, without_hopeless
from ipa.optimize.explanation import (
    Alternative,
    Binding,
    Explanation,
    Remedy,
    differences,
    listed,
)
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL
from ipa.optimize.relaxations import limit_name, limits_of, relaxations
from ipa.optimize.solve import proved_plan
from ipa.optimize.solver_selection import PROVED

# Number of alternatives shown.
ALTERNATIVES = 3
# The share of the time for the alternatives; the limits have what remains.
FOR_ALTERNATIVES = 0.4

# A limit is named in the first sentence if the objective would gain this without it, relative above 1.
NOTABLE = 1e-3


def explain(problem: PlanningProblem, plan: Plan, deadline_s: float = 10.0) -> Explanation:
    """Explain `plan` as the answer to `problem`, as far as time allows; `unfinished` lists missing parts.

    A plan with a configuration: the limits without which it would be better, and the best plans of other
    variants. An infeasible one: the smallest moves of one limit that make it feasible. All of it is found by
    solving, exactly.

    Errors: InputError if the plan is not one of the problem.
    """
    deadline = Deadline(deadline_s)
    if plan.termination is Termination.INFEASIBLE:
        return _infeasible(problem, plan, deadline)
    if not plan.stages:
        return Explanation(plan, "no plan was found in time", unfinished=("all of it",))
    if describe(problem, plan.configs) is None:
        raise InputError(f"the plan runs {in_words(plan.configs)}, which the problem does not have")
    others, complete = _alternatives(problem, plan, Deadline(deadline_s * FOR_ALTERNATIVES))
    unfinished = [] if complete else [f"the {ALTERNATIVES} best alternatives of other variants"]
    binding, unsettled = _binding(problem, plan, deadline)
    return Explanation(
        plan,
        _summary(plan, binding, others),
        tuple(binding),
        tuple(others),
        unfinished=(*unfinished, *unsettled),
        binding_complete=not unsettled,
        alternatives_complete=complete,
    )


def _infeasible(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> Explanation:
    moves = relaxations(problem, deadline)
    remedies, unfinished = [], []
    for move in moves:
        outcome: PlanSummary | None = None
        try:
            outcome = proved_plan(move.problem, deadline).summary
        except DeadlineError:
            unfinished.append(f"the best plan with {move.text}")
        remedies.append(Remedy(move.kind, move.value, move.text, outcome))
    if deadline.passed:
        unfinished.append("perhaps more that would make it feasible")
    summary = "no plan meets the limits; " + (
        f"the least that would help, each alone: {'; '.join(move.text for move in moves)}"
        if moves
        else "no single limit moved alone makes it feasible"
    )
    return Explanation(plan, summary, remedies=tuple(remedies), unfinished=tuple(unfinished))


def _summary(plan: Plan, binding: Sequence[Binding], others: Sequence[Alternative]) -> str:
    assert plan.objective is not None
    chosen = in_words(plan.configs)
    if plan.termination is Termination.OPTIMAL:
        text = f"{chosen} has the highest objective ({plan.objective:.6g}) of all plans within the limits"
    else:
        text = f"{chosen} is the best plan that was found in time"
    notable = [each for each in binding if each.gain >= NOTABLE * max(1.0, abs(plan.objective))]
    if notable:
        held = dict.fromkeys(limit_name(each.kind, each.where) for each in notable)
        text += f"; {listed(list(held))} {'hold' if len(held) > 1 else 'holds'} it back"
    if others:
        behind = -others[0].objective_change
        distance = f"{behind:.3g} behind" if behind > 1e-9 else "as good in that"
        text += f"; the best of other variants is {distance}"
    return text


def _alternatives(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> tuple[list[Alternative], bool]:
    """The best of the plans with another variant at a stage; False if time did not allow all.

    For each variant that does not run the best plan with it: the first of these is the best plan of all other
    combinations of variants.
    """
    fitting = without_hopeless(full_program(problem))
    found: dict[tuple[str, ...], Plan] = {}
    running = {stage.stage: stage.variant for stage in plan.stages}
    for at, (stage, options) in enumerate(zip(problem.stages, fitting.stages, strict=True)):
        names = () if stage.is_free else stage.columns.variants
        for number, name in enumerate(names):
            own = np.flatnonzero(stage.columns.variant[options.point] == number)
            if name == running[stage.name] or not len(own):
                continue
            stages = (*fitting.stages[:at], options.take(own), *fitting.stages[at + 1 :])
            reduced = reduce_program(replace(fitting, stages=stages))
            answer = label_setting.solve(reduced, deadline)
            if deadline.passed or answer.termination not in PROVED:
                return [], False
            if answer.chosen:
                second = plan_of(problem, reduced, "exact", answer)
                key = tuple(planned.variant for planned in second.stages)
                found.setdefault(key, second)
    best = sorted(found.values(), key=lambda each: -round(each.objective or 0.0, 9))
    return [_alternative(plan, each) for each in best[:ALTERNATIVES]], True


def _alternative(plan: Plan, other: Plan) -> Alternative:
    mine, outcome = plan.summary, other.summary
    assert mine is not None and outcome is not None
    return Alternative(
        outcome,
        outcome.objective - mine.objective,
        outcome.pas - mine.pas,
        outcome.cost_cores - mine.cost_cores,
        outcome.latency_s - mine.latency_s,
        differences(plan.configs, other.configs),
    )


def _binding(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> tuple[list[Binding], list[str]]:
    """The limits without which a better plan exists, largest gain first, and those not settled in time.

    Each is removed alone and the problem solved again.
    """
    found, unsettled = [], []
    for limit in limits_of(problem):
        name = limit_name(limit.kind, limit.where)
        try:
            better = proved_plan(limit.free, deadline)
        except DeadlineError:
            unsettled.append(f"what the plan would be without {name}")
            continue
        outcome = better.summary
        if outcome is None or plan.objective is None:
            continue
        gain = outcome.objective - plan.objective
        if gain <= 10 * EQUAL * max(1.0, abs(plan.objective)):
            continue
        changes = "; ".join(differences(plan.configs, outcome.configs))
        text = f"without {name}: objective {gain:+.4g} ({changes})"
        found.append(Binding(limit.kind, limit.where, gain, outcome, text))
    return sorted(found, key=lambda each: -each.gain), unsettled
