"""The runs of an experiment by cell, policy and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from statistics import fmean

from experiments.lab.experiment import Experiment
from experiments.lab.published import PublishedRun
from experiments.lab.units import Finished, Row
from ipa.report.stats import Mean, mean_of, paired

# A pipeline under a load at an SLA: what policies are compared in. Policies here may carry a forecaster.
CellKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Grid:
    """The runs in order: by cell and policy the rows of all seeds."""

    cells: tuple[CellKey, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: Mapping[tuple[CellKey, str], Mapping[int, Row]]
    reference: str | None
    published: Mapping[tuple[str, str, str], PublishedRun] = field(default_factory=dict)

    def values(self, cell: CellKey, policy: str, key: str) -> list[float]:
        """The figure of every seed, in the order of the seeds; NaN where a run has none."""
        rows = self.rows[cell, policy]
        return [number(rows[seed].get(key)) for seed in self.seeds]

    def mean(self, cell: CellKey, policy: str, key: str) -> Mean | None:
        """The figure's mean over the seeds."""
        return mean_of(self.values(cell, policy, key))

    def against(self, cell: CellKey, policy: str, key: str, *, relative: bool) -> Mean | None:
        """The figure against the reference, seed by seed."""
        if self.reference is None:
            return None
        values, others = (self.values(cell, name, key) for name in (policy, self.reference))
        return paired(values, others, relative=relative)

    def overall(self, policy: str, key: str, *, against: str = "") -> Mean | None:
        """The mean over all cells, its interval over seeds; against the reference as "ratio" or "less"."""
        per_seed = []
        for at in range(len(self.seeds)):
            each = []
            for cell in self.cells:
                value = self.values(cell, policy, key)[at]
                if against and self.reference is not None:
                    other = self.values(cell, self.reference, key)[at]
                    value = value - other if against == "less" else value / other - 1 if other else nan
                each.append(value)
            known = [value for value in each if not isnan(value)]
            per_seed.append(fmean(known) if known else nan)
        return mean_of(per_seed)

    def theirs(self, cell: CellKey, policy: str) -> PublishedRun | None:
        """The published run of that cell."""
        return self.published.get((cell[0], cell[1], policy)) if cell[2] == "own" else None


def number(value: object) -> float:
    """The value, NaN where there is none."""
    return float(value) if isinstance(value, int | float) else nan


def grid_of(
    experiment: Experiment,
    finished: Sequence[Finished],
    published: Mapping[tuple[str, str, str], PublishedRun],
) -> Grid:
    """The runs by cell, policy and seed. Where there are several forecasters each is a policy of its own."""
    several = len({each.unit.labels["forecaster"] for each in finished}) > 1
    rows: dict[tuple[CellKey, str], dict[int, Row]] = {}
    cells: dict[CellKey, None] = {}
    policies: dict[str, None] = {}
    for each in finished:
        labels = each.unit.labels
        cell = (str(labels["pipeline"]), str(labels["workload"]), str(labels["sla"]))
        policy = str(labels["policy"])
        name = f"{policy}, {labels['forecaster']}" if several else policy
        cells[cell] = policies[name] = None
        rows.setdefault((cell, name), {})[int(labels["seed"])] = each.row
    reference = experiment.reference
    if reference is not None and reference not in policies:
        reference = next((name for name in policies if name.startswith(f"{reference}, ")), None)
    return Grid(tuple(cells), tuple(policies), experiment.seeds, rows, reference, published)
