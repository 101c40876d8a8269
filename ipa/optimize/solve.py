"""From a problem to a plan: build, solve, check."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np

from ipa.model.errors import UsageError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, Termination
from ipa.optimize.backends.answer import Answer
from ipa.optimize.bounding import Bounding
from ipa.optimize.bymilp import Solvers
from ipa.optimize.deadline import Deadline
from ipa.optimize.engine import AUTO, BACKENDS, SOLVERS, Warm, answer
from ipa.optimize.goals import reach
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of, released_note
from ipa.optimize.problem import Compat, Problem
from ipa.optimize.program import Program, fits
from ipa.optimize.relaxations import relaxations
from ipa.optimize.verify import verify

__all__ = ["AUTO", "BACKENDS", "SOLVERS", "solve"]


def solve(
    problem: Problem,
    solver: str = AUTO,
    deadline_s: float = 5.0,
    *,
    explain: bool = True,
    start: Plan | None = None,
    solvers: Solvers | None = None,
) -> Plan:
    """The best plan for the problem, checked by `verify`.

    Of plans with equal objectives it is the one of the fewest changes to what runs, then of the lowest cost,
    then the lowest latency, then the first by names, whichever solver is used. `auto` takes Gurobi where its
    licence covers the model, else HiGHS; should that not be done in half of the time, label setting has the
    other half; the note says which and why. An infeasible problem gives a plan that says so, with what would
    make it feasible unless `explain` is false. `start`, the plan for a problem like this one, speeds label
    setting up; it changes no answer. `solvers` gives MILP solvers by name, such as those in a process of
    their own that is killed where it does not keep to its limit: `auto` then goes on with label setting.

    Errors: UsageError (no such solver), LicenceError (Gurobi asked for by name and refused), SolverError,
    DeadlineError (a solver asked for by name had to be stopped).
    """
    if solver not in SOLVERS:
        raise UsageError(f"there is no solver {solver!r}", hint=f"Use one of: {', '.join(SOLVERS)}")
    deadline = Deadline(deadline_s)
    used = solver
    notes: list[str] = []

    def one(program: Program) -> Answer:
        nonlocal used, notes
        warm = _warm(problem, program, start) if start is not None else None
        used, found, notes = answer(program, solver, deadline, warm, solvers)
        return found

    program, found = reach(full_program(problem), problem.objective.goal, one)
    solve_s = deadline.elapsed_s
    if explain and found.chosen and found.prices is None:
        found = replace(found, prices=Bounding(program).prices)
    plan = plan_of(problem, program, used, found)
    if plan.termination is Termination.INFEASIBLE and explain:
        moves = relaxations(problem, deadline)
        plan = replace(plan, relaxations=tuple(move.text for move in moves))
        if deadline.passed:
            notes.append("the time was up before all was tried that could make it feasible")
        elif not moves:
            notes.append("no single limit moved alone makes it feasible")
    if problem.compat is Compat.IPA_ARTIFACT and plan.stages:
        notes.append(released_note(problem, plan))
    plan = replace(plan, solve_s=solve_s, note="; ".join(notes))
    verify(problem, plan)
    return plan


def _warm(problem: Problem, program: Program, start: Plan) -> Warm:
    """The earlier plan in terms of this program, with the replicas that the rate needs now."""
    prices = None
    count = len(program.graph.paths) + len(program.limits())
    if problem.objective.goal is Goal.WEIGHTED and len(start.prices) == count:
        prices = np.array([price for _, price in start.prices])
    chosen = _translated(problem, program, start)
    return Warm(chosen if chosen and fits(program, chosen) else (), prices)


def _translated(problem: Problem, program: Program, start: Plan) -> tuple[int, ...]:
    chosen = []
    if len(start.stages) != len(problem.stages):
        return ()
    for stage, options, before in zip(problem.stages, program.stages, start.stages, strict=True):
        names = stage.columns
        if not len(options) or before.variant not in names.variants:
            return ()
        same = np.flatnonzero(
            (names.variant[options.point] == names.variants.index(before.variant))
            & (names.batch_size[options.point] == before.batch_size)
            & (names.cores[options.point] == before.cores)
        )
        if not len(same):
            return ()
        ratio = log(problem.rate_rps / start.rate_rps)
        wanted = np.abs(np.log(options.replicas[same] / before.replicas) - ratio)
        chosen.append(int(same[np.argmin(wanted)]))
    return tuple(chosen)
