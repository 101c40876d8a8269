"""Rows, goals, tables, and the command that makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.bench import ONE_THREAD, planner
from experiments.bench.__main__ import main
from experiments.bench.cell import Cell
from experiments.bench.fleet import AMPLE_CORES, differences, faults_of, fleet_row, member_of
from experiments.bench.goals import GOALS, Goal, verdicts
from experiments.bench.race import Effort
from experiments.bench.rows import HEAD, Row
from experiments.bench.worker import answered
from ipa.optimize.fleet.plan import plan_fleet

FAST = Goal("fast", {"engine": "a"}, "median_ms", 5.0)


@pytest.mark.parametrize(
    ("medians", "measured", "met"),
    [([4.0, 5.0], 5.0, True), ([4.0, 6.0], 6.0, False), ([4.0, None], 4.0, False), ([], None, False)],
)
def test_a_goal_is_met_where_all_its_rows_hold_it(
    medians: list[float | None], measured: float | None, met: bool
) -> None:
    rows: list[Row] = [{"engine": "a", "median_ms": median} for median in medians]
    rows.append({"engine": "b", "median_ms": 99.0})
    (found,) = verdicts(rows, [FAST])
    assert (found.measured, found.met) == (measured, met)


def test_goals_name_sizes_that_the_full_run_measures() -> None:
    sizes = {(cell.stages, cell.variants, cell.cores) for cell in planner.full_scope().sizes}
    named = [goal.where for goal in GOALS if goal.where["part"] == "sizes"]
    assert len(named) == 5
    assert {(where["stages"], where["variants"], where["cores"]) for where in named} <= sizes


def test_a_fleet_is_planned_within_its_budget() -> None:
    row = fleet_row(2, 6, Cell(2, 3))
    assert (row["failures"], row["instances"], row["pipelines"]) == (0, 2, 6)
    assert 0 < row["median_ms"] <= row["worst_ms"]
    assert row["worst_gap"] <= 1e-9


def test_a_fleet_that_gives_a_pipeline_less_than_it_gets_alone_is_found_out() -> None:
    members = [member_of(Cell(2, 3), seed) for seed in range(2)]
    plan = plan_fleet(members, AMPLE_CORES)
    assert differences(members, plan) == []
    assert faults_of(plan, plan.cost_cores) == []
    assert [kind for kind, _ in faults_of(plan, 0.5 * plan.cost_cores)] == ["error"]
    first = replace(plan.members[0], objective=plan.members[0].objective - 0.01)
    worse = replace(plan, members=(first, *plan.members[1:]))
    assert [kind for kind, _ in differences(members, worse)] == ["disagreement"]


class Inside:
    """An engine of this process; `lie` is added to what it says is the optimum."""

    lie = 0.0

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def start(self) -> None:
        """Nothing to start."""

    def solve(
        self, cell: Cell, seed: int, deadline_s: float, *, without_sla: bool = False
    ) -> dict[str, object]:
        request = {"cell": cell.to_json(), "seed": seed, "deadline_s": deadline_s, "without_sla": without_sla}
        found = answered("exact", request)
        if self.name == "highs" and found["objective"] is not None:
            found["objective"] -= self.lie
        return found


@pytest.mark.parametrize(("lie", "code"), [(0.0, 0), (1e-3, 1)])
def test_the_command_writes_both_files_and_fails_on_a_wrong_optimum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], lie: float, code: int
) -> None:
    effort = Effort(instances=2, deadline_s=5.0, budget_s=5.0)
    cell = Cell(2, 3)
    tiny = planner.Scope((cell,), (), (("stages", Cell(1, 3)),), effort, effort, (3.0,), (1, 3))
    monkeypatch.setattr(planner, "quick_scope", lambda: tiny)
    monkeypatch.setattr(planner, "Engine", Inside)
    monkeypatch.setattr(Inside, "lie", lie)
    monkeypatch.setattr("sys.argv", ["bench", "planner", "--quick", "--out", str(tmp_path)])
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    assert main() == code
    rows = json.loads((tmp_path / "planner.json").read_text())
    assert all(tuple(row)[: len(HEAD)] == HEAD for row in rows)
    assert {row["part"] for row in rows} == {"sizes", "growth", "pipelines", "fleet"}
    assert [row["engine"] for row in rows[:3]] == ["exact", "highs", "gurobi"]
    assert "## Goals" in (tmp_path / "planner.md").read_text()
    assert ("all proved optima agree" in capsys.readouterr().out) is (code == 0)
