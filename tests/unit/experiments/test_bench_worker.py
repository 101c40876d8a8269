"""One timed solve, the process that does it, and the memory it is charged."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.bench import worker
from experiments.bench.cell import Cell
from experiments.bench.engines import Engine
from experiments.bench.instances import instance
from ipa.model.errors import LicenceError, SolverError
from ipa.model.plan import Plan, Termination
from ipa.optimize.solve import solve

CELL = Cell(2, 3, 2)
REQUEST = {"cell": CELL.to_json(), "seed": 1, "deadline_s": 5.0}


def test_an_answer_holds_the_optimum() -> None:
    found = worker.answered("exact", REQUEST)
    expected = solve(instance(CELL, 1), "exact", explain=False)
    assert (found["failure"], found["proved"], found["objective"]) == ("", True, expected.objective)
    assert found["ms"] > 0


def test_without_the_sla_no_plan_is_worse() -> None:
    for seed in range(10):
        request = {**REQUEST, "seed": seed}
        tight = worker.answered("exact", request)["objective"]
        loose = worker.answered("exact", {**request, "without_sla": True})["objective"]
        assert loose is not None
        assert tight is None or loose >= tight


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(LicenceError("too large"), "licence"), (SolverError("broken"), "error"), (ValueError("odd"), "error")],
)
def test_what_is_raised_is_a_failure_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: str
) -> None:
    def refuse(*_: object, **__: object) -> Plan:
        raise raised

    monkeypatch.setattr(worker, "solve", refuse)
    found, plan = worker.timed(instance(CELL, 1), "gurobi", 5.0)
    assert (found["failure"], found["proved"], found["objective"], plan) == (kind, False, None, None)
    assert str(raised) in found["message"]


def test_an_optimum_that_is_not_proved_is_a_passed_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = solve(instance(CELL, 1), "exact", explain=False)
    late = replace(plan, termination=Termination.FEASIBLE)
    monkeypatch.setattr(worker, "solve", lambda *_, **__: late)
    found, _ = worker.timed(instance(CELL, 1), "highs", 5.0)
    assert (found["failure"], found["proved"], found["objective"]) == ("deadline", False, plan.objective)


def test_an_engine_solves_in_a_process_of_its_own() -> None:
    with Engine("exact") as engine:
        found = engine.solve(CELL, 1, 5.0)
        assert found["objective"] == solve(instance(CELL, 1), "exact", explain=False).objective
        assert 0 <= found["peak_mb"] < 200


def test_a_process_that_ends_is_an_error_and_is_started_again(tmp_path: Path) -> None:
    script = tmp_path / "dies_first.py"
    script.write_text(
        "import pathlib, sys\n"
        "mark = pathlib.Path(__file__).with_suffix('.seen')\n"
        "sys.stdin.readline()\n"
        "if mark.exists():\n"
        '    print(\'{"failure": "", "objective": 4.0}\', flush=True)\n'
        "mark.touch()\n"
    )
    with Engine("any", (sys.executable, str(script))) as engine:
        first = engine.solve(CELL, 0, 5.0)
        assert (first["failure"], first["proved"], first["ms"]) == ("error", False, None)
        assert first["message"] == "the process ended"
        assert engine.solve(CELL, 1, 5.0)["objective"] == 4.0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux only")
def test_the_peak_counts_what_was_held_since_the_reset() -> None:
    """In a process of its own: memory that the tests before it gave back is taken before new memory is."""
    program = (
        "from experiments.bench.memory import peak_mb, reset_peak\n"
        "reset_peak()\n"
        "before = peak_mb()\n"
        "held = b'x' * (64 * 2**20)\n"
        "with_it = peak_mb() - before\n"
        "del held\n"
        "after_it = peak_mb() - before\n"
        "reset_peak()\n"
        "print(with_it, after_it, peak_mb() - before)\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=300, check=True
    )
    with_it, after_it, reset = map(float, done.stdout.split())
    assert 60 < with_it < 80
    assert after_it > 60
    assert reset < 30
