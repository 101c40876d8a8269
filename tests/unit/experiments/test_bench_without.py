"""The benchmark of shortcuts: what is measured without one, and where the table goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.bench import without
from experiments.bench.cell import Cell
from experiments.bench.instances import instance
from experiments.bench.without import (
    COMMAND,
    DOMINATED,
    ENUMERATION,
    Case,
    Shortcut,
    fleet_rows,
    rows_of,
)
from experiments.measured import inserted
from ipa.optimize.backends import label_setting
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve


def objective(problem: PlanningProblem) -> float | None:
    return solve(problem, "exact", 30.0, explain=False).objective


def case(*shortcuts: Shortcut) -> Case:
    problems = [instance(Cell(3, 4), seed) for seed in range(3)]
    return Case("small", "exact", problems, objective, shortcuts)


def test_a_row_for_all_and_one_for_each_shortcut_with_its_labels() -> None:
    whole, dominated, tried = rows_of(case(DOMINATED, ENUMERATION))
    assert [row[2] for row in (whole, dominated, tried)] == [
        "–",
        "dominance filter",
        "exhaustive search of few plans",
    ]
    assert int(whole[5]) > 0
    # Options that another dominates make more plans to try; a search with bounds looks at few of them.
    assert float(dominated[5].removeprefix("× ")) > 1 > float(tried[5].removeprefix("× "))
    assert label_setting.FEW > 0


def test_a_shortcut_without_which_the_objective_is_another_is_no_shortcut() -> None:
    worse = Shortcut("the best", ((label_setting.LabelSearch, "_best", lambda *_: 0),))
    with pytest.raises(AssertionError):
        list(rows_of(case(worse)))


def test_all_ways_to_plan_a_fleet_agree() -> None:
    rows = list(fleet_rows(1, 3))
    assert rows[0][3] == "× 1.0"
    assert len(rows) == 3
    assert all(float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize("quick", [False, True])
def test_the_table_is_written_into_the_page_unless_quick(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: bool
) -> None:
    def few(*, quick: bool) -> Iterator[Case]:
        yield case(DOMINATED)

    monkeypatch.setattr(without, "cases", few)
    monkeypatch.setattr(without, "fleet_rows", lambda *_: [["a way", *"12345"]])
    page = tmp_path / "page.md"
    old = f"before\n<!-- made by `{COMMAND}` -->\nold\n<!-- end of `{COMMAND}` -->\nafter\n"
    page.write_text(old)
    assert without.run(tmp_path, quick=quick, say=lambda _: None, page=page) == 0
    text = page.read_text()
    assert ("old" in text) is quick
    assert ("dominance filter" in text) is not quick
    assert inserted(text, COMMAND, "old") == old
    assert "a way" in (tmp_path / "without.md").read_text()
