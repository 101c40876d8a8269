"""The best plans with other variants, and why they lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import Alternative, differences, listed, outcome_of
from ipa.optimize.kbest import Ranked, plans_of, ranking
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL, Totals, evaluate

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
        outcome = outcome_of(other)
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
