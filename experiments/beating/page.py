"""The comparison with IPA's planner as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.beating.cells import FRUGAL, IPA, MEDIAN, OURS, OURS_TOLD, TOLD, Outcome, by_cell
from experiments.bench.render import aligned
from ipa.report.blocks import mean_of

# The same policy that is told the true rates.
TOLD_OF = {OURS: OURS_TOLD, FRUGAL: TOLD}
Cell = dict[str, list[Outcome]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system beside a baseline over the cells of one weight set; ratios are system / baseline, by cell.

    `cores_half_width` is that of the mean's 95 % interval over pipelines, since the loads of one are alike.
    """

    cells: int
    cores_mean: float
    cores_half_width: float | None
    cores_worst: tuple[float, str]
    pas_worst: tuple[float, str]
    late_mean: float
    late_worst: tuple[float, str]
    baseline_late_mean: float


def compare(outcomes: Sequence[Outcome], objective: str, system: str, baseline: str) -> Comparison:
    """The system beside the baseline with those weights."""
    cells = list(by_cell(outcomes, objective))
    names = [f"{cell[system][0].pipeline} {cell[system][0].workload}" for cell in cells]

    def ratios(value: str) -> list[float]:
        return [mean(cell[system], value) / mean(cell[baseline], value) for cell in cells]

    def worst(values: Sequence[float], pick: Callable[..., tuple[float, str]] = max) -> tuple[float, str]:
        return pick(zip(values, names, strict=True))

    cores = ratios("cores")
    late = [mean(cell[system], "late_ratio") for cell in cells]
    by_pipeline: dict[str, list[float]] = {}
    for cell, ratio in zip(cells, cores, strict=True):
        by_pipeline.setdefault(cell[system][0].pipeline, []).append(ratio)
    interval = mean_of([fmean(values) for values in by_pipeline.values()])
    return Comparison(
        len(cells),
        fmean(cores),
        interval.half_width if interval else None,
        worst(cores),
        worst(ratios("pas"), min),
        fmean(late),
        worst(late),
        fmean(mean(cell[baseline], "late_ratio") for cell in cells),
    )


def mean(runs: Sequence[Outcome], value: str) -> float:
    """The mean of the figure over the runs."""
    return fmean(getattr(each, value) for each in runs)


def _row(system: str, baseline: str, comparison: Comparison) -> list[str]:
    half = "" if comparison.cores_half_width is None else f" ± {comparison.cores_half_width:.0%}"
    return [
        system,
        baseline,
        f"{comparison.cores_mean:.0%}{half}",
        f"{comparison.cores_worst[0]:.0%} ({comparison.cores_worst[1]})",
        f"{comparison.pas_worst[0]:.2%} ({comparison.pas_worst[1]})",
        f"{comparison.late_mean:.2%}, {comparison.late_worst[0]:.2%} ({comparison.late_worst[1]})",
        f"{comparison.baseline_late_mean:.2%}",
    ]


def comparison_table(outcomes: Sequence[Outcome], objective: str) -> str:
    """A line for each of our policies beside each baseline."""
    rows = [
        [
            "policy",
            "beside",
            "cores, mean",
            "worst",
            "least accuracy",
            "late: mean, worst",
            "baseline late",
        ]
    ]
    for system in (OURS, FRUGAL):
        for baseline in (IPA, MEDIAN, TOLD_OF[system]):
            label = "itself, told the true rates" if baseline == TOLD_OF[system] else baseline
            rows.append(_row(system, label, compare(outcomes, objective, system, baseline)))
    return "\n".join(aligned(rows))


def cell_table(outcomes: Sequence[Outcome], objective: str) -> str:
    """A line a cell: cores, PAS in percent, late in percent and changes of each system, means over seeds."""
    systems = (IPA, MEDIAN, OURS, FRUGAL)
    head = ["pipeline", "workload"]
    for system in systems:
        head += [f"{system}: cores", "PAS", "late", "changes"]
    rows = [head]
    for cell in by_cell(outcomes, objective):
        first = cell[IPA][0]
        row = [first.pipeline, first.workload]
        for system in systems:
            runs = cell[system]
            row += [
                f"{mean(runs, 'cores'):.2f}",
                f"{100 * mean(runs, 'pas'):.2f}",
                f"{100 * mean(runs, 'late_ratio'):.2f} %",
                f"{mean(runs, 'changes'):.0f}",
            ]
        rows.append(row)
    return "\n".join(aligned(rows))


def measured(outcomes: Sequence[Outcome], published_loads: bool) -> str:
    """The comparisons of all weight sets, every figure from the outcomes."""
    parts = []
    for objective in dict.fromkeys(each.objective for each in outcomes):
        cell: Cell = next(by_cell(outcomes, objective))
        seeds = len(cell[IPA])
        loads = (
            "the published loads" if published_loads else "synthetic loads of the same mean, range and shape"
        )
        parts += [
            f"Weights `{objective}`, {loads}, {seeds} seed{'' if seeds == 1 else 's'} per cell:",
            comparison_table(outcomes, objective),
        ]
    return "\n\n".join(parts)


def cells(outcomes: Sequence[Outcome]) -> str:
    """The table of cells of each weight set."""
    objectives = dict.fromkeys(each.objective for each in outcomes)
    return "\n\n".join(f"## `{each}`\n\n{cell_table(outcomes, each)}" for each in objectives) + "\n"
