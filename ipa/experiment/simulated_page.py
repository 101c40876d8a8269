"""The report of an experiment whose cells are simulations, and its table of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import isnan, nan
from statistics import fmean
from typing import Any

from ipa.experiment.cells import Finished, Row
from ipa.experiment.runners import SIMULATE, Experiment, ExperimentRunner
from ipa.experiment.simulated import cells, work
from ipa.report.blocks import (
    Block,
    FigureBlock,
    Folded,
    Heading,
    Mean,
    Table,
    TableCell,
    difference,
    figure,
    judged,
    mean_of,
)
from ipa.report.plots import over_cells

# A pipeline under a load at an SLA in a world: policies are compared within it, each with its forecaster.
CASE = ("pipeline", "workload", "sla", "world")
CaseKey = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseGrid:
    """The outcomes in order: by case and policy the rows of all seeds."""

    cases: tuple[CaseKey, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: Mapping[tuple[CaseKey, str], Mapping[int, Row]]
    reference: str | None
    # The names of what differs among the policies beside their own names, in the order of `policies`.
    varied: tuple[str, ...] = ()

    @property
    def header(self) -> list[str]:
        """The headings of `name_cells`."""
        return ["policy", *self.varied]

    def name_cells(self, policy: str) -> list[TableCell]:
        """The policy's name with its mark, and the values of what differs."""
        name, *values = policy.split(", ")
        cells = [TableCell(value.rpartition("=")[2], kind="text") for value in values]
        return [TableCell(name + self.mark(policy)), *cells]

    def reference_of(self, policy: str) -> str:
        """The reference with the policy's forecaster and settings; the policy itself without a reference."""
        own, comma, others = policy.partition(", ")
        return f"{self.reference or own}{comma}{others}"

    def values(self, case: CaseKey, policy: str, key: str, against: str = "") -> list[float]:
        """The figure of every seed, in their order; NaN if a run lacks it.

        `against` the reference under the same seed: its "ratio" − 1, or the "difference".
        """
        rows = self.rows[case, policy]
        own = [number(rows[seed].get(key)) for seed in self.seeds]
        if not against:
            return own
        others = self.values(case, self.reference_of(policy), key)
        return [difference(*pair, relative=against == "ratio") for pair in zip(own, others, strict=True)]

    def mean(self, case: CaseKey, policy: str, key: str, against: str = "") -> Mean | None:
        """The mean of `values` over the seeds."""
        return mean_of(self.values(case, policy, key, against))

    def overall(self, policy: str, key: str, against: str = "") -> Mean | None:
        """The mean of `values` over all cases, its interval over seeds."""
        by_case = [self.values(case, policy, key, against) for case in self.cases]
        by_seed = ([value for value in each if not isnan(value)] for each in zip(*by_case, strict=True))
        return mean_of([fmean(known) for known in by_seed if known])

    def words(self, case: CaseKey) -> str:
        """The case by what differs among the cases."""
        varied = [at for at in range(len(CASE)) if len({each[at] for each in self.cases}) > 1]
        return " ".join(case[at] for at in varied) or case[0]

    def dominates(self, case: CaseKey, policy: str, other: str) -> bool:
        """True if the policy's means of PAS, cores and late or lost are no worse, and one is better."""
        gains = []
        for metric in JUDGED:
            own, theirs = (self.mean(case, name, metric.key) for name in (policy, other))
            gain = difference(own.value, theirs.value, relative=False) if own and theirs else nan
            gains.append(gain if metric.more_is_better else -gain)
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    def mark(self, policy: str) -> str:
        """The mark to print after a policy that failed at ticks; else empty."""
        runs = (row for case in self.cases for row in self.rows[case, policy].values())
        failed = sum(int(row.get("failed_ticks") or 0) for row in runs)
        return f" ✗ failed at {failed} ticks" if failed else ""


def number(value: object) -> float:
    """The value, NaN if there is none."""
    return float(value) if isinstance(value, int | float) else nan


def grid_of(experiment: Experiment, finished: Sequence[Finished]) -> CaseGrid:
    """The runs by case, policy and seed. A policy with each forecaster and setting counts as one."""
    varied = [
        key
        for key in ("forecaster", *(experiment.settings if experiment.runner == SIMULATE else ()))
        if len({each.labels[key] for each in finished}) > 1
    ]
    rows: dict[tuple[CaseKey, str], dict[int, Row]] = {}
    cases: dict[CaseKey, None] = {}
    policies: dict[str, None] = {}
    for each in finished:
        labels = each.labels
        case = tuple(str(labels[key]) for key in CASE)
        policy = str(labels["policy"])
        parts = (f"{labels[key]}" if key == "forecaster" else f"{key}={labels[key]}" for key in varied)
        name = ", ".join((policy, *parts))
        cases[case] = policies[name] = None
        rows.setdefault((case, name), {})[int(labels["seed"])] = each.row
    return CaseGrid(
        tuple(cases), tuple(policies), experiment.seeds, rows, experiment.reference, tuple(varied)
    )


