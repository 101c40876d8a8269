"""The criteria for the best plan: one weighted sum, or one criterion after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ipa.model.pipeline import Goal
from ipa.model.plan import Termination
from ipa.optimize.dominance_filter import reduce_program
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, Totals, Weights, evaluate

ACCURACY, COST, BATCHES = Weights(1.0, 0.0, 0.0), Weights(0.0, 1.0, 0.0), Weights(0.0, 0.0, 1.0)

ORDERS: dict[Goal, tuple[Weights, ...]] = {
    Goal.LEXICOGRAPHIC: (ACCURACY, COST, BATCHES),
    Goal.CHEAPEST: (COST, ACCURACY, BATCHES),
}


def reach(
    full: Program, goal: Goal, solve: Callable[[Program], ProgramAnswer]
) -> tuple[Program, ProgramAnswer]:
    """Solve by the goal: the program last solved, reduced, and its answer. `full` has all options.

    Criteria after the first are optimised only among plans that are as good in those before (less rounding);
    if a later one is not settled in time, the plan so far is feasible.
    """
    if goal is Goal.WEIGHTED:
        reduced = reduce_program(full)
        return reduced, solve(reduced)
    limited = full
    kept: tuple[Program, ProgramAnswer] | None = None
    for weights in ORDERS[goal]:
        reduced = reduce_program(limited.weighed(weights))
        found = solve(reduced)
        if not found.chosen:
            # A later criterion can be infeasible only by rounding or for lack of time.
            return kept if kept is not None else (reduced, found)
        kept = reduced, found
        if found.termination is not Termination.OPTIMAL:
            break
        limited = _limited(limited, weights, evaluate(reduced, found.chosen))
    assert kept is not None
    return kept


def _limited(program: Program, weights: Weights, totals: Totals) -> Program:
    """The program with the reached value as a limit."""
    if weights is ACCURACY:
        return replace(program, term_floor=totals.term - EQUAL * max(1.0, abs(totals.term)))
    if weights is COST and program.is_priced:
        return replace(program, max_price=min(program.max_price, totals.cost))
    if weights is COST:
        return replace(program, max_cost=min(program.max_cost, totals.cost_cores))
    return replace(program, max_batch=totals.batch)
