"""Small random fleets, and their best plans by way of one joint linear program or of plain enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib import import_module
from math import inf
from random import Random

from ipa.model.plan import Termination
from ipa.optimize.chord_branching import whole_ranges
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.plan import Member
from ipa.optimize.frontier import worth_program
from ipa.optimize.linearise import build_milp
from ipa.optimize.milp import Milp
from ipa.optimize.options import full_program
from ipa.optimize.plans import worth
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate, fits
from tests.fakes.planner_brute import size
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import random_problem

WEIGHTS = (0.5, 1.0, 1.0, 3.0)


def chain_fleet(random: Random) -> list[Member]:
    """Two to six chains of every accuracy rule and with every limit; mostly feasible ones."""
    problems = [random_problem(random, (1, 3), (1, 3), 3) for _ in range(random.randint(2, 6))]
    return _members(random, [replace(each, sla_s=each.sla_s * random.choice([1, 2])) for each in problems])


def graph_fleet(random: Random) -> list[Member]:
    """Two to four pipelines of any graph, goal, formula, pin and transition, small enough to enumerate."""
    problems: list[PlanningProblem] = []
    wanted = random.randint(2, 4)
    while len(problems) < wanted:
        problem = random_graph_problem(random)
        if size(problem) <= 3_000:
            problems.append(problem)
    return _members(random, problems)


def _members(random: Random, problems: list[PlanningProblem]) -> list[Member]:
    return [
        Member(replace(problem, pipeline=f"p{at}"), random.choice(WEIGHTS))
        for at, problem in enumerate(problems)
    ]


def enumerated(problem: PlanningProblem) -> list[tuple[float, float]]:
    """Cost and objective of every plan within the problem's own limits."""
    program = full_program(problem)
    return [
        (totals.cost_cores, worth(problem, totals))
        for chosen in itertools.product(*(range(len(stage)) for stage in program.stages))
        if fits(program, chosen)
        for totals in [evaluate(program, chosen)]
    ]


def best_by_enumeration(
    plans: list[list[tuple[float, float]]], weights: list[float], budget_cores: float
) -> float | None:
    """The most worth within the budget, over all sums of costs; None: it is too small."""
    reached = {0.0: 0.0}
    for choices, weight in zip(plans, weights, strict=True):
        best: dict[float, float] = {}
        for (cost, objective), (before, so_far) in itertools.product(_best_of_cost(choices), reached.items()):
            total = round(before + cost, 7)
            if total <= budget_cores + 1e-7:
                best[total] = max(best.get(total, -inf), so_far + weight * objective)
        reached = best
    return max(reached.values(), default=None)


def _best_of_cost(choices: list[tuple[float, float]]) -> list[tuple[float, float]]:
    best: dict[float, float] = {}
    for cost, objective in choices:
        best[cost] = max(best.get(cost, -inf), objective)
    return list(best.items())


def best_by_milp(members: list[Member], budget_cores: float, solver: str) -> float | None:
    """The most worth by one program over all stages of all pipelines; None where it is infeasible."""
    joint = Milp()
    budget: list[tuple[int, float]] = []
    for member in members:
        program = worth_program(member.problem)
        if not all(len(stage) for stage in program.stages):
            return None
        part = build_milp(program, whole_ranges(program))
        first = len(joint.costs)
        joint.costs += [member.weight * cost for cost in part.costs]
        joint.uppers += part.uppers
        joint.choices += [first + at for at, binary in enumerate(part.is_binary) if binary]
        for row in part.rows:
            columns = tuple(first + at for at in row.columns)
            joint.rows.append(replace(row, columns=columns))
        costs = [float(cost) for stage in program.stages for cost in stage.cost_cores]
        budget += [(first + at, cost) for at, cost in enumerate(costs) if cost]
    if budget:
        joint.add_row(budget, -inf, budget_cores)
    found = import_module(f"ipa.optimize.backends.{solver}").maximise(joint, Deadline(60.0))
    if found.termination is Termination.INFEASIBLE:
        return None
    assert found.termination is Termination.OPTIMAL
    return sum(cost * value for cost, value in zip(joint.costs, found.values, strict=True))
