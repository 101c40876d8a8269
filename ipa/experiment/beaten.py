"""The cases in which a policy is dominated: no better in lateness, cores or accuracy, and worse in one."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.experiment.simulated_grid import CaseGrid, CaseKey
from ipa.report.blocks import Block, Heading, Table, TableCell

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
