"""The planning problem: the best option of each stage for a rate, within an SLA and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import InputError
from ipa.model.pipeline import (
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
from ipa.model.resources import IN_CORES, NO_RESOURCES, Prices, Resources, beside_of, total
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.graph import Graph, graph_of

Array = NDArray[np.float64]
Index = NDArray[np.intp]


NAMES = (
    *("accuracy", "batch_size", "cores", "latency_s"),
    *("mean_s", "capacity_rps", "single_s"),
)
ROWS = {name: at for at, name in enumerate(NAMES)}


class TableRow:
    """A descriptor for one row of an object's table of numbers."""

    def __init__(self, table: str, at: int) -> None:
        self._table, self._at = table, at

    def __get__(self, owner: object, kind: object) -> NDArray[Any]:
        row: NDArray[Any] = getattr(owner, self._table)[self._at]
        return row


@dataclass(frozen=True, slots=True, eq=False)
class PointColumns:
    """Columns with one entry per point, in the order of the points; `variant` is an index into `variants`.

    `order` sorts the points by names, batch size and cores; `place` finds a point by these. `table` has the
    numbers as rows (`ROWS`): the accuracy of each point's variant, items of a full batch, cores of a replica,
    the service time of a full batch at its high percentile and on average, items a second that a replica
    carries, the mean time of a batch of one. `beside` has, by name, the amounts of a replica's resources
    other than cores that are above zero.
    """

    variants: tuple[str, ...]
    order: Index
    place: Mapping[tuple[str, int, float], int]
    variant_accuracy: tuple[float, ...]
    mean_accuracy: tuple[float, ...]
    variant: Index
    table: Array
    beside: Mapping[str, Array]

    accuracy = TableRow("table", ROWS["accuracy"])
    batch_size = TableRow("table", ROWS["batch_size"])
    cores = TableRow("table", ROWS["cores"])
    latency_s = TableRow("table", ROWS["latency_s"])
    mean_s = TableRow("table", ROWS["mean_s"])
    capacity_rps = TableRow("table", ROWS["capacity_rps"])
    single_s = TableRow("table", ROWS["single_s"])

    def __len__(self) -> int:
        return len(self.variant)


def columns_of(points: Sequence[OperatingPoint]) -> PointColumns:
    """The columns of the points."""
    variants = tuple(dict.fromkeys(point.variant for point in points))
    number = {name: at for at, name in enumerate(variants)}
    rows = np.array(
        [
            (
                point.accuracy,
                point.batch_size,
                point.cores,
                point.latency_s,
                point.mean_s,
                point.capacity_rps,
            )
            for point in points
        ],
        dtype=np.float64,
    ).reshape(len(points), 6)
    smallest: dict[tuple[str, float], tuple[int, float]] = {}
    for point, mean_s in zip(points, rows[:, 4].tolist(), strict=True):
        key = (point.variant, point.cores)
        if key not in smallest or point.batch_size < smallest[key][0]:
            smallest[key] = (point.batch_size, mean_s)
    # Half of the time of the smallest known batch is taken as fixed.
    least = (smallest[point.variant, point.cores] for point in points)
    single_s = [mean_s * (0.5 + 0.5 / batch_size) for batch_size, mean_s in least]
    table = np.vstack([rows.T, np.array(single_s, dtype=np.float64)])
    _, batch_size, cores = table[:3]
    variant = np.array([number[point.variant] for point in points], dtype=np.intp)
    rank = np.argsort(np.argsort(np.array(variants, dtype=str)))
    return PointColumns(
        variants,
        np.lexsort((cores, batch_size, rank[variant])) if len(points) else variant,
        {(p.variant, p.batch_size, p.cores): at for at, p in reversed(list(enumerate(points)))},
        tuple({point.variant: point.accuracy for point in points}.values()),
        tuple({it.variant: it.mean_accuracy or it.accuracy for it in points}.values()),
        variant,
        table,
        _beside(points),
    )


def _beside(points: Sequence[OperatingPoint]) -> dict[str, Array]:
    by_resource: dict[str, Array] = {}
    for at, point in enumerate(points):
        for name, amount in beside_of(point).amounts.items():
            by_resource.setdefault(name, np.zeros(len(points)))[at] = amount
    return by_resource


class Compat(StrEnum):
    """The latency formula.

    `tail`: the quantile of the time at each stage under random arrivals, composed along each path. `paper`:
    the formula of the IPA paper, worst-case batch forming and service time added up. `ipa-artifact`: the
    formula of the authors' released program, whose queueing term is negative (see
    `ipa.queueing.service.released_wait_s`), to compare decisions with theirs.
    """

    TAIL = "tail"
    PAPER = "paper"
    IPA_ARTIFACT = "ipa-artifact"


class BatchPlace(IntEnum):
    """The place where a stage's batches form: one queue, or each replica.

    Replicas of the first stage and replicas of later stages are different places.
    """

    CENTRAL = 0
    IN_REPLICA = 1
    BEHIND = 2


