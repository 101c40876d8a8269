"""Many pipelines under one budget of cores that is too small for all of their best plans."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from experiments.bench.cell import Cell
from experiments.bench.instances import instance
from experiments.bench.race import MESSAGES, SAME
from experiments.bench.rows import Row, cell_row
from ipa.model.errors import IpaError
from ipa.model.plan import Termination
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve

CELL = Cell(5, 8)
DEADLINE_S = 20.0
# Cores that there are for each that the best plans of all would take.
SHARE = 0.8
# Every so many pipelines one is solved by itself as well.
EVERY = 25
AMPLE_CORES = 1e12


def fleet_row(fleets: int, pipelines: int, cell: Cell = CELL) -> Row:
    """The time to plan a fleet, over that many fleets.

    With cores enough for all, each pipeline must get what it gets alone (`disagreement`, by samples); that
    also tells how large a budget binds. Members differ in weight.
    """
    times_ms: list[float] = []
    failures: Counter[str] = Counter()
    messages: list[str] = []
    worst_gap = 0.0
    for number in range(fleets):
        members = [member_of(cell, number * pipelines + at) for at in range(pipelines)]
        try:
            ample = plan_fleet(members, AMPLE_CORES, DEADLINE_S)
            budget_cores = SHARE * ample.cost_cores
            begin = time.perf_counter()
            plan = plan_fleet(members, budget_cores, DEADLINE_S)
            times_ms.append(1000 * (time.perf_counter() - begin))
        except IpaError as error:
            failures["error"] += 1
            messages.append(f"fleet {number}: {error}")
            continue
        worst_gap = max(worst_gap, plan.gap)
        faults = [*faults_of(plan, budget_cores), *differences(members, ample)]
        for kind, message in faults:
            failures[kind] += 1
            messages.append(f"fleet {number}: {message}")
    return cell_row(
        "exact",
        cell,
        fleets,
        times_ms,
        failures.total(),
        pipelines=pipelines,
        worst_gap=worst_gap,
        deadline=failures["deadline"],
        error=failures["error"],
        disagreement=failures["disagreement"],
        messages=messages[:MESSAGES],
    )


def member_of(cell: Cell, seed: int) -> Member:
    """A pipeline that has a plan: its SLA is raised above what its fastest variants take, where need be."""
    problem = instance(cell, seed)
    fastest_s = sum(
        min(point.latency_s for point in stage.points if point.batch_size == 1) for stage in problem.stages
    )
    feasible = replace(problem, pipeline=f"p{seed}", sla_s=max(problem.sla_s, 1.05 * fastest_s))
    # Worth is α·accuracy, and α differs much; the weight brings pipelines to one scale.
    return Member(feasible, weight=(1 + seed % 3) / feasible.objective.alpha)


def faults_of(plan: FleetPlan, budget_cores: float) -> list[tuple[str, str]]:
    """The faults of a fleet's plan, by kind."""
    faults = []
    if plan.termination is not Termination.OPTIMAL:
        faults.append(("deadline", f"not proved best in {DEADLINE_S:g} s"))
    cores = sum(config.total_cores for member in plan.members for config in member.plan.configs)
    if cores > budget_cores * (1 + SAME):
        faults.append(("error", f"{cores!r} cores are above the budget of {budget_cores!r}"))
    return faults


def differences(members: list[Member], ample: FleetPlan) -> list[tuple[str, str]]:
    """The pipelines of a fleet that lacks nothing which do not get their own best plan, by samples."""
    faults = []
    for member, got in list(zip(members, ample.members, strict=True))[::EVERY]:
        alone, together = _best(member.problem), got.worth / got.weight
        if alone is None or abs(alone - together) > SAME * max(1.0, abs(alone)):
            words = f"{got.plan.pipeline} gets {together!r} in the fleet, {alone!r} alone"
            faults.append(("disagreement", words))
    return faults


def _best(problem: PlanningProblem) -> float | None:
    return solve(problem, "exact", DEADLINE_S, explain=False).objective
