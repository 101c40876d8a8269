"""`ipa plan` where several configurations of the whole pipeline may share the load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipa.cli.main import run

Capture = pytest.CaptureFixture[str]
GAINS = ["plan", "resnets", "--rate", "100", "--compat", "paper", "--solver", "exact"]
GAINS_NOTHING = ["plan", "video", "--rate", "20", "--solver", "exact"]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_a_mixture_that_gains_is_in_the_json_beside_the_single_plan(capsys: Capture) -> None:
    assert run([*GAINS, "-o", "json"]) == 0
    single = json.loads(capsys.readouterr().out)
    assert run([*GAINS, "--max-predictors", "2", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    mixture = plan.pop("mixture")
    for each in (plan, single):
        # How long it took, and prices, which presolving may leave out.
        del each["solve_s"], each["prices"]
    assert plan == single
    parts = mixture["parts"]
    assert [part["share_percent"] for part in parts] == [59, 41]
    assert [part["plan"]["rate_rps"] for part in parts] == [59, 41]
    assert mixture["gain"] == pytest.approx(
        sum(part["plan"]["objective"] for part in parts) - plan["objective"]
    )
    assert mixture["gain"] > 0.49
    assert mixture["cost_cores"] == sum(part["plan"]["cost_cores"] for part in parts) <= 20
    assert plan["pas"] < mixture["mean_pas"]


def test_three_are_worth_no_less_than_two(capsys: Capture) -> None:
    worth = []
    for predictors in ("2", "3"):
        assert run([*GAINS, "--max-predictors", predictors, "-o", "json"]) == 0
        worth.append(json.loads(capsys.readouterr().out)["mixture"]["objective"])
    assert worth[1] >= worth[0]


def test_text_shows_each_part_and_the_gain(capsys: Capture) -> None:
    assert run([*GAINS, "--max-predictors", "2"]) == 0
    text = capsys.readouterr().out
    for words in (
        "a mixture of 2 configurations",
        "59 % of the requests, 59 rps",
        "41 % of the requests, 41 rps",
        "objective 75.53 → 76.0238 (+0.494)   PAS 0.7613 → 0.7702   cost 12 → 20 cores",
    ):
        assert words in text


def test_where_one_plan_is_as_good_it_is_the_answer(capsys: Capture) -> None:
    assert run([*GAINS_NOTHING, "--max-predictors", "2", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["mixture"] is None and [stage["stage"] for stage in plan["stages"]] == [
        "crop",
        "classification",
    ]
    assert run([*GAINS_NOTHING, "--max-predictors", "2"]) == 0
    text = capsys.readouterr().out
    assert "No mixture of up to 2 configurations is worth more." in text and "headroom" in text


def test_a_mixture_may_carry_what_one_configuration_cannot(capsys: Capture) -> None:
    asked = ["plan", "video", "--rate", "9000", "--solver", "exact"]
    assert run(asked) == 3
    capsys.readouterr()
    assert run([*asked, "--max-predictors", "2"]) == 0
    assert "No single plan is feasible" in capsys.readouterr().out
    assert run([*asked, "--max-predictors", "2", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"] == [] and plan["mixture"]["gain"] is None and len(plan["mixture"]["parts"]) == 2


def test_nothing_feasible_says_what_would_be(capsys: Capture) -> None:
    asked = ["plan", "resnets", "--rate", "900", "--compat", "paper", "--max-predictors", "2"]
    assert run(asked) == 3
    assert "Feasible with" in capsys.readouterr().out
    assert run([*asked, "-o", "json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["mixture"] is None and plan["relaxations"] and plan["termination"] == "infeasible"


def test_the_file_decides_unless_the_command_line_does(root: Path, tmp_path: Path, capsys: Capture) -> None:
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    folder = tmp_path / "resnets"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(text.replace("graph:", "max_predictors: 2\ngraph:"))
    chosen = [*GAINS, "--pipelines-dir", str(tmp_path), "-o", "json"]
    assert run(chosen) == 0
    assert json.loads(capsys.readouterr().out)["mixture"]["parts"]
    assert run([*chosen, "--max-predictors", "1"]) == 0
    assert "mixture" not in json.loads(capsys.readouterr().out)
    assert run([*chosen, "--running", "now.json"]) == 64
    assert "--max-predictors 1" in capsys.readouterr().err


@pytest.mark.parametrize("predictors", ["0", "4", "-1"])
def test_one_to_three_configurations(predictors: str, capsys: Capture) -> None:
    assert run([*GAINS_NOTHING, "--max-predictors", predictors]) == 64
    assert "--max-predictors must be 1, 2 or 3" in capsys.readouterr().err


def edited(root: Path, folder: Path, old: str, new: str) -> list[str]:
    """The arguments of a plan of resnets in that folder, its file edited."""
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    (folder / "resnets").mkdir()
    (folder / "resnets" / "pipeline.yaml").write_text(text.replace(old, new))
    return [*GAINS, "--pipelines-dir", str(folder), "--max-predictors", "2"]


def test_all_parts_together_are_within_the_bound_of_memory(
    root: Path, tmp_path: Path, capsys: Capture
) -> None:
    chosen = edited(root, tmp_path, "bounds: {", "bounds: {memory: 26GiB, ")
    assert run([*chosen, "-o", "json"]) == 0
    mixture = json.loads(capsys.readouterr().out)["mixture"]
    assert len(mixture["parts"]) == 2
    stages = [part["plan"]["stages"][0] for part in mixture["parts"]]
    memory_gib = sum(stage["replicas"] * stage["beside"]["memory_gib"] for stage in stages)
    assert 0 < memory_gib <= 26


def test_why_no_mixture_was_looked_for_is_said(root: Path, tmp_path: Path, capsys: Capture) -> None:
    chosen = edited(root, tmp_path, "  default:\n", "  default:\n    goal: lexicographic\n")
    assert run([*chosen, "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    words = "mixtures are not planned for the goal lexicographic"
    assert plan["mixture"] is None and words in plan["note"]
    assert run(chosen) == 0
    text = capsys.readouterr().out
    assert f"Note: {words}." in text and "No mixture" not in text
