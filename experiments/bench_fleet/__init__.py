"""The time to plan a fleet: many pipelines under one budget of cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from time import perf_counter

from experiments.bench.instances import chain_of
from ipa.model.pipeline import Bounds, Objective
from ipa.model.profile import OperatingPoint
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.problem import Compat, PlanningProblem

ALPHAS, BETAS, WEIGHTS = (6.0, 30.0, 90.0, 300.0), (0.05, 0.1, 0.5, 1.0), (0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One planning of the fleet, from problems in memory to plans."""

    share: float
    budget_cores: float
    seconds: float
    plan: FleetPlan


def random_fleet(
    pipelines: int = 1000,
    stages: int = 5,
    variants: int = 8,
    batches: int = 7,
    seed: int = 0,
    compat: Compat = Compat.PAPER,
) -> list[Member]:
    """Chains whose better variants are slower and take more cores, with many rates, SLAs and weights."""
    random = Random(seed)
    return [
        Member(_problem(random, f"p{at}", stages, variants, batches, compat), random.choice(WEIGHTS))
        for at in range(pipelines)
    ]


def _problem(
    random: Random, name: str, stages: int, variants: int, batches: int, compat: Compat
) -> PlanningProblem:
    chain = chain_of([_points(random, variants, batches) for _ in range(stages)])
    light_s = sum(min(point.latency_s for point in stage.points) for stage in chain)
    objective = Objective(alpha=random.choice(ALPHAS), beta=random.choice(BETAS))
    sla_s = light_s * random.uniform(1.5, 5.0)
    return PlanningProblem(name, random.uniform(1, 60), sla_s, chain, objective, Bounds(), compat)


def _points(random: Random, variants: int, batches: int) -> tuple[OperatingPoint, ...]:
    base_s = random.uniform(0.005, 0.1)
    points = []
    for rank in range(variants):
        accuracy = 0.5 + 0.45 * (rank + random.random()) / variants
        unit_s = base_s * (1 + rank) ** 1.3 * random.uniform(0.8, 1.2)
        cores = float(2 ** (rank * 4 // variants))
        for power in range(batches):
            size = 2**power
            latency_s = unit_s * (0.4 + 0.6 * size) * random.uniform(0.9, 1.1) / cores**0.8
            points.append(OperatingPoint(f"v{rank}", accuracy, size, cores, latency_s, size / latency_s))
    return tuple(points)


def with_other_rates(fleet: list[Member], seed: int) -> list[Member]:
    """The same fleet some seconds later: every rate a little other."""
    random = Random(seed)
    return [
        replace(
            each, problem=replace(each.problem, rate_rps=each.problem.rate_rps * random.uniform(0.8, 1.25))
        )
        for each in fleet
    ]


def measure(
    fleet: list[Member], shares: tuple[float, ...] = (0.2, 0.5, 0.9), repeats: int = 3
) -> list[Measurement]:
    """The times of planning with budgets between the least and what the fleet would take without a budget."""
    most = plan_fleet(fleet, float("inf"), 60.0).cost_cores
    least = least_cores(fleet)
    measurements = []
    for share in shares:
        budget_cores = least + share * (most - least)
        for repeat in range(repeats):
            now = with_other_rates(fleet, repeat)
            start = perf_counter()
            plan = plan_fleet(now, budget_cores, 60.0)
            measurements.append(Measurement(share, budget_cores, perf_counter() - start, plan))
    return measurements


def least_cores(fleet: list[Member]) -> float:
    """The cores of every pipeline's cheapest plan together."""
    cheap = [
        replace(
            each,
            problem=replace(each.problem, objective=replace(each.problem.objective, alpha=0.0, beta=1.0)),
        )
        for each in fleet
    ]
    return plan_fleet(cheap, float("inf"), 60.0).cost_cores


def report(measurements: list[Measurement]) -> str:
    """One line a planning."""
    return "\n".join(
        f"share {each.share:g}  budget {each.budget_cores:8.0f} cores  {each.seconds:6.3f} s  "
        f"{each.plan.termination.value}  worth {each.plan.worth:.6f}  used {each.plan.cost_cores:g}  "
        f"price {each.plan.price:.4g}"
        for each in measurements
    )
