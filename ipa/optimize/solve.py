"""Solve a problem for a plan: build, solve, verify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.row_counts import unbatched_note
from ipa.optimize.bounding import LagrangeBounds
from ipa.optimize.chord_branching import Solvers
from ipa.optimize.deadline import Deadline
from ipa.optimize.goals import reach
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of, released_note
from ipa.optimize.prefilter import narrow_program
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.program import Options, Program, ProgramAnswer, fits
from ipa.optimize.registry import AUTO, SOLVERS
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solver_selection import BACKENDS, WarmStart, answer
from ipa.optimize.verify import verify

# Times this close are the same.
ROUNDING_S = 1e-9

__all__ = ["AUTO", "BACKENDS", "SOLVERS", "solve"]


def solve(
    problem: PlanningProblem,
    solver: str = AUTO,
    deadline_s: float = 5.0,
    *,
    explain: bool = True,
    start: Plan | None = None,
    solvers: Solvers | None = None,
) -> Plan:
    """The best plan for the problem, checked by `verify`.

    Of plans with equal objectives it is the one with the fewest changes to the running configuration, then
    the lowest cost, then the lowest latency, then the first by names, whichever solver is used. `auto` takes
    Gurobi if its licence covers the model, else HiGHS; if that is not done in half of the time, label setting
    has the other half; the note says which and why. An infeasible problem gives a plan that says so, with
    remedies unless `explain` is false. `start`, the plan for a similar problem, speeds label setting up; it
    changes no answer. `solvers` gives MILP solvers by name, such as those in a child process that is killed
    if it exceeds its limit: `auto` then continues with label setting.

    Errors: UsageError (no such solver), LicenceError (Gurobi asked for by name and refused), PluginError,
    SolverError, DeadlineError (a solver asked for by name had to be stopped).
    """
    SOLVERS.find(solver)
    deadline = Deadline(deadline_s)
    used = solver
    notes: list[str] = []

    def one(program: Program) -> ProgramAnswer:
        nonlocal used, notes
        warm = _warm(problem, program, start) if start is not None else None
        used, found, notes = answer(program, solver, deadline, warm, solvers)
        return found

    narrow = problem.objective.goal is Goal.WEIGHTED
    full = narrow_program(problem, start, deadline) if narrow else full_program(problem)
    program, found = reach(full, problem.objective.goal, one)
    solve_s = deadline.elapsed_s
    if explain and found.chosen and found.prices is None:
        found = replace(found, prices=LagrangeBounds(program).prices)
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
    notes += [unbatched_note(stage.name, stage.unbatched) for stage in problem.stages if stage.unbatched]
    plan = replace(plan, solve_s=solve_s, note="; ".join(notes))
    verify(problem, plan)
    return plan


def _warm(problem: PlanningProblem, program: Program, start: Plan) -> WarmStart:
    """The earlier plan in terms of this program, with the replicas that the rate needs now."""
    prices = None
    count = len(program.graph.paths) + len(program.limits())
    if problem.objective.goal is Goal.WEIGHTED and len(start.prices) == count:
        prices = np.array([price for _, price in start.prices])
    chosen = _translated(problem, program, start)
    return WarmStart(chosen if chosen and fits(program, chosen) else (), prices)


def _translated(problem: PlanningProblem, program: Program, start: Plan) -> tuple[int, ...]:
    """For each stage the option nearest to the earlier plan's; empty if there is none."""
    before = {stage.stage: stage for stage in start.stages}
    chosen = []
    for stage, options in zip(problem.stages, program.stages, strict=True):
        if not len(options):
            return ()
        chosen.append(0 if stage.is_free else _nearest(stage, options, before.get(stage.name)))
    return tuple(chosen)


def _nearest(stage: StageProblem, options: Options, before: StagePlan | None) -> int:
    """The best option of the same variant that takes no more time, the same batch and cores if possible."""
    columns = stage.columns
    if before is None or before.variant not in columns.variants:
        return int(np.argmax(options.value))
    quick = options.mean_s + np.sqrt(options.spread_s2) <= before.mean_s + before.excess_s + ROUNDING_S
    variant = columns.variant[options.point] == columns.variants.index(before.variant)
    same = (columns.batch_size[options.point] == before.batch_size) & (
        columns.cores[options.point] == before.cores
    )
    likeness = 8 * variant + 4 * quick + 1 * same
    most = np.flatnonzero(likeness == likeness.max())
    return int(most[np.argmax(options.value[most])])
