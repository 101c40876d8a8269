"""Plan a fleet: one plan for each pipeline, within one budget of resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import NoReturn

import numpy as np

from ipa.model.errors import DeadlineError, InfeasibleError, InputError
from ipa.model.errors import Problem as Fault
from ipa.model.resources import BY_NAME, CORES, in_words
from ipa.optimize.backends import label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.master import FleetPlan, Master
from ipa.optimize.frontier import worth_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import tolerance
from ipa.optimize.solve import solve


@dataclass(frozen=True, slots=True)
class Member:
    """A pipeline of the fleet: its problem, and the weight of its objective."""

    problem: PlanningProblem
    weight: float = 1.0


def plan_fleet(
    members: Sequence[Member],
    budget_cores: float,
    deadline_s: float = 5.0,
    limits: Mapping[str, float] | None = None,
) -> FleetPlan:
    """The plans of the highest total worth within the budget, proved to 1e-9 if time allows.

    `limits` are the budgets of memory and kinds of accelerators, by name; others are unlimited. Of equally
    good selections one of fewest cores is taken. Only the plans' own resources count, not those of a change
    from the running configuration.

    Errors: InputError (weights, budget, names), InfeasibleError (names every pipeline without a plan and why,
    or the missing resources), DeadlineError (no selection was found in time).
    """
    deadline, limits = Deadline(deadline_s), limits or {}
    _check(members, budget_cores, limits)
    problems, most = [member.problem for member in members], {CORES: budget_cores, **limits}
    master = Master(problems, np.array([member.weight for member in members]), most, deadline)
    fleet = master.planned()
    if fleet is None:
        refuse_hopeless(problems, master.without_plan)
        refuse(problems, most, deadline)
    return fleet


def _check(members: Sequence[Member], budget_cores: float, limits: Mapping[str, float]) -> None:
    faults = [
        Fault(
            f"pipeline {member.problem.pipeline!r}: weight must be finite and above 0, not {member.weight!r}"
        )
        for member in members
        if not (isfinite(member.weight) and member.weight > 0)
    ]
    if not budget_cores >= 0:
        faults.append(Fault(f"budget_cores must be at least 0, not {budget_cores!r}"))
    faults += [
        Fault(f"the budget of {name} must be at least 0, not {most!r}")
        for name, most in limits.items()
        if not most >= 0
    ]
    # A kind that no variant has would be a budget of nothing, and another kind unlimited.
    stages = [stage for member in members for stage in member.problem.stages] if limits else []
    kinds = sorted({name for stage in stages for name in stage.columns.beside} - BY_NAME.keys())
    faults += [
        Fault(
            f"no variant of the pipelines has {name!r}; there are: {', '.join(kinds)}",
            pointer=f"/accelerators/{name.replace('/', '~1')}",
        )
        for name in limits
        if kinds and name not in (*kinds, *BY_NAME)
    ]
    names = [member.problem.pipeline for member in members]
    faults += [
        Fault(f"pipeline {name!r} appears twice")
        for name in sorted(name for name, count in Counter(names).items() if count > 1)
    ]
    if not members:
        faults.append(Fault("there are no pipelines"))
    if faults:
        raise InputError("the fleet cannot be planned", problems=faults)


# Pipelines without a plan that the error explains; each takes a solve.
EXPLAINED = 5


def refuse_hopeless(problems: Sequence[PlanningProblem], suspects: Sequence[int]) -> None:
    """Raise InfeasibleError if some of the `suspects` have no plan under any budget."""
    none = [at for at in suspects if not solve(problems[at], "exact", explain=False).configs]
    if none:
        raise InfeasibleError(
            f"{len(none)} of the {len(problems)} pipelines have no plan within their own limits",
            problems=[Fault(_why(problems[at], number < EXPLAINED)) for number, at in enumerate(none)],
            hint="Loosen the limits named, or take these pipelines out of the fleet.",
        )


def _why(problem: PlanningProblem, explain: bool) -> str:
    text = f"pipeline {problem.pipeline!r} at {problem.rate_rps:g} rps within {problem.sla_s:g} s"
    if not explain:
        return text
    plan = solve(problem, "exact", 1.0)
    moves = " or ".join(plan.relaxations)
    return f"{text}: {'it would need ' + moves if moves else 'no change of a single limit makes it feasible'}"


def refuse(problems: Sequence[PlanningProblem], most: Mapping[str, float], deadline: Deadline) -> NoReturn:
    """Raise InfeasibleError naming the resources that are too scarce, alone or only together."""
    whose = "1 pipeline" if len(problems) == 1 else f"{len(problems)} pipelines together"
    try:
        least = {name: sum(_least_use(problem, name, deadline) for problem in problems) for name in most}
    except DeadlineError as late:
        raise InfeasibleError(
            f"the budget is too small for any plans of {whose}; {late.message}",
            hint="Raise the budget, take pipelines out, or allow more time to learn what is missing.",
        ) from late
    short = {name: amount for name, amount in least.items() if amount > most[name] + tolerance(most[name])}
    if short:
        raise InfeasibleError(
            f"the budget is too small for any plans of {whose}",
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
    raise InfeasibleError(
        f"the budget is too small for any plans of {whose}: there is enough of each resource by itself "
        f"({_listed(least, ', ')} at the least), but no plans need so little of all resources at once",
        hint="Raise the budget of several resources, take pipelines out, or loosen their limits.",
    )


def _least_use(problem: PlanningProblem, name: str, deadline: Deadline) -> float:
    """The least amount of the resource with which the problem has a plan, whatever the fleet's budget."""
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
    lightest = label_setting.solve(light, deadline)
    if not lightest.chosen:
        raise DeadlineError("the time ran out before it was known what they need")
    return sum(float(use[at]) for use, at in zip(uses, lightest.chosen, strict=True))


def _listed(amounts: Mapping[str, float], between: str) -> str:
    return between.join(in_words(name, amount) for name, amount in amounts.items())