@dataclass(frozen=True, slots=True)
class ReportMetric:
    """A figure of the summary: its column, heading, format and factor, and the form of its differences.

    `against` is that of `CaseGrid.values`; `more_is_better` None: a difference is neither.
    """

    key: str
    heading: str
    form: str
    scale: float = 1.0
    more_is_better: bool | None = None
    difference: str = ""
    difference_form: str = ""
    against: str = "difference"


METRICS = (
    ReportMetric("pas_mean", "PAS %", ".2f", 100.0, True, "PAS, points", "+.2f"),
    ReportMetric("cores_mean", "cores", ".2f", 1.0, False, "cores, %", "+.1f", "ratio"),
    ReportMetric("violation_ratio", "late or lost %", ".2f", 100.0, False, "late or lost, points", "+.2f"),
    ReportMetric("latency_p50_s", "p50 s", ".3f"),
    ReportMetric("latency_p99_s", "p99 s", ".2f", 1.0, False, "p99, s", "+.2f"),
    ReportMetric("changes", "changes", ".1f", 1.0, None, "changes", "+.1f"),
)
COMPARED = tuple(metric for metric in METRICS if metric.difference)
# A policy dominates another one if it is no worse in any of these, and better in one.
JUDGED = METRICS[:3]


def blocks(experiment: Experiment, finished: Sequence[Finished]) -> list[Block]:
    """All cases in one table, differences, and every case."""
    grid = grid_of(experiment, finished)
    contents = [Heading("All cases together"), _overall_table(grid), *_differences(grid), *_dominance(grid)]
    if len(grid.policies) * len(grid.cases) > 1:
        contents += [Heading("Every case"), *_pictures(grid)]
    return [*contents, Folded("All figures of every case", _tables(grid))]


def words(experiment: Experiment) -> str:
    """A cell in a sentence."""
    lasting = "as long as the trace" if experiment.minutes is None else f"{experiment.minutes:g} minutes"
    return (
        f"Each cell is a simulation ({lasting}, {experiment.spacing} arrivals) with a decision every "
        f"{experiment.interval_s:g} s. Under a seed each policy has the same requests."
    )


RUNNER = ExperimentRunner(cells, work, blocks, words)


