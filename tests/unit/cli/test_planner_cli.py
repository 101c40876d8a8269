"""The verb `plan` on the shipped pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ipa.cli.main import run

MAIN = "from ipa.cli.main import main; main()"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_plan_prints_json_with_the_documented_keys(capsys: Capture) -> None:
    assert run(["plan", "video", "--rate", "12", "--solver", "exact", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert list(plan)[:12] == [
        "pipeline",
        "rate_rps",
        "termination",
        "solver",
        "objective",
        "bound",
        "gap",
        "pas",
        "cost_cores",
        "latency_s",
        "sla_s",
        "solve_s",
    ]
    assert [stage["stage"] for stage in plan["stages"]] == ["crop", "classification"]
    assert plan["latency_s"] <= plan["sla_s"]
    assert plan["rate_rps"] == 12


@pytest.mark.parametrize("solver", ["gurobi", "highs"])
def test_nothing_but_the_plan_is_printed(solver: str) -> None:
    chosen = ["--rate", "12", "--objective", "paper-v1", "--compat", "ipa-artifact", "--allocation", "base"]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "plan", "video", *chosen, "--solver", solver, "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["solver"] == solver
    assert done.stderr == ""


def test_plan_prints_a_table_for_people(capsys: Capture) -> None:
    assert run(["plan", "video", "--rate", "12", "--objective", "paper-v3"]) == 0
    text = capsys.readouterr().out
    assert "Pipeline video   λ 12 rps   SLA 4.598 s   objective paper-v3" in text
    for word in ("crop", "classification", "share of SLA", "PAS", "headroom", "exact"):
        assert word in text


def test_a_pipeline_may_be_given_by_its_file(capsys: Capture) -> None:
    assert run(["plan", "pipelines/video/pipeline.yaml", "--rate", "12", "-o", "json"]) == 0
    by_file = json.loads(capsys.readouterr().out)
    assert run(["plan", "video", "--rate", "12", "-o", "json"]) == 0
    by_name = json.loads(capsys.readouterr().out)
    assert by_file["stages"] == by_name["stages"]


def test_an_infeasible_plan_exits_3_and_says_what_would_help(capsys: Capture) -> None:
    assert run(["plan", "video", "--rate", "9000", "--solver", "exact"]) == 3
    text = capsys.readouterr().out
    assert "No plan: infeasible" in text
    assert "Feasible with rate ≤" in text
    assert run(["plan", "video", "--rate", "9000", "--solver", "exact", "-o", "json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["objective"] is None and plan["stages"] == [] and plan["relaxations"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "video", "--rate", "0"], 64, "above 0"),
        (["plan", "video", "--rate", "many"], 64, "--rate"),
        (["plan", "video"], 64, "--rate"),
        (["plan", "video", "--rate", "5", "--solver", "cplex"], 64, "auto, gurobi, highs, exact"),
        (["plan", "video", "--rate", "5", "--compat", "both"], 64, "paper, ipa-artifact"),
        (["plan", "video", "--rate", "5", "--allocation", "all"], 64, "base, free"),
        (["plan", "video", "--rate", "5", "-o", "xml"], 64, "xml"),
        (["plan", "vidio", "--rate", "5"], 1, "video"),
        (["plan", "no/such/pipeline.yaml", "--rate", "5"], 1, "no/such/pipeline.yaml"),
        (["plan", "video", "--rate", "5", "--objective", "best"], 1, "paper-v1"),
        (["plan", "video", "--rate", "5", "--profiles-dir", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_gets_a_message(arguments: list[str], code: int, words: str, capsys: Capture) -> None:
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err and printed.out == ""


def test_planning_does_not_load_scikit_learn() -> None:
    # It takes a second, and with what it brings a hundred megabytes.
    chosen = "plan video --rate 5 -o json"
    probe = (
        f"import sys; from ipa.cli.main import run; run({chosen!r}.split()); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