@dataclass(frozen=True, slots=True)
class StageProblem:
    """A stage and the operating points of its replicas. `batch_timeout_s` None: batches wait until full.

    A router or combiner without points takes neither time nor cores.
    """

    name: str
    points: tuple[OperatingPoint, ...]
    after: tuple[Edge, ...] = ()
    batch_timeout_s: float | None = None
    kind: StageKind = StageKind.MODEL
    combine: CombineRule = CombineRule.PRODUCT
    bounds: StageBounds = field(default_factory=StageBounds)
    pin: Pin = field(default_factory=Pin)
    # The reason why it has batch size 1 only; empty if it may batch.
    unbatched: str = ""
    # True if each replica batches the requests that were spread to it.
    in_replica: bool = False
    # The time of a request on its way to the stage and back; part of its mean under `Compat.TAIL`.
    hop_s: float = 0.0
    columns: PointColumns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", columns_of(self.points))

    @property
    def is_free(self) -> bool:
        """True if the pipeline's own router does the work of the stage."""
        return not self.points and self.kind in (StageKind.ROUTER, StageKind.COMBINER)


@dataclass(frozen=True, slots=True)
class PlanningProblem:
    """A graph of stages in topological order, the rate it must carry, and the objective.

    `running` is the running configuration, empty if there is none or a change is free; `rolling` tells how it
    is replaced. `prices` give the cost of a plan's resources. InputError: a rate or an SLA not above 0, or
    too large a graph.
    """

    # Not compared: a problem of another name has the same plans.
    pipeline: str = field(compare=False)
    rate_rps: float
    sla_s: float
    stages: tuple[StageProblem, ...]
    objective: Objective
    bounds: Bounds = field(default_factory=Bounds)
    compat: Compat = Compat.PAPER
    percentile: float = 99.0
    running: tuple[StageConfig, ...] = ()
    rolling: Rolling = SIDE_BY_SIDE
    prices: Prices = IN_CORES
    graph: Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("rate_rps", self.rate_rps), ("sla_s", self.sla_s)):
            if not (isfinite(value) and value > 0):
                raise InputError(
                    f"pipeline {self.pipeline!r}: {name} must be a finite number above 0, not {value!r}"
                )
        try:
            object.__setattr__(self, "graph", graph_of(self.stages))
        except ValueError as error:
            raise InputError(f"pipeline {self.pipeline!r} cannot be planned: {error}") from error

    def batching(self, index: int) -> BatchPlace:
        """The place where a stage's batches form."""
        stage = self.stages[index]
        if not stage.in_replica:
            return BatchPlace.CENTRAL
        return BatchPlace.BEHIND if stage.after else BatchPlace.IN_REPLICA

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the requests that visit each stage; 0 if the pipeline's own router does its work."""
        return tuple(
            0.0 if stage.is_free else share
            for stage, share in zip(self.stages, self.graph.reach, strict=True)
        )

    @property
    def fixed_cores(self) -> float:
        """Cores of one-off overhead, not of any replica; part of every plan's cost."""
        return self.bounds.overhead.fixed_cores

    def with_overhead(self, config: StageConfig) -> StageConfig:
        """The configuration with the replica's overhead added to its cores per replica."""
        return self.bounds.overhead.with_overhead(config)

    def beside(self, stage: StageProblem, variant: str) -> Resources:
        """A replica's resources other than cores, for that variant; none if the stage lacks the variant."""
        return next((beside_of(point) for point in stage.points if point.variant == variant), NO_RESOURCES)

    def resources(self, configs: Sequence[StageConfig]) -> Resources:
        """The resources of all replicas, overhead included."""
        beside = total(
            self.beside(stage, config.variant) * config.replicas
            for stage in self.stages
            for config in configs
            if config.stage == stage.name
        )
        return beside + Resources(cpu_cores=self.bounds.overhead.cores(configs))

    def allowed(self, stage: StageProblem) -> NDArray[np.bool_]:
        """`allows` for all points of the stage at once."""
        columns, pin = stage.columns, stage.pin
        allowed = np.ones(len(columns), dtype=bool)
        if self.objective.max_batch_size is not None:
            allowed &= columns.batch_size <= self.objective.max_batch_size
        for listed in (self.bounds.batch_sizes, stage.bounds.batch_sizes):
            if listed is not None:
                allowed &= np.isin(columns.batch_size, listed)
        if pin.variant is not None:
            names = np.array([name == pin.variant for name in columns.variants], dtype=bool)
            allowed &= names[columns.variant]
        if pin.batch_size is not None:
            allowed &= columns.batch_size == pin.batch_size
        if pin.cores is not None:
            allowed &= columns.cores == pin.cores
        return allowed

    def allows(self, stage: StageProblem, point: OperatingPoint) -> bool:
        """True if objective, bounds and pin permit the point."""
        lists = (self.bounds.batch_sizes, stage.bounds.batch_sizes)
        largest, pin = self.objective.max_batch_size, stage.pin
        return (
            (largest is None or point.batch_size <= largest)
            and all(listed is None or point.batch_size in listed for listed in lists)
            and pin.variant in (None, point.variant)
            and pin.batch_size in (None, point.batch_size)
            and pin.cores in (None, point.cores)
        )

    def replica_limits(self, stage: StageProblem) -> tuple[int, int | None]:
        """The fewest and the most replicas of the stage (None: no limit); a pin sets both."""
        if stage.pin.replicas is not None:
            return stage.pin.replicas, stage.pin.replicas
        least = max(1, self.bounds.min_replicas, stage.bounds.min_replicas or 1)
        limits = (self.bounds.max_replicas, self.objective.max_replicas, stage.bounds.max_replicas)
        return least, min((limit for limit in limits if limit is not None), default=None)

    def running_config(self, stage: StageProblem) -> StageConfig | None:
        """The running configuration of the stage, None if unknown."""
        return next((config for config in self.running if config.stage == stage.name), None)