def differences(experiment: Experiment, finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """The difference of every policy from the reference, a row for each case, policy and figure.

    With the ends of the 95 % interval of the pairs; None, never NaN, if unknown.
    """
    grid = grid_of(experiment, finished)
    rows = []
    for case in grid.cases:
        for policy in (policy for policy in grid.policies if policy != grid.reference_of(policy)):
            for metric in COMPARED:
                mean = grid.mean(case, policy, metric.key, metric.against)
                known = mean is not None and mean.half_width is not None
                rows.append(
                    {
                        **dict(zip(CASE, case, strict=True)),
                        "policy": policy,
                        "reference": grid.reference_of(policy),
                        "figure": metric.key,
                        "is_relative": metric.against == "ratio",
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
            *grid.name_cells(policy),
            *(figure(grid.overall(policy, it.key), it.form, scale=it.scale) for it in METRICS),
        ]
        for policy in grid.policies
    ]
    seeds = len(grid.seeds)
    of = "one case" if len(grid.cases) == 1 else f"{len(grid.cases)} cases"
    of += f", world {', '.join(dict.fromkeys(case[-1] for case in grid.cases))}"
    how = (
        f"Means over {of}; ± is half a 95 % interval (Student's t over {seeds} seeds)."
        if seeds > 1
        else f"Means over {of}, of one seed: their error is unknown."
    )
    how += " Late or lost: of the requests sent. Cores: all that were paid, old and new replicas of a change."
    return Table(how, [*grid.header, *(it.heading for it in METRICS)], [rows], texts=len(grid.header))


def _differences(grid: CaseGrid) -> list[Block]:
    """The differences from the reference over all cases."""
    if grid.reference is None or len(grid.policies) < 2:
        return []

    def change(policy: str, metric: ReportMetric) -> TableCell:
        overall = grid.overall(policy, metric.key, metric.against)
        # In percent, points or the unit of the figure.
        mean = overall and overall.scaled(100.0 if metric.against == "ratio" else metric.scale)
        kind = judged(mean, more_is_better=metric.more_is_better)
        return figure(mean, metric.difference_form, kind=kind)

    rows = [
        [*grid.name_cells(policy), *(change(policy, it) for it in COMPARED)]
        for policy in grid.policies
        if policy != grid.reference_of(policy)
    ]
    caption = f"Differences from {grid.reference} under the same requests"
    caption += (
        ", paired by seed; ± is half the 95 % interval of the pairs (Student's t). ✓ better, ✗ worse: the "
        "interval excludes 0, and the table resolves the difference."
        if len(grid.seeds) > 1
        else ", of one seed: how much is chance is unknown."
    )
    header = [*grid.header, *(it.difference for it in COMPARED)]
    return [Table(caption, header, [rows], texts=len(grid.header))]


def _dominance(grid: CaseGrid) -> list[Block]:
    """Who is nowhere worse than whom in which cases, with the same forecaster and settings or name."""
    rows = []
    for policy, other in permutations(grid.policies, 2):
        (name, _, others), (another, _, theirs) = (each.partition(", ") for each in (policy, other))
        if name != another and others != theirs:
            continue
        cases = [grid.words(case) for case in grid.cases if grid.dominates(case, policy, other)]
        if cases:
            words = (policy, other, f"{len(cases)} of {len(grid.cases)}", ", ".join(cases))
            rows.append([TableCell(each, kind="text") for each in words])
    caption = (
        "Weak dominance: cases in which the means of a policy are no worse than another's in PAS, cores and "
        "late or lost, and better in one."
    )
    return [Table(caption, ["policy", "dominates", "cases", "which"], [rows], texts=4)] if rows else []


def _pictures(grid: CaseGrid) -> list[Block]:
    """Cores and accuracy of every case, against the reference if there is one; late and lost requests."""
    names = [grid.words(case) for case in grid.cases]
    name = grid.reference
    of, than = ("", "%") if name is None else (f", of those of {name}", f"points more than {name}")
    end = "; bars are 95 % intervals over the seeds." if len(grid.seeds) > 1 else ", of one seed."

    def shown(case: CaseKey, policy: str, key: str, scale: float, unchanged: float | None) -> Mean | None:
        if name is None or unchanged is None:
            mean = grid.mean(case, policy, key)
        else:
            mean = grid.mean(case, policy, key, "ratio" if unchanged else "difference")
            mean = mean and replace(mean, value=mean.value + unchanged)
        return mean and mean.scaled(scale)

    figures: list[Block] = []
    # Key, title, axis, factor; the value that equals the reference, None if not compared; least span.
    for key, title, x_label, scale, unchanged, least_span in (
        ("cores_mean", "Cores", f"cores{of}", 1.0, 1.0, 0.02),
        ("pas_mean", "Accuracy of a request (PAS)", f"PAS, {than}", 100.0, 0.0, 0.1),
        ("violation_ratio", "Late or lost", "% of the requests sent", 100.0, None, 0.1),
    ):
        drawn = over_cells(
            title,
            x_label,
            names,
            grid.policies,
            [[shown(case, policy, key, scale, unchanged) for policy in grid.policies] for case in grid.cases],
            may_be_log=key == "cores_mean",
            line=unchanged if name else None,
            least_span=least_span,
        )
        figures.append(FigureBlock(f"{title} in every case ({x_label}){end}", drawn))
    return figures


def _tables(grid: CaseGrid) -> list[Block]:
    tables: list[Block] = []
    header = ["workload", "SLA", "world", *grid.header, *(it.heading for it in METRICS), "lost"]
    for pipeline in dict.fromkeys(case[0] for case in grid.cases):
        groups = []
        for case in (case for case in grid.cases if case[0] == pipeline):
            rows = []
            for number_of, policy in enumerate(grid.policies):
                sla_s = next(iter(grid.rows[case, policy].values()))["sla_s"]
                row = [
                    TableCell("" if number_of else case[1]),
                    TableCell("" if number_of else f"{sla_s:.3g} s"),
                    TableCell("" if number_of else case[-1]),
                    *grid.name_cells(policy),
                    *(figure(grid.mean(case, policy, it.key), it.form, scale=it.scale) for it in METRICS),
                    figure(grid.mean(case, policy, "lost"), ".0f"),
                ]
                rows.append(row)
            groups.append(rows)
        tables.append(Table(f"{pipeline}: means over the seeds.", header, groups, texts=3 + len(grid.header)))
    return tables
