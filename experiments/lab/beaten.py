"""Where a policy is beaten in violations and in cores at once."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.lab.markup import Cell, grouped_table, note, subheading, text
from experiments.lab.simulated_grid import CellKey, Grid


def beaten(grid: Grid) -> list[str]:
    """For each policy the cells in which another has fewer violations and fewer cores, and who that is."""
    rows: list[list[Cell]] = []
    for policy in grid.policies:
        by_cell = {cell: list(better_in_both(grid, cell, policy)) for cell in grid.cells}
        found = {cell: winners for cell, winners in by_cell.items() if winners}
        where = "; ".join(f"{' '.join(cell)}: {', '.join(winners)}" for cell, winners in found.items())
        rows.append([text(policy), text(where or "nowhere", "text"), text(str(len(found)))])
    return [
        subheading("Beaten in violations and cores at once"),
        grouped_table(["policy", "where, by whom", "cells"], [rows], texts=2),
        note(
            "Means over the seeds. Another policy has fewer late or lost requests and pays for fewer cores; "
            "its accuracy may be lower."
        ),
    ]


def better_in_both(grid: Grid, cell: CellKey, policy: str) -> Iterator[str]:
    """The policies with fewer violations and fewer cores in the cell."""
    keys = ("violation_ratio", "cores_mean")
    own = [grid.mean(cell, policy, key) for key in keys]
    for other in grid.policies:
        pairs = zip([grid.mean(cell, other, key) for key in keys], own, strict=True)
        if all(mine and theirs and mine.value < theirs.value for mine, theirs in pairs):
            yield other
