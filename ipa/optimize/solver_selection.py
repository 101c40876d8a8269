"""Selects the solver, and checks its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from math import inf

import numpy as np

from ipa.model.errors import DeadlineError, LicenceError, SolverError
from ipa.model.plan import Termination
from ipa.optimize.backends import label_setting
from ipa.optimize.backends.gurobi_licence import own_licence
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Maximise, Solvers, by_milp
from ipa.optimize.problem import Index
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, evaluate
from ipa.optimize.registry import AUTO, EXACT, check_solver

# Two proofs of the best objective that differ by more than this (relative above 1) contradict each other.
CONTRADICTION = 1e-6

# With fewer options a MILP solver is done before they are counted; labels of the pass that finds a plan.
SHARPEN_FROM, SHARPEN_WIDTH = 60, 32

UNLICENSED = "auto: exact, since there is no Gurobi licence of your own"
# A problem has one best plan, or none, whatever the time; other results improve with more time.
PROVED = frozenset({Termination.OPTIMAL, Termination.INFEASIBLE})


def answer(
    program: Program,
    solver: str,
    deadline: Deadline,
    solvers: Solvers | None = None,
) -> tuple[str, ProgramAnswer, list[str]]:
    """The solver that answered, its answer with ties broken, and the reasons for the choice.

    `solvers` gives MILP solvers by name; by default they run in this process. Errors: LicenceError (Gurobi
    was requested and refused), SolverError, DeadlineError (a requested solver had to be stopped).
    """
    if solver != AUTO:
        best = _by(solver, program, deadline, solvers)
        return solver, best, [best.note] if best.note else []
    licence = own_licence()
    first, second = ("gurobi", EXACT) if licence else (EXACT, "highs")
    notes = [f"auto: gurobi, licensed by {licence}" if licence else UNLICENSED]
    then = f"then {second}, since {first if licence else 'it'} was not done"
    used, best = first, ProgramAnswer(Termination.NO_SOLUTION_FOUND)
    try:
        best = _by(first, program, Deadline(deadline.remaining_s / 2), solvers)
    except LicenceError as refusal:
        notes, then = [], f"auto: exact, since {refusal.message}"
    except (DeadlineError, SolverError) as stopped:
        then = f"then {second}, since {stopped.message}"
    if best.termination not in PROVED:
        try:
            other = _by(second, program, deadline, solvers)
        except (DeadlineError, SolverError) as stopped:
            then = f"then {second}: {stopped.message}"
        else:
            is_better = not best.chosen or _reached(program, other) > _reached(program, best)
            if other.termination in PROVED or is_better:
                used, best = second, other
        notes.append(then)
        if best.termination not in PROVED and not best.note:
            notes.append("the time ran out before it was proved best")
    return used, best, [*notes, *filter(None, [best.note])]


def _by(name: str, program: Program, deadline: Deadline, solvers: Solvers | None) -> ProgramAnswer:
    """The answer of the named solver, with ties broken."""
    if name == EXACT:
        return label_setting.solve(program, deadline)
    try:
        smaller, left = sharpen(program, deadline)
    except DeadlineError:
        return ProgramAnswer(Termination.NO_SOLUTION_FOUND, note="time ran out before a solver began")
    solved = by_milp((solvers or in_process)(name), smaller, deadline)
    solved = _break_ties(smaller, name, solved, deadline)
    whole = tuple(int(stage[at]) for stage, at in zip(left, solved.chosen, strict=False))
    return replace(solved, chosen=whole)


def _reached(program: Program, solved: ProgramAnswer) -> float:
    return evaluate(program, solved.chosen).objective if solved.chosen else -inf


def in_process(name: str) -> Maximise:
    """The MILP solver's own function; its module is imported only when it is used.

    Errors: UsageError (no such solver).
    """
    maximise: Maximise = import_module(f"ipa.optimize.backends.{check_solver(name)}").maximise
    return maximise


def _break_ties(program: Program, solver: str, solved: ProgramAnswer, deadline: Deadline) -> ProgramAnswer:
    """The same answer with the first of the equally good plans.

    The solver's objective is so tight a bound that label setting needs little time beside it. It also checks
    the solver: SolverError if a plan is better than the solver's bound allows; a plan that label setting
    finds replaces the answer that there is none.
    """
    if solved.termination is Termination.INFEASIBLE:
        second = label_setting.solve(program, deadline)
        note = f"{solver} calls it infeasible, label setting found a plan"
        return replace(second, note=note) if second.chosen else solved
    if solved.termination is not Termination.OPTIMAL:
        return solved
    objective = evaluate(program, solved.chosen).objective
    try:
        # It may find none if the solver's plan uses a limit to the last bit; `verify` judges that plan.
        chosen: Sequence[int] = label_setting.best_at_least(program, objective, deadline) or solved.chosen
    except DeadlineError:
        return replace(solved, note="the time ran out before ties were broken")
    better = evaluate(program, chosen).objective
    if better - objective > CONTRADICTION * max(1.0, abs(objective)):
        raise SolverError(f"{solver} calls {objective!r} optimal, but {better!r} is feasible")
    return replace(solved, chosen=tuple(chosen))


def sharpen(program: Program, deadline: Deadline) -> tuple[Program, tuple[Index, ...]]:
    """The program without options that only worse plans than a known one have, and each stage's kept indices.

    For the MILP solvers, whose time grows with the options: a quick plan of label setting's first pass, and
    the bound on all plans with each option, rule most of them out. No best plan is lost. The same program if
    accuracies neither add up nor multiply, if no plan is found, or if there are few options anyway.
    DeadlineError if the time runs out.
    """
    left = tuple(np.arange(len(stage)) for stage in program.stages)
    if sum(len(stage) for stage in program.stages) < SHARPEN_FROM or not program.is_plain:
        return program, left
    search = label_setting.LabelSearch(program, deadline)
    quick, _ = search.run(-inf, SHARPEN_WIDTH)
    if not quick:
        return program, left
    known = evaluate(program, quick).objective
    least = known - 10 * EQUAL * max(1.0, abs(known))
    promising = [
        np.flatnonzero(search.bounding.option_bounds(at) >= least) for at in range(len(program.stages))
    ]
    stages = tuple(stage.take(each) for stage, each in zip(program.stages, promising, strict=True))
    return replace(program, stages=stages), tuple(promising)
