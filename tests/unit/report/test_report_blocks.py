"""Blocks of reports: means over seeds with their intervals; noise is not shown, and not judged."""

from __future__ import annotations

import re
from math import isnan

import numpy as np
import pytest

from ipa.report.blocks import (
    FigureBlock,
    Folded,
    Mean,
    Table,
    TableCell,
    as_page,
    difference,
    figure,
    judged,
    mean_of,
    means_of,
    signless,
    student_t,
)
from ipa.report.plots import over_cells


def test_student_t_is_that_of_the_tables() -> None:
    assert student_t(2) == pytest.approx(4.303, abs=5e-4)
    assert student_t(9) == pytest.approx(2.262, abs=5e-4)


def test_mean_of() -> None:
    mean = mean_of([1.0, 2.0, 3.0])
    assert mean is not None
    assert mean.value == 2
    assert mean.half_width == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert mean_of([]) is None
    assert mean_of([float("nan"), 4.0]) == Mean(4.0, None, 1)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(7).normal(5.0, 2.0, (4000, 4))
    held = [mean.low <= 5.0 <= mean.high for row in samples if (mean := mean_of(list(row)))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_differences_take_out_what_seeds_share() -> None:
    alone = mean_of([10.0, 20.0, 30.0])
    pair = mean_of([difference(*each, relative=False) for each in ((10.0, 9.0), (20.0, 19.1), (30.0, 28.9))])
    assert alone is not None and alone.half_width is not None
    assert pair is not None and pair.half_width is not None
    assert pair.value == pytest.approx(1.0)
    assert pair.half_width < alone.half_width / 20
    assert difference(8.0, 10.0, relative=True) == pytest.approx(-0.2)
    assert isnan(difference(4.0, 0.0, relative=True))


def test_means_by_name_are_over_the_rows_that_know() -> None:
    means = means_of([{"a": 1, "b": None, "c": 5.0}, {"a": 3, "b": 4.0, "c": None}, {"a": 5, "b": 8.0}])
    assert {name: mean and mean.value for name, mean in means.items()} == {"a": 3.0, "b": 6.0, "c": 5.0}
    halves = [mean and mean.half_width for mean in means.values()]
    assert halves[0] == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)
    assert halves[1] == pytest.approx(12.706 * 8**0.5 / 2**0.5, abs=1e-2)
    assert halves[2] is None
    assert means_of([{"a": None}]) == {"a": None}


def test_a_name_that_a_row_lacks_may_stand_for_a_value() -> None:
    means = means_of([{"x": 2}, {"y": 4}], missing=0)
    assert [mean and mean.value for mean in means.values()] == [1.0, 2.0]


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
    rounding = mean_of([difference(0.1 + 0.2, 0.3, relative=False), difference(3.0, 3.0, relative=False)])
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
