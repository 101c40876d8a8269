"""A line of the result: the same keys first in every part of the benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.bench.cell import Cell

Row = dict[str, Any]
HEAD = (
    "engine",
    "stages",
    "variants",
    "batches",
    "cores",
    "accuracy",
    "instances",
    "median_ms",
    "worst_ms",
    "failures",
)


def row_of(
    engine: str,
    size: tuple[int, int, int, int],
    accuracy: str,
    instances: int,
    times_ms: Sequence[float],
    failures: int,
    **more: Any,
) -> Row:
    """The row; no times where nothing was timed. `size` is stages, variants, batches, cores."""
    times = (median_of(times_ms), max(times_ms, default=None))
    return {**dict(zip(HEAD, (engine, *size, accuracy, instances, *times, failures), strict=True)), **more}


def cell_row(
    engine: str, cell: Cell, instances: int, times_ms: Sequence[float], failures: int, **more: Any
) -> Row:
    """The row of an engine in a cell."""
    size = (cell.stages, cell.variants, cell.batches, cell.cores)
    more = {"compat": cell.compat.value, **more}
    return row_of(engine, size, cell.accuracy.value, instances, times_ms, failures, **more)


def median_of(values: Sequence[float]) -> float | None:
    """The median, None of nothing."""
    return statistics.median(values) if values else None
