"""Who is beaten in violations and cores at once, in the report of an experiment."""

from __future__ import annotations

from experiments.lab.beaten import beaten, better_in_both
from experiments.lab.simulated_grid import Grid

CELL, OTHER = ("video", "bursty", "2x"), ("video", "bursty", "3x")


def grid(**figures: list[tuple[float, float]]) -> Grid:
    """Violations and cores of each policy, in CELL and OTHER; the second seed has the same."""
    rows = {
        (cell, policy): {seed: {"violation_ratio": late, "cores_mean": cores} for seed in (1, 2)}
        for policy, cells in figures.items()
        for cell, (late, cores) in zip((CELL, OTHER), cells, strict=True)
    }
    return Grid((CELL, OTHER), tuple(figures), (1, 2), rows, None)


def test_beaten_is_who_has_more_violations_and_more_cores() -> None:
    found = grid(
        ours=[(0.01, 9.0), (0.0, 5.0)], ipa=[(0.02, 10.0), (0.0, 4.0)], rim=[(0.0, 20.0), (0.1, 3.0)]
    )
    assert list(better_in_both(found, CELL, "ipa")) == ["ours"]
    assert not list(better_in_both(found, CELL, "ours"))
    assert not list(better_in_both(found, CELL, "rim"))
    # As many violations are not fewer.
    assert not list(better_in_both(found, OTHER, "ours"))
    assert not list(better_in_both(found, OTHER, "rim"))


def test_the_report_says_where_and_by_whom() -> None:
    page = "\n".join(beaten(grid(ours=[(0.01, 9.0), (0.0, 5.0)], ipa=[(0.02, 10.0), (0.1, 6.0)])))
    assert "video bursty 2x: ours; video bursty 3x: ours" in page
    assert "nowhere" in page
