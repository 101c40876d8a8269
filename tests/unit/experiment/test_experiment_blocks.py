"""Reports of experiments: figures with intervals; noise is not shown, and not judged."""

from __future__ import annotations

import re

from ipa.report.blocks import (
    FigureBlock,
    Folded,
    Mean,
    Table,
    TableCell,
    as_page,
    figure,
    judged,
    paired,
    signless,
)
from ipa.report.plots import over_cells


def test_only_what_is_sure_is_judged() -> None:
    assert judged(Mean(-0.2, 0.1, 3), more_is_better=False) == "better"
    assert judged(Mean(-0.2, 0.1, 3), more_is_better=True) == "worse"
    assert judged(Mean(-0.2, 0.3, 3), more_is_better=False) == ""
    assert judged(Mean(-0.2, None, 1), more_is_better=False) == ""


def test_figures() -> None:
    assert figure(Mean(0.12345, 0.004, 3), ".2f", scale=100) == TableCell("12.35", "0.40")
    assert figure(None, ".2f").text == "–"
    assert signless("-0.00") == "0.00"
    assert signless("-0.01") == "−0.01"


def texts(picture: str) -> list[str]:
    """The words and numbers of a picture."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", picture)


def test_nothing_below_the_noise_is_shown() -> None:
    # The same cores, summed in another order.
    rounding = paired([0.1 + 0.2, 3.0], [0.3, 3.0], relative=False)
    assert rounding == Mean(0.0, 0.0, 2)
    assert judged(Mean(1e-14, 1e-16, 3), more_is_better=True) == ""
    assert figure(rounding, "+.2f", kind="better") == TableCell("0")
    assert figure(Mean(0.004, 0.001, 3), "+.2f", kind="worse") == TableCell("0")
    assert figure(Mean(0.004, 0.02, 3), "+.2f", kind="worse") == TableCell("0.00", "0.02")
    assert figure(Mean(1.5, 0.001, 3), "+.2f", kind="better") == TableCell("+1.50", "<0.01", "better")


def test_tables_and_figures_are_numbered_each_by_itself() -> None:
    table = Table("One <row>.", ["a", "b"], [[[TableCell("x|y"), TableCell("1", "2", "better")]]])
    blocks = [table, FigureBlock("A plot.", "<svg/>"), Folded("More", [table])]
    page = as_page("T", "L", blocks)
    assert "Table 1. One &lt;row&gt;." in page and "Table 2. One" in page and "Figure 1. A plot." in page
    assert '<td class="n better">1 <small>± 2</small> ✓</td>' in page


def test_an_interval_that_reaches_below_zero_ends_at_the_edge_of_a_logarithmic_axis() -> None:
    means = [[Mean(0.02, 0.03, 2)], [Mean(40.0, 1.0, 2)]]
    picture = over_cells("Late", "late, %", ["a", "b"], ["ours"], means, may_be_log=True)
    numbers = [float(text) for text in texts(picture) if text[0].isdigit()]
    assert min(numbers) == 0.02 and {0.1, 10.0} <= set(numbers) and max(numbers) <= 50
