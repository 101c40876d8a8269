"""Random graphs with everything a problem can have."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    CombineRule,
    Edge,
    Objective,
    Pin,
    StageBounds,
    StageKind,
)
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.model.resources import IN_CORES, Prices
from ipa.model.rolling import DEPLOYMENT, PROCESSES, SIDE_BY_SIDE
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem

# name: for each stage (kind, combine rule, parents)
MODEL, ROUTER, COMBINER = StageKind.MODEL, StageKind.ROUTER, StageKind.COMBINER
Shape = list[tuple[StageKind, CombineRule, list[int]]]
PLAIN = CombineRule.PRODUCT


def shapes() -> dict[str, Shape]:
    """The kinds of graphs that are tried."""
    return {
        "chain": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [1])],
        "fork": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0])],
        "router": [(ROUTER, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [2])],
        "mean": [
            (MODEL, PLAIN, []),
            (MODEL, PLAIN, [0]),
            (MODEL, PLAIN, [0]),
            (COMBINER, CombineRule.MEAN, [1, 2]),
        ],
        "max": [
            (MODEL, PLAIN, []),
            (MODEL, PLAIN, [0]),
            (MODEL, PLAIN, [0]),
            (COMBINER, CombineRule.MAX, [1, 2]),
        ],
        "diamond": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [1, 2])],
        "nested": [
            (MODEL, PLAIN, []),
            (ROUTER, PLAIN, [0]),
            (MODEL, PLAIN, [1]),
            (MODEL, PLAIN, [1]),
            (MODEL, PLAIN, [2, 3]),
        ],
        "skip": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0, 1])],
    }


def random_graph_problem(random: Random, points: int = 3) -> PlanningProblem:
    """A small graph of any kind, with any of the limits, pins and transitions."""
    shape = random.choice(list(shapes().values()))
    varying = random.random() < 0.4
    compat = random.choice([Compat.PAPER, Compat.PAPER, Compat.TAIL, Compat.TAIL, Compat.IPA_ARTIFACT])
    stages: list[StageProblem] = []
    for at, (kind, combine, parents) in enumerate(shape):
        free = kind is not MODEL and random.random() < 0.5
        stage_points = () if free else _points(random, points)
        edges = tuple(_edge(random, shape, stages, parent, varying) for parent in parents)
        if len(edges) > 1:
            # What a join gets must be equal, whichever way it comes.
            edges = tuple(replace(edge, fan_out=1.0) for edge in edges)
        stages.append(
            StageProblem(
                f"s{at}",
                stage_points,
                edges,
                random.choice([0.02, 0.1]),
                kind,
                combine,
                StageBounds(max_replicas=random.choice([None, None, 3])),
                Pin(variant=stage_points[0].variant) if stage_points and random.random() < 0.1 else Pin(),
            )
        )
    stages = _with_equal_joins(stages)
    loose_s = sum(max((p.latency_s for p in stage.points), default=0.0) for stage in stages)
    # Weights at random, or those of an order: the most accurate, or the cheapest with a floor.
    order = random.choice([None, None, None, (1.0, 1e-6), (1e-6, 1.0)])
    floor = random.choice([None, None, random.uniform(0.2, 0.7)])
    alpha, beta = random.choice([0.0, 1.0, 5.0, 40.0]), random.choice([0.0, 0.05, 0.5])
    objective = Objective(
        alpha=alpha if order is None else order[0],
        beta=beta if order is None else order[1],
        delta=random.choice([0.0, 1e-6, 1e-3]),
        accuracy_rule=random.choice(list(AccuracyRule)),
        rank_floor=0.05,
        max_cost_cores=random.choice([None, None, random.uniform(3, 25)]),
        transition_per_core=random.choice([0.0, 0.02]),
    )
    bounds = Bounds(
        cores=random.choice([None, None, random.uniform(4, 40)]),
        transition_cores=random.choice([None, None, 40.0]),
        memory_gib=random.choice([None, None, random.uniform(2, 30)]),
        max_replicas=random.choice([None, 6]),
        accuracy_floor=random.uniform(0.1, 0.6) if order == (1e-6, 1.0) else floor,
    )
    running = _running(random, stages) if random.random() < 0.4 else ()
    switches = tuple(stage.name for stage in stages if running and random.random() < 0.2)
    rate_rps = random.choice([1.0, 5.0, 12.0, random.uniform(1, 20)])
    sla_s = loose_s * random.choice([0.4, 0.8, 1.5, 4.0])
    return PlanningProblem(
        "graph",
        rate_rps,
        sla_s,
        tuple(stages),
        objective,
        bounds,
        compat,
        random.choice([90.0, 99.0]),
        running,
        replace(random.choice([SIDE_BY_SIDE, DEPLOYMENT, PROCESSES]), switches=switches),
    )


GPU = "nvidia.com/gpu"


def random_resource_problem(random: Random, points: int = 3) -> PlanningProblem:
    """A small graph whose cores, memory and accelerators are limited, some of them scarce; often priced."""
    problem = random_graph_problem(random, points)
    stages = []
    for stage in problem.stages:
        variants = {point.variant for point in stage.points}
        counts = {name: random.choice([0, 0, 1, 1, 2]) for name in sorted(variants)}
        fitted = tuple(
            replace(point, accelerators={GPU: counts[point.variant]} if counts[point.variant] else {})
            for point in stage.points
        )
        stages.append(replace(stage, points=fitted))
    bounds = replace(
        problem.bounds,
        cores=problem.bounds.cores or random.uniform(6, 40),
        memory_gib=random.choice([random.uniform(2, 8), random.uniform(4, 30)]),
        accelerators={GPU: random.choice([0, 2, 4, 8])},
    )
    each = {
        "cores": random.choice([0.0, 0.04, 1.0]),
        "memory": random.choice([0.0, 0.005, 0.3]),
        GPU: random.choice([0.0, 0.7, 2.5]),
    }
    prices = random.choice([IN_CORES, Prices(each, is_money=True)])
    return replace(problem, stages=tuple(stages), bounds=bounds, prices=prices)


def _points(random: Random, count: int) -> tuple[OperatingPoint, ...]:
    base_s = random.uniform(0.01, 0.1)
    points = []
    for rank in range(count):
        batch_size, cores = random.choice([1, 2, 4]), random.choice([1.0, 2.0])
        latency_s = base_s * (1 + rank) * (0.5 + 0.5 * batch_size) / cores**0.8
        mean_s = latency_s * random.uniform(0.6, 1.0)
        points.append(
            OperatingPoint(
                f"v{rank % 2}" if random.random() < 0.3 else f"v{rank}",
                0.0,
                batch_size,
                cores,
                latency_s,
                batch_size / mean_s,
                mean_s,
            )
        )
    accuracy = {f"v{rank}": 0.4 + 0.55 * (rank + random.random()) / count for rank in range(count)}
    memory_gib = {f"v{rank}": random.choice([0.5, 1.0]) for rank in range(count)}
    unique = {(p.variant, p.batch_size, p.cores): p for p in points}
    return tuple(
        replace(point, accuracy=accuracy[point.variant], memory_gib=memory_gib[point.variant])
        for point in unique.values()
    )


def _edge(random: Random, shape: Shape, stages: list[StageProblem], parent: int, varying: bool) -> Edge:
    kind = shape[parent][0]
    share = 1.0
    if kind is ROUTER:
        branches = [at for at, (_, _, parents) in enumerate(shape) if parent in parents]
        share = 0.3 if branches[0] == len(stages) else 0.7
    names = sorted({point.variant for point in stages[parent].points})
    if varying and names:
        return Edge(f"s{parent}", {name: random.choice([1.0, 2.0, 3.0]) for name in names}, share)
    return Edge(f"s{parent}", random.choice([1.0, 1.0, 2.0]), share)


def _with_equal_joins(stages: list[StageProblem]) -> list[StageProblem]:
    """All ways to a stage with several parents bring the same items."""
    if not any(len(stage.after) > 1 for stage in stages):
        return stages
    plain: list[StageProblem] = []
    shared = stages[1].after[0].fan_out if len(stages) > 1 else 1.0
    for stage in stages:
        edges = []
        for edge in stage.after:
            from_root = edge.parent == "s0" and len(stage.after) == 1
            edges.append(replace(edge, fan_out=shared if from_root and len(stages) > 3 else 1.0))
        plain.append(replace(stage, after=tuple(edges)))
    return plain


def _running(random: Random, stages: list[StageProblem]) -> tuple[StageConfig, ...]:
    configs = []
    for stage in stages:
        if stage.points:
            point = random.choice(stage.points)
            configs.append(
                StageConfig(stage.name, point.variant, point.batch_size, point.cores, random.randint(1, 4))
            )
    return tuple(configs)
