"""Random problems that look like measured profiles, the same for the same cell and seed.

What the measured profiles show (profiles/): the most accurate variant of a stage takes 3 to 20 times as
long as the fastest; a batch takes nearly as long as its items one by one, less a start; twice the cores
make it 1.4 to 1.9 times as fast. SLAs and weights are drawn so that most problems have a plan and the SLA
costs something in most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random

from experiments.bench.cell import Cell
from ipa.model.pipeline import AccuracyRule, Edge, Objective
from ipa.model.profile import OperatingPoint
from ipa.optimize.problem import PlanningProblem, StageProblem

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
CORE_SIZES = (1.0, 2.0, 4.0, 8.0)
# Where cores are no decision, a replica has the least cores at which it carries this rate (base allocation).
THRESHOLD_RPS = 4.0
# A batch is closed after this, as in the pipelines that ship with the project.
BATCH_TIMEOUT_S = 0.1


def instance(cell: Cell, seed: int) -> PlanningProblem:
    """The cell's problem of that seed."""
    random = Random(f"{cell} {seed}")
    tables = [_stage_points(random, cell) for _ in range(cell.stages)]
    rate_rps = random.uniform(4.0, 40.0)
    mean_s = sum(
        sum(each) / len(each)
        for each in ([point.latency_s for point in points if point.batch_size == 1] for points in tables)
    )
    return PlanningProblem(
        pipeline=f"{cell} {seed}",
        rate_rps=rate_rps,
        sla_s=mean_s * 10 ** random.uniform(-0.6, 0.8),
        stages=chain_of(tables),
        objective=_objective(random, cell, tables, rate_rps),
        compat=cell.compat,
    )


def chain_of(tables: Sequence[tuple[OperatingPoint, ...]]) -> tuple[StageProblem, ...]:
    """Stages one after the other with those points: the one place that knows the fields of a stage."""
    return tuple(
        StageProblem(
            f"s{at}",
            points,
            after=(Edge(f"s{at - 1}"),) if at else (),
            batch_timeout_s=BATCH_TIMEOUT_S,
        )
        for at, points in enumerate(tables)
    )


def _stage_points(random: Random, cell: Cell) -> tuple[OperatingPoint, ...]:
    """The operating points of one stage, more accurate variants mostly slower."""
    lightest_s = 0.02 * 10 ** random.uniform(0.0, 0.7)
    span = 3.0 * 10 ** random.uniform(0.0, 0.8)
    low = random.uniform(0.45, 0.75)
    high = low + random.uniform(0.1, 0.9) * (0.97 - low)
    speed_up = random.uniform(0.5, 0.9)
    points: list[OperatingPoint] = []
    for rank in range(cell.variants):
        place = rank / max(1, cell.variants - 1)
        # Accuracy rises ever more slowly with the size of a model; a few are no better than smaller ones.
        accuracy = low + (high - low) * place ** random.uniform(0.5, 0.9) * random.uniform(0.97, 1.0)
        item_s = lightest_s * span**place * random.uniform(0.9, 1.15)
        start = random.uniform(0.05, 1.2)
        for cores in _core_sizes(cell, item_s, speed_up):
            for batch_size in BATCH_SIZES[: cell.batches]:
                mean_s = (
                    item_s * (start + batch_size) / (1 + start) / cores**speed_up * random.uniform(0.97, 1.03)
                )
                points.append(
                    OperatingPoint(
                        variant=f"v{rank:02}",
                        accuracy=accuracy,
                        batch_size=batch_size,
                        cores=cores,
                        latency_s=mean_s * random.uniform(1.1, 1.5),
                        capacity_rps=batch_size / mean_s,
                        latency_mean_s=mean_s,
                    )
                )
    return tuple(points)


def _core_sizes(cell: Cell, item_s: float, speed_up: float) -> tuple[float, ...]:
    if cell.cores > 1:
        return CORE_SIZES[: cell.cores]
    for cores in CORE_SIZES:
        if cores**speed_up / item_s >= THRESHOLD_RPS:
            return (cores,)
    return CORE_SIZES[-1:]


def _objective(
    random: Random, cell: Cell, tables: Sequence[tuple[OperatingPoint, ...]], rate_rps: float
) -> Objective:
    """Weights under which neither the cheapest nor the most accurate variants win everywhere."""
    light = [min(points, key=lambda point: point.cores / point.capacity_rps) for points in tables]
    best = [max(points, key=lambda point: point.accuracy) for points in tables]
    total = prod if cell.accuracy is AccuracyRule.PRODUCT else sum
    gain = total([point.accuracy for point in best]) - total([point.accuracy for point in light])
    cores = sum(
        rate_rps * (rich.cores / rich.capacity_rps - poor.cores / poor.capacity_rps)
        for rich, poor in zip(best, light, strict=True)
    )
    return Objective(
        alpha=cores / max(gain, 1e-6) * 10 ** random.uniform(-0.7, 0.5),
        beta=1.0,
        delta=1e-6,
        accuracy_rule=cell.accuracy,
    )
