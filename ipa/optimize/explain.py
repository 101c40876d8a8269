"""Explain a plan: why it is the best, its binding limits, its alternatives, and its breakpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import isclose
from types import MappingProxyType

from ipa.model.errors import DeadlineError, InputError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, PlanSummary, Termination, cores_of, in_words
from ipa.optimize.breakpoints import PRECISION, flips_of
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import (
    Alternative,
    Binding,
    ElsewherePlan,
    Explanation,
    Remedy,
    StricterSla,
    differences,
    listed,
)
from ipa.optimize.kbest import Ranked, plans_of, ranking
from ipa.optimize.limits import NAMES, binding_of, limits_of, prices_of
from ipa.optimize.options import full_program
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.program import EQUAL, Program, Totals, evaluate
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve

# Number of alternatives shown.
ALTERNATIVES = 3
# Shares of the time: the alternatives, then of the rest the limits, of what is left the stricter SLA; the
# flips have what remains.
FOR_ALTERNATIVES, FOR_LIMITS, FOR_STRICTER = 0.3, 0.4, 0.3
# Of all of it, before the rest.
FOR_ELSEWHERE = 0.3

# A limit is named in the first sentence if the objective would gain this without it, relative above 1.
NOTABLE = 1e-3

NO_WIDER: Mapping[str, PlanningProblem] = MappingProxyType({})


def explain(
    problem: PlanningProblem,
    plan: Plan,
    deadline_s: float = 10.0,
    *,
    wider: Mapping[str, PlanningProblem] = NO_WIDER,
    elsewhere: Mapping[str, PlanningProblem | str] = NO_WIDER,
) -> Explanation:
    """Explain `plan` as the answer to `problem`, as far as time allows; `unfinished` lists missing parts.

    A plan with a configuration: the slack of every limit, the limits without which it would be better, the
    best plans of other variants, and its breakpoints. An infeasible one: the smallest moves of one limit that
    make it feasible. All of it is found by solving, exactly. `wider` holds problems without limits that
    shaped the operating points, by kind ("batch_sizes"), `elsewhere` those of other places to run at, or why
    one cannot carry the pipeline.

    Errors: InputError if the plan is not one of the problem.
    """
    deadline = Deadline(deadline_s)
    if elsewhere:
        others_there, untold = _elsewhere(plan, elsewhere, Deadline(deadline_s * FOR_ELSEWHERE))
        explained = explain(problem, plan, deadline.remaining_s, wider=wider)
        return replace(explained, elsewhere=others_there, unfinished=(*explained.unfinished, *untold))
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
    stricter, late = _stricter(problem, plan, Deadline(deadline.remaining_s * FOR_STRICTER))
    unsettled = (*unsettled, *late)
    if not plan.prices and ranked:
        plan = replace(plan, prices=plans_of(problem, ranked[:1], 0.0)[0].prices)
    explanation = Explanation(
        plan,
        _summary(problem, plan, binding, others),
        limits_of(problem, program, plan, totals),
        binding,
        prices_of(plan),
        others,
        stricter=stricter,
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


def _elsewhere(
    plan: Plan, elsewhere: Mapping[str, PlanningProblem | str], deadline: Deadline
) -> tuple[tuple[ElsewherePlan, ...], tuple[str, ...]]:
    """The best plan of each other place, by how much it differs; and what time did not allow."""
    found, late, now = [], [], plan.summary
    for place, problem in elsewhere.items():
        if isinstance(problem, str):
            found.append(ElsewherePlan(place, f"{place}: {problem}", None))
            continue
        try:
            if deadline.passed:
                raise DeadlineError("the time ran out")
            outcome = solve(problem, "exact", deadline.remaining_s, explain=False).summary
        except DeadlineError:
            late.append(f"the plan in {place}")
            continue
        if outcome is None:
            text = f"{place}: no plan is feasible"
        else:
            text = f"{place}: PAS {outcome.pas:.4f}, {cores_of(outcome.cost_cores)}"
            if now is not None:
                pas, cores = outcome.pas - now.pas, outcome.cost_cores - now.cost_cores
                text += f" (here {now.pas:.4f} and {now.cost_cores:g}: {pas:+.4f}, {cores:+g})"
        found.append(ElsewherePlan(place, text, outcome))
    return tuple(found), tuple(late)


def _stricter(
    problem: PlanningProblem, plan: Plan, deadline: Deadline
) -> tuple[StricterSla | None, tuple[str, ...]]:
    """The price of one more nine, None if latencies know no percentile; and what time did not allow."""
    if problem.compat is not Compat.TAIL:
        return None, ()
    percentile = round(100 - (100 - problem.percentile) / 10, 9)
    words = f"{percentile:g} % in time instead of {problem.percentile:g} %"
    try:
        if deadline.passed:
            raise DeadlineError("the time ran out")
        asked = replace(problem, percentile=percentile)
        outcome = solve(asked, "exact", deadline.remaining_s, explain=False).summary
    except DeadlineError:
        return None, (f"the plan with {words}",)
    if outcome is None:
        return StricterSla(percentile, f"{words}: no plan is feasible", None), ()
    now = plan.summary
    assert now is not None
    more, pas = outcome.cost_cores - now.cost_cores, outcome.pas - now.pas
    text = f"{words}: PAS {pas:+.4f}, cores {more:+g}" if (more, pas) != (0, 0) else f"{words}: nothing more"
    return StricterSla(percentile, text, outcome), ()


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
            # What the stages before send decides both.
            received = (float(options.items[at]), wanted.items), (float(options.mean_s[at]), wanted.mean_s)
            if same and all(isclose(one, other, rel_tol=1e-9) for one, other in received):
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
                raise DeadlineError("the time ran out")
            better = solve(move.problem, "exact", deadline.remaining_s, explain=False)
            outcome = better.summary
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


# A part of the objective below this share of the difference is not mentioned.
MATERIAL = 0.01


def ranked_variants(problem: PlanningProblem, count: int, deadline: Deadline) -> tuple[list[Ranked], bool]:
    """The best plans of the `count` best combinations of variants; False if time did not allow them all."""
    found: list[Ranked] = []
    try:
        found.extend(islice(ranking(problem, deadline, by_variant=True), count))
    except DeadlineError:
        return found, False
    return found, True


def alternatives_of(
    problem: PlanningProblem, plan: Plan, mine: Totals, ranked: Sequence[Ranked], most: int
) -> tuple[Alternative, ...]:
    """Up to `most` of the ranked plans whose variants are not those of the plan; `mine` are its totals."""
    variants = [stage.variant for stage in plan.stages]
    found: list[Alternative] = []
    for each, other in zip(ranked, plans_of(problem, ranked, 0.0), strict=True):
        outcome = other.summary
        if outcome is None or [stage.variant for stage in other.stages] == variants or len(found) == most:
            continue
        assert plan.objective is not None
        found.append(
            Alternative(
                outcome,
                outcome.objective - plan.objective,
                outcome.pas - mine.pas,
                outcome.cost_cores - mine.cost_cores,
                outcome.latency_s - mine.latency_s,
                tuple(
                    new.stage
                    for old, new in zip(plan.stages, other.stages, strict=True)
                    if new.variant != old.variant
                ),
                differences(plan.configs, other.configs),
                why(problem, mine, evaluate(each.program, each.chosen)),
            )
        )
    return tuple(found)


def why(problem: PlanningProblem, mine: Totals, other: Totals) -> str:
    """Explain why the other plan lost against mine."""
    goal = problem.objective.goal
    if goal is not Goal.WEIGHTED:
        return _why_in_order(goal, mine, other)
    parts = _parts(problem, mine, other)
    lost = -sum(worth for worth, _ in parts)
    if abs(lost) <= EQUAL * max(1.0, abs(mine.objective)):
        return _why_tied(mine, other)
    said = [(worth, text) for worth, text in parts if abs(worth) > MATERIAL * abs(lost)]
    better = [f"{text} (worth {worth:+.3g})" for worth, text in said if worth > 0]
    worse = [f"{text} (worth {worth:+.3g})" for worth, text in said if worth < 0]
    if better and worse:
        first, then = (better, worse) if lost > 0 else (worse, better)
        return f"{listed(first)}, but {listed(then)}"
    return listed(better or worse)


def _parts(problem: PlanningProblem, mine: Totals, other: Totals) -> list[tuple[float, str]]:
    """The parts of the difference in objective, with their names."""
    objective = problem.objective
    term, cores, batch = other.term - mine.term, other.cost_cores - mine.cost_cores, other.batch - mine.batch
    parts = [
        (objective.alpha * term, f"{'more' if term > 0 else 'less'} accurate"),
        (-objective.beta * cores, f"{abs(cores):.4g} {_cores(cores)} {'dearer' if cores > 0 else 'cheaper'}"),
        (-objective.delta * batch, f"{'larger' if batch > 0 else 'smaller'} batches"),
    ]
    rest = other.objective - mine.objective - sum(worth for worth, _ in parts)
    parts.append((rest, f"{'fewer' if rest > 0 else 'more'} cores started by the change"))
    return [(worth, text) for worth, text in parts if abs(worth) > EQUAL]


def _cores(number: float) -> str:
    return "core" if abs(number) == 1 else "cores"


def _why_in_order(goal: Goal, mine: Totals, other: Totals) -> str:
    """The criterion that decided."""
    term, cores, batch = other.term - mine.term, other.cost_cores - mine.cost_cores, other.batch - mine.batch
    accuracy = (term, f"{'less' if term < 0 else 'more'} accurate by {abs(term):.4g}")
    cost = (cores, f"{abs(cores):.4g} {_cores(cores)} {'dearer' if cores > 0 else 'cheaper'}")
    criteria = [accuracy, cost] if goal is Goal.LEXICOGRAPHIC else [cost, accuracy]
    criteria.append((batch, f"{'larger' if batch > 0 else 'smaller'} batches"))
    same = {0: "", 1: "equal in the first criterion, but ", 2: "equal in accuracy and cores, but "}
    for at, (change, text) in enumerate(criteria):
        if abs(change) > EQUAL * 10:
            return same[at] + text
    return _why_tied(mine, other)


def _why_tied(mine: Totals, other: Totals) -> str:
    for name, change in (
        ("changes more of what runs", other.changes - mine.changes),
        ("costs more", other.cost_cores - mine.cost_cores),
        ("is slower", other.latency_s - mine.latency_s),
    ):
        if change > EQUAL:
            return f"as good, but {name}"
        if change < -EQUAL:
            break
    return "as good, but later in the order of names"
