"""The comparison as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from experiments.bench.render import aligned
from experiments.published.compare import Comparison, Pair

Pick = Callable[[Comparison], float | None]

READINGS: tuple[tuple[str, Pick], ...] = (
    ("at each tick the accuracy of the released rule", lambda cell: cell.tick.saving_ratio),
    (
        "the same, with the p99 under random arrivals within the SLA",
        lambda cell: cell.tail.saving_ratio,
    ),
    ("at each tick at least the cell's PAS", lambda cell: cell.floor.saving_ratio),
    ("the cell's PAS on average over its ticks", lambda cell: cell.mean.saving_ratio),
    ("the same, compared with the cores of the released rule", lambda cell: cell.mean_saving_ratio),
)


def measured(cells: Sequence[Comparison]) -> str:
    """The savings, and what explains them, every figure from the cells."""
    replicas = [cell.tick_replicas for cell in cells]
    base = fmean(pair.base_cores or 0.0 for pair in replicas)
    free = fmean(pair.free_cores or 0.0 for pair in replicas)
    nothing = sum((cell.tick.saving_ratio or 0.0) < 0.005 for cell in cells)
    return (
        f"{summary(cells)}\n\nReplicas of a plan: {base:.1f} with base allocation, {free:.1f} with free "
        f"cores. {nothing} of the {len(cells)} cells save less than half a percent. Mean rates differ from "
        f"those in the logs by at most {percent(max((_rate_off(cell) for cell in cells), default=0.0))}."
    )


def details(cells: Sequence[Comparison]) -> str:
    """A line for each cell, and the plans that differ at its most frequent rate."""
    return "\n".join([*cell_table(cells), "", *example_table(cells), ""])


def summary(cells: Sequence[Comparison]) -> str:
    """The range and the mean of the saving in each reading, over the cells and by pipeline."""
    names = list(dict.fromkeys(cell.cell.pipeline for cell in cells))
    rows = [["fewer cores, no less accuracy", "cells", "range", "mean", *names]]
    for words, pick in READINGS:
        known = [(cell, value) for cell in cells if (value := pick(cell)) is not None]
        values = [value for _, value in known]
        by_name = [[value for cell, value in known if cell.cell.pipeline == name] for name in names]
        rows.append(
            [
                words,
                str(len(values)),
                f"{percent(min(values))} to {percent(max(values))}" if values else "–",
                percent(fmean(values)) if values else "–",
                *(percent(fmean(each)) if each else "–" for each in by_name),
            ]
        )
    return "\n".join(aligned(rows))


def cell_table(cells: Sequence[Comparison]) -> list[str]:
    """A line a cell."""
    head = [
        "pipeline",
        "workload",
        "rate",
        "published rate",
        "published cores",
        "published PAS",
        "released cores",
        "released PAS",
        "base → free",
        "at each tick",
        "random arrivals",
        "floor",
        "mean",
        "against released",
    ]
    rows = [head]
    for cell in cells:
        log = cell.cell.published
        rows.append(
            [
                cell.cell.pipeline,
                cell.cell.workload,
                f"{cell.rate_rps:.1f}",
                f"{log.rate_rps:.1f}" if log else "–",
                f"{log.cores:.1f}" if log else "–",
                f"{100 * log.pas:.2f}" if log else "–",
                f"{cell.released_cores:.1f}",
                f"{100 * cell.released_pas:.2f}",
                _arrow(cell.tick),
                *(percent(pick(cell)) for _, pick in READINGS),
            ]
        )
    return aligned(rows)


def example_table(cells: Sequence[Comparison]) -> list[str]:
    """The plans of both allocations at each cell's most frequent rate, where they differ."""
    rows = [["pipeline", "workload", "rate", "base", "free"]]
    for cell in cells:
        rate_rps, base, free = cell.example
        if base != free:
            rows.append([cell.cell.pipeline, cell.cell.workload, f"{rate_rps:.1f}", base, free])
    return aligned(rows)


def percent(ratio: float | None) -> str:
    """A ratio in percent, a dash for none."""
    if ratio is None:
        return "–"
    # Adding 0 makes a zero that was negative plain.
    return f"{round(100 * ratio, 1) + 0.0:.1f} %"


def _arrow(pair: Pair) -> str:
    base, free = ("–" if value is None else f"{value:.1f}" for value in (pair.base_cores, pair.free_cores))
    return f"{base} → {free}"


def _rate_off(cell: Comparison) -> float:
    """The distance of the mean rate from that in the log, relative to it; 0 without a log."""
    log = cell.cell.published
    return 0.0 if log is None else abs(cell.rate_rps / log.rate_rps - 1)
