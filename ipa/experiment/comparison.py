"""Two results of the same cells compared: other code, profiles or settings before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ipa.experiment.cells import Finished
from ipa.experiment.results import Results
from ipa.experiment.runners import SIMULATE
from ipa.experiment.simulated_grid import CaseGrid, grid_of
from ipa.experiment.simulated_page import COMPARED, ReportMetric
from ipa.model.errors import InputError
from ipa.report.stats import Mean

BEFORE, AFTER = "before", "after"
KEYS = ("pipeline", "workload", "sla", "forecaster", "policy", "seed")


@dataclass(frozen=True, slots=True)
class ResultChange:
    """A figure of a policy in two results, over the cells that both have, and the paired difference."""

    policy: str
    metric: ReportMetric
    before: Mean | None
    after: Mean | None
    difference: Mean | None


def compared(before: Results, after: Results) -> tuple[list[ResultChange], int]:
    """The changes by policy and figure, and the number of cells that both results have.

    InputError if they are no simulations, or have no cell in common.
    """
    for each in (before, after):
        if each.experiment.runner != SIMULATE:
            raise InputError(
                f"{each.experiment.name} compares no policies: its runner is {each.experiment.runner}"
            )
    common = {_key(each) for each in before.finished} & {_key(each) for each in after.finished}
    if not common:
        raise InputError(
            "the two results have no cell in common",
            hint=f"Cells are matched by {', '.join(KEYS)}.",
        )
    policies = dict.fromkeys(each.labels["policy"] for each in before.finished if _key(each) in common)
    found = [
        ResultChange(
            str(policy),
            metric,
            grid.overall(BEFORE, metric.key),
            grid.overall(AFTER, metric.key),
            grid.overall(AFTER, metric.key, against="ratio" if metric.relative else "less"),
        )
        for policy in policies
        for grid in [_grid(before, after, common, policy)]
        for metric in COMPARED
    ]
    return found, len(common)


def _key(each: Finished) -> tuple[object, ...]:
    return tuple(each.labels[name] for name in KEYS)


def _grid(before: Results, after: Results, common: set[tuple[object, ...]], policy: object) -> CaseGrid:
    """The cells of one policy, as if before and after were two policies."""

    def renamed(results: Results, name: str) -> Iterator[Finished]:
        for each in results.finished:
            if _key(each) in common and each.labels["policy"] == policy:
                # A forecaster is part of the case here.
                workload = f"{each.labels['workload']}, {each.labels['forecaster']}"
                labels = {**each.labels, "workload": workload, "policy": name, "forecaster": ""}
                yield replace(each, labels=labels)

    seeds = tuple(sorted({int(str(key[KEYS.index("seed")])) for key in common}))
    experiment = replace(before.experiment, reference=BEFORE, seeds=seeds)
    return grid_of(experiment, [*renamed(before, BEFORE), *renamed(after, AFTER)])
