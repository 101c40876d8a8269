"""The dominated policies in the report of an experiment."""

from __future__ import annotations

from ipa.experiment.simulated_grid import CaseGrid, representative
from ipa.experiment.simulated_page import beaten, dominating
from ipa.report.blocks import as_page

CASE, OTHER = ("video", "bursty", "2x"), ("video", "bursty", "3x")


Figures = tuple[float, float, float]


def grid(**figures: list[Figures]) -> CaseGrid:
    """Violations, cores and accuracy of each policy, in CASE and OTHER; the second seed has the same."""
    keys = ("violation_ratio", "cores_mean", "pas_mean")
    rows = {
        (cell, policy): {seed: dict(zip(keys, values, strict=True)) for seed in (1, 2)}
        for policy, cells in figures.items()
        for cell, values in zip((CASE, OTHER), cells, strict=True)
    }
    return CaseGrid((CASE, OTHER), tuple(figures), (1, 2), rows, None)


def test_a_policy_that_is_no_worse_anywhere_and_better_somewhere_dominates() -> None:
    found = grid(
        ours=[(0.0, 9.0, 0.5), (0.0, 5.0, 0.5)],
        ipa=[(0.0, 10.0, 0.5), (0.0, 4.0, 0.4)],
        rim=[(0.0, 20.0, 0.6), (0.1, 3.0, 0.4)],
    )
    # As few are late, at the same accuracy, for fewer cores.
    assert list(dominating(found, CASE, "ipa")) == ["ours"]
    assert not list(dominating(found, CASE, "ours"))
    # More cores for more accuracy, or fewer for more violations, are another choice.
    assert not list(dominating(found, CASE, "rim"))
    assert not list(dominating(found, OTHER, "ours"))
    assert not list(dominating(found, OTHER, "rim"))


def test_equal_policies_do_not_dominate_each_other() -> None:
    found = grid(ours=[(0.1, 0.3, 0.5)] * 2, ipa=[(0.1, 0.1 + 0.2, 0.5)] * 2)
    assert not list(dominating(found, CASE, "ours")) + list(dominating(found, CASE, "ipa"))


def test_the_report_says_where_and_by_whom() -> None:
    page = as_page(
        "",
        "",
        beaten(
            grid(ours=[(0.01, 9.0, 0.5), (0.0, 5.0, 0.5)], ipa=[(0.02, 10.0, 0.5), (0.1, 6.0, 0.5)]),
        ),
    )
    assert "video bursty 2x: ours; video bursty 3x: ours" in page
    assert "nowhere" in page


def test_the_representative_case_is_nearest_to_the_median() -> None:
    figures = [(0.02, 9.0, 0.5), (0.03, 10.0, 0.5)]
    found = grid(ours=figures, ipa=[(0.01, 20.0, 0.5), (0.05, 21.0, 0.5)])
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
