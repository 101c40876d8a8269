"""Small random fleets, and their best plans by way of one joint linear program or of plain enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib import import_module
from math import inf
from random import Random

import numpy as np

from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.plan import Member
from ipa.optimize.frontier import worth_program
from ipa.optimize.linear_program import Milp, build_milp, whole_ranges
from ipa.optimize.options import full_program
from ipa.optimize.plans import configs_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate
from tests.fakes.planner_brute import size
from tests.fakes.planner_graphs import GPU, random_resource_problem
from tests.fakes.planner_instances import fits, random_problem

WEIGHTS = (0.5, 1.0, 1.0, 3.0)
# Combinations of resources of a pipeline's plans, at most: all of three pipelines together are tried.
MOST_USES = 80
# Each combination of resources, cores, GiB and GPUs, and the best objective with it.
Uses = tuple[np.ndarray, np.ndarray]


def chain_fleet(random: Random) -> list[Member]:
    """Two to six chains of every accuracy rule and with every limit; mostly feasible ones."""
    problems = [random_problem(random, (1, 3), (1, 3), 3) for _ in range(random.randint(2, 6))]
    return _members(random, [replace(each, sla_s=each.sla_s * random.choice([1, 2])) for each in problems])


def resource_fleet(random: Random) -> tuple[list[Member], list[Uses]]:
    """Two or three pipelines with memory and GPUs, and what all their plans use and are worth."""
    members, uses = [], []
    count = random.randint(2, 3)
    while len(members) < count:
        problem = random_resource_problem(random, 2)
        if size(problem) > 1_000:
            continue
        pipeline_uses = uses_of(problem)
        if 0 < len(pipeline_uses[1]) <= MOST_USES:
            named = replace(problem, pipeline=f"p{len(members)}")
            members.append(Member(named, random.choice(WEIGHTS)))
            uses.append(pipeline_uses)
    return members, uses


def uses_of(problem: PlanningProblem) -> Uses:
    """The resources of every plan within the problem's own limits, and the best objective with each."""
    program = full_program(problem)
    best: dict[tuple[float, ...], float] = {}
    for chosen in itertools.product(*(range(len(stage)) for stage in program.stages)):
        if fits(program, chosen):
            held = problem.resources(configs_of(problem, program, chosen))
            key = (round(held.cpu_cores, 9), round(held.memory_gib, 9), held.accelerators.get(GPU, 0.0))
            best[key] = max(best.get(key, -inf), evaluate(program, chosen).objective)
    return np.array(list(best)).reshape(-1, 3), np.array(list(best.values()))


def best_of_all(members: list[Member], uses: list[Uses], most: list[float]) -> float | None:
    """The most worth over all combinations of plans; None: none fits."""
    shape = [len(objective) for _, objective in uses]
    place = np.indices(shape).reshape(len(shape), -1)
    held = sum(use[at] for (use, _), at in zip(uses, place, strict=True))
    left = (held <= np.array(most) + 1e-9 * np.maximum(1.0, most)).all(axis=1)
    total = np.zeros(len(left))
    for member, (_, objective), at in zip(members, uses, place, strict=True):
        total += member.weight * objective[at]
    return float(total[left].max()) if left.any() else None


def _members(random: Random, problems: list[PlanningProblem]) -> list[Member]:
    return [
        Member(replace(problem, pipeline=f"p{at}"), random.choice(WEIGHTS))
        for at, problem in enumerate(problems)
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
    solution = import_module(f"ipa.optimize.backends.{solver}").maximise(joint, Deadline(60.0))
    if solution.termination is Termination.INFEASIBLE:
        return None
    assert solution.termination is Termination.OPTIMAL
    return sum(cost * value for cost, value in zip(joint.costs, solution.values, strict=True))
