"""The reason why a fleet has no plan: a pipeline without one, or too little of a resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import NoReturn

import numpy as np

from ipa.model.errors import DeadlineError, InfeasibleError
from ipa.model.errors import Problem as Fault
from ipa.model.resources import CORES, in_words
from ipa.optimize.backends import label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.master import Master
from ipa.optimize.frontier import worth_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import tolerance
from ipa.optimize.solve import solve

# Pipelines without a plan that the error explains; each takes a solve.
EXPLAINED = 5


def refuse_hopeless(problems: Sequence[PlanningProblem], suspects: Sequence[int]) -> None:
    """InfeasibleError if some of the `suspects` have no plan, whatever the budget."""
    none = [at for at in suspects if not _has_plan(problems[at])]
    if none:
        raise InfeasibleError(
            f"{len(none)} of the {len(problems)} pipelines have no plan within their own limits",
            problems=[Fault(_why(problems[at], number < EXPLAINED)) for number, at in enumerate(none)],
            hint="Loosen the limits named, or take these pipelines out of the fleet.",
        )


def _has_plan(problem: PlanningProblem) -> bool:
    return bool(solve(problem, "exact", explain=False).configs)


def _why(problem: PlanningProblem, explain: bool) -> str:
    text = f"pipeline {problem.pipeline!r} at {problem.rate_rps:g} rps within {problem.sla_s:g} s"
    if not explain:
        return text
    plan = solve(problem, "exact", 1.0)
    moves = " or ".join(plan.relaxations)
    return f"{text}: {'it would need ' + moves if moves else 'no single limit moved alone makes it feasible'}"


def refuse(problems: Sequence[PlanningProblem], most: Mapping[str, float], deadline: Deadline) -> NoReturn:
    """InfeasibleError: the resources of which there is too little even by themselves, or only together."""
    whose = "1 pipeline" if len(problems) == 1 else f"{len(problems)} pipelines together"
    try:
        least = {name: sum(_least_use(problem, name, deadline) for problem in problems) for name in most}
    except DeadlineError as late:
        raise InfeasibleError(
            f"the budget does not hold any plans of {whose}; {late.message}",
            hint="Raise the budget, take pipelines out, or allow more time to learn what is missing.",
        ) from late
    short = {name: amount for name, amount in least.items() if amount > most[name] + tolerance(most[name])}
    if short:
        raise InfeasibleError(
            f"the budget does not hold any plans of {whose}",
            problems=[
                Fault(
                    f"{in_words(name, most[name])}: the plans need at least {amount:g}, "
                    f"that is {amount - most[name]:g} more"
                )
                for name, amount in short.items()
            ],
            hint=f"Raise the budget to {_listed(short, ' and ')} or more, take pipelines out, or "
            "loosen their limits.",
        )
    enough = {name: _enough(problems, most, name, deadline) for name in most}
    moves = _listed({name: amount for name, amount in enough.items() if amount is not None}, " or to ")
    raise InfeasibleError(
        f"the budget does not hold any plans of {whose}: there is enough of each resource by itself "
        f"({_listed(least, ', ')} at the least), but no plans need so little of all at once",
        hint=f"Raise the budget {f'to {moves}' if moves else 'of several resources'}, take pipelines out, or "
        "loosen their limits.",
    )


def _least_use(problem: PlanningProblem, name: str, deadline: Deadline) -> float:
    """The least of the resource that a plan of the problem needs, whatever the fleet's budget."""
    program = worth_program(problem, {} if name == CORES else {name: inf})
    if name != CORES and (not program.budgets or program.budgets[-1].name != name):
        return 0.0
    last = len(program.budgets) - 1
    uses = [stage.cost_cores if name == CORES else stage.held(last) for stage in program.stages]
    light = replace(
        program,
        weights=replace(program.weights, alpha=0.0),
        stages=tuple(stage.having(value=-use) for stage, use in zip(program.stages, uses, strict=True)),
    )
    found = label_setting.solve(light, deadline)
    if not found.chosen:
        raise DeadlineError("the time ran out before it was known what they need")
    return sum(float(use[at]) for use, at in zip(uses, found.chosen, strict=True))


def _enough(
    problems: Sequence[PlanningProblem], most: Mapping[str, float], name: str, deadline: Deadline
) -> float | None:
    """The least budget of the resource that will do beside the others; None if none will or time is up."""
    try:
        master = Master(problems, np.ones(len(problems)), {**most, name: inf}, deadline)
        return master.least(list(most).index(name))
    except DeadlineError:
        return None


def _listed(amounts: Mapping[str, float], between: str) -> str:
    return between.join(in_words(name, amount) for name, amount in amounts.items())
