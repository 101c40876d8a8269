"""Who is beaten in violations and cores at once, in the report of an experiment."""

from __future__ import annotations

from ipa.experiment.beaten import beaten, better_in_both
from ipa.experiment.simulated_grid import CaseGrid, representative
from ipa.report.blocks import as_page

CASE, OTHER = ("video", "bursty", "2x"), ("video", "bursty", "3x")


def grid(**figures: list[tuple[float, float]]) -> CaseGrid:
    """Violations and cores of each policy, in CASE and OTHER; the second seed has the same."""
    rows = {
        (cell, policy): {seed: {"violation_ratio": late, "cores_mean": cores} for seed in (1, 2)}
        for policy, cells in figures.items()
        for cell, (late, cores) in zip((CASE, OTHER), cells, strict=True)
    }
    return CaseGrid((CASE, OTHER), tuple(figures), (1, 2), rows, None)


def test_beaten_is_who_has_more_violations_and_more_cores() -> None:
    found = grid(
        ours=[(0.01, 9.0), (0.0, 5.0)], ipa=[(0.02, 10.0), (0.0, 4.0)], rim=[(0.0, 20.0), (0.1, 3.0)]
    )
    assert list(better_in_both(found, CASE, "ipa")) == ["ours"]
    assert not list(better_in_both(found, CASE, "ours"))
    assert not list(better_in_both(found, CASE, "rim"))
    # As many violations are not fewer.
    assert not list(better_in_both(found, OTHER, "ours"))
    assert not list(better_in_both(found, OTHER, "rim"))


def test_the_report_says_where_and_by_whom() -> None:
    page = as_page("", "", beaten(grid(ours=[(0.01, 9.0), (0.0, 5.0)], ipa=[(0.02, 10.0), (0.1, 6.0)])))
    assert "video bursty 2x: ours; video bursty 3x: ours" in page
    assert "nowhere" in page


def test_the_representative_case_is_nearest_to_the_median() -> None:
    figures = [(0.02, 9.0), (0.03, 10.0)]
    found = grid(ours=figures, ipa=[(0.01, 20.0), (0.05, 21.0)])
    # Seeds are alike: of equally near ones it is the first.
    assert representative(found) == (CASE, 1)
    rows = {
        ((("p", "w", "own")), policy): {
            seed: {"pas_mean": 0.5, "cores_mean": cores * 10.0**seed, "violation_ratio": 0.0}
            for seed in (1, 2, 3, 4, 5)
        }
        for policy, cores in (("ours", 1.0), ("ipa", 2.0))
    }
    case = ("p", "w", "own")
    assert representative(CaseGrid((case,), ("ours", "ipa"), (1, 2, 3, 4, 5), rows, None)) == (case, 3)
