"""A stage's operating points as columns, for arithmetic on all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa.model.profile import OperatingPoint
from ipa.model.resources import Resources, beside_cores, beside_of

Array = NDArray[np.float64]
Index = NDArray[np.intp]


NAMES = (
    *("accuracy", "batch_size", "cores", "latency_s"),
    *("mean_s", "capacity_rps", "single_s"),
)
ROWS = {name: at for at, name in enumerate(NAMES)}


class TableRow:
    """A row of numbers of an object's table, as an attribute."""

    def __init__(self, table: str, at: int) -> None:
        self._table, self._at = table, at

    def __get__(self, owner: object, kind: object) -> Array:
        row: Array = getattr(owner, self._table)[self._at]
        return row


@dataclass(frozen=True, slots=True, eq=False)
class PointColumns:
    """One entry a point, in the order of the points; `variant` is an index into `variants`.

    `order` are the points by names, batch size and cores; `place` finds a point by these. `table` has the
    numbers as rows (`ROWS`): the accuracy of each point's variant, items of a full batch, cores of a replica,
    the service time of a full batch at its high percentile and on average, items a second that a replica
    carries, the mean time of a batch of one. `beside` has the amounts of a replica's resources other than
    cores, by name, those above zero, and `variant_beside` all of them by variant.
    """

    variants: tuple[str, ...]
    order: Index
    place: Mapping[tuple[str, int, float], int]
    variant_accuracy: tuple[float, ...]
    variant: Index
    table: Array
    beside: Mapping[str, Array]
    variant_beside: tuple[Resources, ...]

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
                point.latency_s if point.latency_mean_s is None else point.latency_mean_s,
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
    single_s = [_single_s(*smallest[point.variant, point.cores]) for point in points]
    table = np.vstack([rows.T, np.array(single_s, dtype=np.float64)])
    _, batch_size, cores = table[:3]
    variant = np.array([number[point.variant] for point in points], dtype=np.intp)
    rank = np.argsort(np.argsort(np.array(variants, dtype=str)))
    return PointColumns(
        variants,
        np.lexsort((cores, batch_size, rank[variant])) if len(points) else variant,
        {(p.variant, p.batch_size, p.cores): at for at, p in reversed(list(enumerate(points)))},
        tuple({point.variant: point.accuracy for point in points}.values()),
        variant,
        table,
        _beside(points),
        tuple({point.variant: beside_of(point) for point in points}.values()),
    )


def _beside(points: Sequence[OperatingPoint]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for at, point in enumerate(points):
        for name, amount in beside_cores(point).items():
            found.setdefault(name, np.zeros(len(points)))[at] = amount
    return found


def _single_s(batch_size: int, mean_s: float) -> float:
    """The time of a batch of one from that of the smallest known batch: half of it is taken as fixed."""
    return mean_s * (0.5 + 0.5 / batch_size)
