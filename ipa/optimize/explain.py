"""Explain a plan: why it is the best, its binding limits, its alternatives, and its breakpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isclose
from types import MappingProxyType

from ipa.model.errors import DeadlineError, InputError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, Termination, in_words
from ipa.optimize.alternatives import alternatives_of, ranked_variants
from ipa.optimize.breakpoints import PRECISION, flips_of
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import (
    Alternative,
    Binding,
    Explanation,
    PlanSummary,
    Remedy,
    listed,
    outcome_of,
)
from ipa.optimize.kbest import plans_of
from ipa.optimize.limits import NAMES, binding_of, limits_of, prices_of
from ipa.optimize.options import full_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Program, evaluate
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve

# Number of alternatives shown.
ALTERNATIVES = 3
# Shares of the time: the alternatives, then of the rest the limits; the flips have what remains.
FOR_ALTERNATIVES, FOR_LIMITS = 0.3, 0.4

# A limit is named in the first sentence if the objective would gain this without it, relative above 1.
NOTABLE = 1e-3

NO_WIDER: Mapping[str, PlanningProblem] = MappingProxyType({})


def explain(
    problem: PlanningProblem,
    plan: Plan,
    deadline_s: float = 10.0,
    *,
    wider: Mapping[str, PlanningProblem] = NO_WIDER,
) -> Explanation:
    """Explain `plan` as the answer to `problem`, as far as time allows; `unfinished` lists missing parts.

    A plan with a configuration: the slack of every limit, the limits without which it would be better, the
    best plans of other variants, and its breakpoints. An infeasible one: the smallest moves of one limit that
    make it feasible. All of it is found by solving, exactly. `wider` holds problems without limits that
    shaped the operating points, by kind ("batch_sizes").

    Errors: InputError if the plan is not one of the problem.
    """
    deadline = Deadline(deadline_s)
    if plan.termination is Termination.INFEASIBLE:
        return _infeasible(problem, plan, deadline)
    if not plan.stages:
        return Explanation(plan, "no plan was found in time", unfinished=("all of it",))
    program = full_program(problem)
    totals = evaluate(program, chosen_of(problem, program, plan))
    ranked, complete = ranked_variants(problem, ALTERNATIVES + 1, Deadline(deadline_s * FOR_ALTERNATIVES))
    unfinished = [] if complete else [f"the {ALTERNATIVES} best alternatives of other variants"]
    others = alternatives_of(problem, plan, totals, ranked, ALTERNATIVES)
    binding, unsettled = binding_of(problem, plan, wider, Deadline(deadline.remaining_s * FOR_LIMITS))
    if not plan.prices and ranked:
        plan = replace(plan, prices=plans_of(problem, ranked[:1], 0.0)[0].prices)
    explanation = Explanation(
        plan,
        _summary(problem, plan, binding, others),
        limits_of(problem, program, plan, totals),
        binding,
        prices_of(plan),
        others,
        precision_ratio=PRECISION,
        binding_complete=not unsettled,
        alternatives_complete=complete,
    )
    unfinished += unsettled
    if plan.termination is not Termination.OPTIMAL:
        unfinished.append("where the plan changes: it is not proved best itself")
        return replace(explanation, unfinished=tuple(unfinished))
    found = flips_of(problem, plan, totals.peak_cores, deadline)
    return replace(
        explanation,
        flips=found.flips,
        unchanged=found.unchanged,
        unfinished=(*unfinished, *found.unfinished),
    )


def chosen_of(problem: PlanningProblem, program: Program, plan: Plan) -> tuple[int, ...]:
    """The plan's options in the full `program`; InputError if there are none."""
    planned = {stage.stage: stage for stage in plan.stages}
    chosen = []
    for stage, options in zip(problem.stages, program.stages, strict=True):
        wanted = planned.get(stage.name)
        for at in range(len(options)):
            point = int(options.point[at])
            if wanted is None:
                if point < 0:
                    break
                continue
            if int(options.replicas[at]) != wanted.replicas or point < 0:
                continue
            mine = stage.points[point]
            same = (mine.variant, mine.batch_size, mine.cores) == (
                wanted.variant,
                wanted.batch_size,
                wanted.cores,
            )
            if same and isclose(float(options.items[at]), wanted.items, rel_tol=1e-9):
                break
        else:
            config = "nothing" if wanted is None else str(wanted.config)
            raise InputError(
                f"the plan runs {config} at stage {stage.name!r}, which the problem does not allow"
            )
        chosen.append(at)
    return tuple(chosen)


def _infeasible(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> Explanation:
    moves = relaxations(problem, deadline)
    remedies, unfinished = [], []
    for move in moves:
        outcome: PlanSummary | None = None
        try:
            if deadline.passed:
                raise DeadlineError("the time is up")
            better = solve(move.problem, "exact", deadline.remaining_s, explain=False)
            outcome = outcome_of(better)
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


WORTH = {
    Goal.WEIGHTED: "has the highest objective ({:.6g}) of all plans within the limits",
    Goal.LEXICOGRAPHIC: "is the most accurate ({:.4g}) of all plans within the limits",
    Goal.CHEAPEST: "takes the fewest cores ({:.4g}) of all plans within the limits",
}


def _summary(
    problem: PlanningProblem, plan: Plan, binding: tuple[Binding, ...], others: tuple[Alternative, ...]
) -> str:
    goal = problem.objective.goal
    assert plan.objective is not None
    chosen = in_words(plan.configs)
    if plan.termination is Termination.OPTIMAL:
        text = f"{chosen} {WORTH[goal].format(-plan.objective if goal is Goal.CHEAPEST else plan.objective)}"
    else:
        text = f"{chosen} is the best plan that was found in time"
    notable = [each for each in binding if each.gain >= NOTABLE * max(1.0, abs(plan.objective))]
    if notable:
        held = dict.fromkeys(
            NAMES[each.kind] + (f" of {each.where}" if each.where else "") for each in notable
        )
        text += f"; {listed(list(held))} {'hold' if len(held) > 1 else 'holds'} it back"
    if others:
        behind = -others[0].objective_change
        unit = {Goal.WEIGHTED: "", Goal.LEXICOGRAPHIC: " of accuracy", Goal.CHEAPEST: " cores"}[goal]
        distance = f"{behind:.3g}{unit} behind" if behind > 1e-9 else "as good in that"
        text += f"; the best of other variants is {distance}"
    return text
