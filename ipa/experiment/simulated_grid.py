"""The outcomes of an experiment by case, policy and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean

from ipa.experiment.cells import Finished, Row
from ipa.experiment.experiment import Experiment
from ipa.report.stats import Mean, difference, mean_of, paired

# A pipeline under a load at an SLA: policies are compared within it. Policies here may carry a forecaster.
CaseKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class CaseGrid:
    """The outcomes in order: by case and policy the rows of all seeds."""

    cases: tuple[CaseKey, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: Mapping[tuple[CaseKey, str], Mapping[int, Row]]
    reference: str | None

    def values(self, case: CaseKey, policy: str, key: str) -> list[float]:
        """The figure of every seed, in the order of the seeds; NaN where a run has none."""
        rows = self.rows[case, policy]
        return [number(rows[seed].get(key)) for seed in self.seeds]

    def mean(self, case: CaseKey, policy: str, key: str) -> Mean | None:
        """The figure's mean over the seeds."""
        return mean_of(self.values(case, policy, key))

    def against(self, case: CaseKey, policy: str, key: str, *, relative: bool) -> Mean | None:
        """The figure against the reference, seed by seed."""
        if self.reference is None:
            return None
        values, others = (self.values(case, name, key) for name in (policy, self.reference))
        return paired(values, others, relative=relative)

    def overall(self, policy: str, key: str, *, against: str = "") -> Mean | None:
        """The mean over all cases, its interval over seeds; against the reference as "ratio" or "less"."""
        per_seed = []
        for at in range(len(self.seeds)):
            each = []
            for case in self.cases:
                value = self.values(case, policy, key)[at]
                if against and self.reference is not None:
                    other = self.values(case, self.reference, key)[at]
                    value = difference(value, other, relative=against == "ratio")
                each.append(value)
            known = [value for value in each if not isnan(value)]
            per_seed.append(fmean(known) if known else nan)
        return mean_of(per_seed)

    def mark(self, policy: str) -> str:
        """The mark of a policy that failed at ticks, for beside its name; empty without any."""
        runs = (row for case in self.cases for row in self.rows[case, policy].values())
        failed = sum(int(row.get("failed_ticks") or 0) for row in runs)
        return f" ✗ failed at {failed} ticks" if failed else ""


def number(value: object) -> float:
    """The value, NaN where there is none."""
    return float(value) if isinstance(value, int | float) else nan


def grid_of(experiment: Experiment, finished: Sequence[Finished]) -> CaseGrid:
    """The runs by case, policy and seed. Where there are several forecasters each is a policy of its own."""
    several = len({each.labels["forecaster"] for each in finished}) > 1
    rows: dict[tuple[CaseKey, str], dict[int, Row]] = {}
    cases: dict[CaseKey, None] = {}
    policies: dict[str, None] = {}
    for each in finished:
        labels = each.labels
        case = (str(labels["pipeline"]), str(labels["workload"]), str(labels["sla"]))
        policy = str(labels["policy"])
        name = f"{policy}, {labels['forecaster']}" if several else policy
        cases[case] = policies[name] = None
        rows.setdefault((case, name), {})[int(labels["seed"])] = each.row
    reference = experiment.reference
    if reference is not None and reference not in policies:
        reference = next((name for name in policies if name.startswith(f"{reference}, ")), None)
    return CaseGrid(tuple(cases), tuple(policies), experiment.seeds, rows, reference)


def representative(grid: CaseGrid) -> tuple[CaseKey, int]:
    """The case and the seed to show over time: the share of late or lost requests there is the median."""
    keys = [(case, seed) for case in grid.cases for seed in grid.seeds]

    def late(key: tuple[CaseKey, int]) -> float:
        case, seed = key
        return sum(number(grid.rows[case, it][seed].get("violation_ratio")) for it in grid.policies)

    return sorted(keys, key=late)[(len(keys) - 1) // 2]
