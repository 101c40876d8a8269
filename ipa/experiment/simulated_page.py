"""The report of an experiment whose cells are simulations, and its table of differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ipa.experiment.cells import Finished
from ipa.experiment.experiment import Experiment
from ipa.experiment.over_time import over_time
from ipa.experiment.runners import ExperimentRunner
from ipa.experiment.simulated import cells, work
from ipa.experiment.simulated_grid import CaseGrid, CaseKey, grid_of, number
from ipa.report.blocks import (
    Block,
    FigureBlock,
    Folded,
    Heading,
    Table,
    TableCell,
    figure,
    judged,
)
from ipa.report.plots import CellFigure, Place, over_cells, trade_off
from ipa.report.stats import Mean, mean_of

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ReportMetric:
    """A figure of the summary: its column, heading, format and factor, and how differences of it are told.

    `relative`: as a ratio; `more_is_better` None: a difference is neither.
    """

    key: str
    heading: str
    form: str
    scale: float = 1.0
    more_is_better: bool | None = None
    difference: str = ""
    difference_form: str = ""
    relative: bool = False

    @property
    def difference_scale(self) -> float:
        """The factor of its differences: percent, points or the unit of the figure."""
        return 100.0 if self.relative else self.scale


METRICS = (
    ReportMetric("pas_mean", "PAS %", ".2f", 100.0, True, "PAS, points", "+.2f"),
    ReportMetric("cores_mean", "cores", ".2f", 1.0, False, "cores, %", "+.1f", relative=True),
    ReportMetric("violation_ratio", "late or lost %", ".2f", 100.0, False, "late or lost, points", "+.2f"),
    ReportMetric("latency_p50_s", "p50 s", ".3f"),
    ReportMetric("latency_p99_s", "p99 s", ".2f", 1.0, False, "p99, s", "+.2f"),
    ReportMetric("changes", "changes", ".1f", 1.0, None, "changes", "+.1f"),
)
COMPARED = tuple(metric for metric in METRICS if metric.difference)


def blocks(experiment: Experiment, finished: Sequence[Finished]) -> list[Block]:
    """All cases in one table, differences, every case, and the representative one over time."""
    grid = grid_of(experiment, finished)
    found = [Heading("All cases together"), _overall_table(grid), *_differences(grid)]
    if len(grid.policies) > 1:
        found += beaten(grid)
    if len(grid.policies) * len(grid.cases) > 1:
        found += [Heading("Every case"), *_pictures(grid)]
    found.append(Folded("All figures of every case", [*_tables(grid), *_by_seed(grid)]))
    example = over_time(grid, finished)
    return found + ([Heading("The representative case over time"), *example] if example else [])


def headline(experiment: Experiment, finished: Sequence[Finished]) -> Table:
    """The table over all cases, for the index."""
    return _overall_table(grid_of(experiment, finished))


def words(experiment: Experiment) -> str:
    """A cell in a sentence."""
    lasting = "as long as the trace" if experiment.minutes is None else f"{experiment.minutes:g} minutes"
    return (
        f"Each cell is a simulation ({lasting}, {experiment.spacing} arrivals) with a decision every "
        f"{experiment.interval_s:g} s. Under a seed each policy has the same requests."
    )


RUNNER = ExperimentRunner(cells, work, blocks, headline, words)


def differences(experiment: Experiment, finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """The difference of every policy from the reference, a row for each case, policy and figure.

    With the ends of the 95 % interval of the pairs, which are NaN-free: None if unknown.
    """
    grid = grid_of(experiment, finished)
    rows = []
    for case in grid.cases if grid.reference is not None else ():
        for policy in (policy for policy in grid.policies if policy != grid.reference):
            for metric in COMPARED:
                mean = grid.against(case, policy, metric.key, relative=metric.relative)
                known = mean is not None and mean.half_width is not None
                rows.append(
                    {
                        **dict(zip(("pipeline", "workload", "sla"), case, strict=True)),
                        "policy": policy,
                        "reference": grid.reference,
                        "figure": metric.key,
                        "is_relative": metric.relative,
                        "difference": None if mean is None else mean.value,
                        "low": mean.low if mean and known else None,
                        "high": mean.high if mean and known else None,
                        "pairs": 0 if mean is None else mean.count,
                    }
                )
    return rows


def _overall_table(grid: CaseGrid) -> Table:
    rows = [
        [
            TableCell(policy + grid.mark(policy)),
            *(figure(grid.overall(policy, it.key), it.form, scale=it.scale) for it in METRICS),
        ]
        for policy in grid.policies
    ]
    seeds = len(grid.seeds)
    of = "one case" if len(grid.cases) == 1 else f"{len(grid.cases)} cases"
    how = (
        f"Means over {of}; ± is half a 95 % interval (Student's t over {seeds} seeds)."
        if seeds > 1
        else f"Means over {of}, of one seed: their error is unknown."
    )
    how += " Late or lost: of the requests sent. Cores: all that were paid, old and new replicas of a change."
    return Table(how, ["policy", *(it.heading for it in METRICS)], [rows])


def _differences(grid: CaseGrid) -> list[Block]:
    """The differences from the reference over all cases, and their two main ones as a figure."""
    if grid.reference is None or len(grid.policies) < 2:
        return []
    others = [policy for policy in grid.policies if policy != grid.reference]

    def change(policy: str, metric: ReportMetric) -> Mean | None:
        found = grid.overall(policy, metric.key, against="ratio" if metric.relative else "less")
        return found and found.scaled(metric.difference_scale)

    rows = [
        [
            TableCell(policy + grid.mark(policy)),
            *(
                figure(mean, it.difference_form, kind=_kind(mean, it))
                for it in COMPARED
                for mean in [change(policy, it)]
            ),
        ]
        for policy in others
    ]
    caption = f"Differences from {grid.reference} under the same requests"
    caption += (
        ", paired by seed; ± is half the 95 % interval of the pairs (Student's t). ✓ better, ✗ worse: the "
        "interval excludes 0, and the table resolves the difference."
        if len(grid.seeds) > 1
        else ", of one seed: how much is chance is unknown."
    )
    found: list[Block] = [Table(caption, ["policy", *(it.difference for it in COMPARED)], [rows])]
    places = [
        Place(policy, x, y)
        for policy in others
        if (x := change(policy, METRICS[1])) and (y := change(policy, METRICS[0]))
    ]
    title = f"Accuracy and cores against {grid.reference}"
    caption = f"{title}, which is where the lines cross; bars are 95 % intervals of the pairs."
    return [*found, FigureBlock(caption, trade_off(title, places, "cores, % more", "PAS, points more"))]


def _kind(mean: Mean | None, metric: ReportMetric) -> str:
    if metric.more_is_better is None:
        return ""
    return judged(mean, 0.0, more_is_better=metric.more_is_better)


def _pictures(grid: CaseGrid) -> list[Block]:
    """Cores and accuracy of every case, against the reference if there is one; late and lost requests."""

    def over(value: Callable[[CaseKey, str], V]) -> list[list[V]]:
        return [[value(case, policy) for policy in grid.policies] for case in grid.cases]

    names = [_case_name(grid, case) for case in grid.cases]
    of = "" if grid.reference is None else f", of those of {grid.reference}"
    than = "%" if grid.reference is None else f"points more than {grid.reference}"

    def late(case: CaseKey, policy: str) -> Mean | None:
        mean = grid.mean(case, policy, "violation_ratio")
        return mean and mean.scaled(100)

    shown = [
        CellFigure(
            "Cores",
            f"cores{of}",
            names,
            grid.policies,
            over(lambda case, policy: _cores(grid, case, policy)),
            log=True,
            line=1.0 if of else None,
            least_span=0.02,
        ),
        CellFigure(
            "Accuracy of a request (PAS)",
            f"PAS, {than}",
            names,
            grid.policies,
            over(lambda case, policy: _pas(grid, case, policy)),
            line=0.0 if of else None,
            least_span=0.1,
        ),
        CellFigure(
            "Late or lost", "% of the requests sent", names, grid.policies, over(late), least_span=0.1
        ),
    ]
    end = "; bars are 95 % intervals over the seeds." if len(grid.seeds) > 1 else ", of one seed."
    return [
        FigureBlock(f"{plot.title} in every case ({plot.x_label}){end}", over_cells(plot)) for plot in shown
    ]


def _cores(grid: CaseGrid, case: CaseKey, policy: str) -> Mean | None:
    if grid.reference is None:
        return grid.mean(case, policy, "cores_mean")
    change = grid.against(case, policy, "cores_mean", relative=True)
    return change and replace(change, value=change.value + 1)


def _pas(grid: CaseGrid, case: CaseKey, policy: str) -> Mean | None:
    mean = (
        grid.mean(case, policy, "pas_mean")
        if grid.reference is None
        else grid.against(case, policy, "pas_mean", relative=False)
    )
    return mean and mean.scaled(100)


def _case_name(grid: CaseGrid, case: CaseKey) -> str:
    varied = [at for at in range(3) if len({each[at] for each in grid.cases}) > 1]
    return " ".join(case[at] for at in varied) or case[0]


def _by_seed(grid: CaseGrid) -> list[Block]:
    """The figures of each run, where there is one case with several seeds."""
    if len(grid.cases) > 1 or len(grid.seeds) < 2:
        return []
    groups = [
        [
            [
                TableCell("" if at else policy),
                TableCell(str(seed)),
                *(figure(mean_of([number(row.get(it.key))]), it.form, scale=it.scale) for it in METRICS),
                figure(mean_of([number(row.get("lost"))]), ".0f"),
            ]
            for at, (seed, row) in enumerate(grid.rows[grid.cases[0], policy].items())
        ]
        for policy in grid.policies
    ]
    return [Table("By seed.", ["policy", "seed", *(it.heading for it in METRICS), "lost"], groups, texts=2)]


def _tables(grid: CaseGrid) -> list[Block]:
    found: list[Block] = []
    header = ["workload", "SLA", "policy", *(it.heading for it in METRICS), "lost"]
    for pipeline in dict.fromkeys(case[0] for case in grid.cases):
        groups = []
        for case in (case for case in grid.cases if case[0] == pipeline):
            rows = []
            for number_of, policy in enumerate(grid.policies):
                sla_s = next(iter(grid.rows[case, policy].values()))["sla_s"]
                row = [
                    TableCell("" if number_of else case[1]),
                    TableCell("" if number_of else f"{sla_s:.3g} s"),
                    TableCell(policy + grid.mark(policy)),
                    *(figure(grid.mean(case, policy, it.key), it.form, scale=it.scale) for it in METRICS),
                    figure(grid.mean(case, policy, "lost"), ".0f"),
                ]
                rows.append(row)
            groups.append(rows)
        found.append(Table(f"{pipeline}: means over the seeds.", header, groups, texts=3))
    return found


# Each with the sign that makes more of it worse.
WORSE = {"violation_ratio": 1, "cores_mean": 1, "pas_mean": -1}
# Means of equal runs differ by rounding alone.
ROUNDING = 1e-9


def beaten(grid: CaseGrid) -> list[Block]:
    """For each policy the cases in which another dominates it, and which ones."""
    rows = []
    for policy in grid.policies:
        by_case = {case: list(dominating(grid, case, policy)) for case in grid.cases}
        winners = {case: names for case, names in by_case.items() if names}
        where = "; ".join(f"{' '.join(case)}: {', '.join(names)}" for case, names in winners.items())
        rows.append(
            [TableCell(policy), TableCell(where or "nowhere", kind="text"), TableCell(str(len(winners)))]
        )
    caption = (
        "Cases in which another policy has no more late or lost requests, no more cores and no less accuracy "
        "(means over the seeds), and is better in at least one of the three."
    )
    return [Heading("Dominated", 3), Table(caption, ["policy", "where, by whom", "cases"], [rows], texts=2)]


def dominating(grid: CaseGrid, case: CaseKey, policy: str) -> Iterator[str]:
    """The policies that dominate it in the case."""
    own = _means(grid, case, policy)
    for other in grid.policies:
        theirs = _means(grid, case, other)
        differences = (
            [figure - mine for figure, mine in zip(theirs, own, strict=True)] if theirs and own else [0.0]
        )
        if max(differences) <= ROUNDING and min(differences) < -ROUNDING:
            yield other


def _means(grid: CaseGrid, case: CaseKey, policy: str) -> list[float]:
    """The policy's means, less being better; none if it has no run in the case."""
    means = [(grid.mean(case, policy, key), sign) for key, sign in WORSE.items()]
    return [sign * mean.value for mean, sign in means if mean]
