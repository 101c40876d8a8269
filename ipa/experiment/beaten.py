"""The cases in which a policy is beaten in violations and in cores at once."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.experiment.simulated_grid import CaseGrid, CaseKey
from ipa.report.blocks import Block, Heading, Table, TableCell


def beaten(grid: CaseGrid) -> list[Block]:
    """For each policy the cases in which another has fewer violations and fewer cores, and the winners."""
    rows = []
    for policy in grid.policies:
        by_case = {case: list(better_in_both(grid, case, policy)) for case in grid.cases}
        found = {case: winners for case, winners in by_case.items() if winners}
        where = "; ".join(f"{' '.join(case)}: {', '.join(winners)}" for case, winners in found.items())
        rows.append(
            [TableCell(policy), TableCell(where or "nowhere", kind="text"), TableCell(str(len(found)))]
        )
    caption = (
        "Cases in which another policy has fewer late or lost requests and fewer cores, on the mean over the "
        "seeds. Its accuracy may be lower."
    )
    heading = Heading("Beaten in violations and cores at once", 3)
    return [heading, Table(caption, ["policy", "where, by whom", "cases"], [rows], texts=2)]


def better_in_both(grid: CaseGrid, case: CaseKey, policy: str) -> Iterator[str]:
    """The policies with fewer violations and fewer cores in the case."""
    keys = ("violation_ratio", "cores_mean")
    own = [grid.mean(case, policy, key) for key in keys]
    for other in grid.policies:
        pairs = zip([grid.mean(case, other, key) for key in keys], own, strict=True)
        if all(mine and theirs and mine.value < theirs.value for mine, theirs in pairs):
            yield other
