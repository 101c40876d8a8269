"""`ipa plan --running`: the change from what runs to the best plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipa.cli.main import run
from ipa.files import load_pipeline
from ipa.files.plans import load_running
from ipa.model.errors import InputError
from ipa.model.plan import StageConfig

Capture = pytest.CaptureFixture[str]
CROP = {"stage": "crop", "variant": "yolov5m", "batch_size": 1, "cores": 1, "replicas": 6}
CLASSIFY = {"stage": "classification", "variant": "resnet50", "batch_size": 1, "cores": 1, "replicas": 3}
ASKED = ["plan", "video", "--solver", "exact"]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def now(tmp_path: Path) -> Path:
    return tmp_path / "now.json"


def planned(capsys: Capture, now: Path, rate: str, *more: str) -> dict[str, Any]:
    assert run([*ASKED, "--rate", rate, "--running", str(now), "-o", "json", *more]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_the_json_of_a_plan_is_what_runs(now: Path, capsys: Capture) -> None:
    assert run([*ASKED, "--rate", "12", "-o", "json"]) == 0
    now.write_text(capsys.readouterr().out)
    plan = planned(capsys, now, "12")
    assert plan["change"]["stages"] == [] and plan["change"]["started_cores"] == 0
    assert plan["change"]["peak_cores"] == plan["change"]["before_cores"] == plan["cost_cores"]
    # Its own answer to a change may be what runs too.
    now.write_text(json.dumps(plan))
    assert planned(capsys, now, "12")["change"] == plan["change"]
    assert run([*ASKED, "--rate", "12", "--running", str(now)]) == 0
    assert "Change: none, 9 cores, 18 GiB of memory run as planned." in capsys.readouterr().out


def test_a_change_is_told_by_stage_with_its_peak(now: Path, capsys: Capture) -> None:
    now.write_text(json.dumps([{**CROP, "variant": "yolov5n", "replicas": 2}, CLASSIFY]))
    change = planned(capsys, now, "30")["change"]
    crop, classification = change["stages"]
    assert crop["before"]["variant"] == "yolov5n" and crop["after"]["variant"] == "yolov5m"
    assert classification["before"]["replicas"] == 3 and classification["after"]["replicas"] == 5
    # Old and new croppers run side by side, two classifiers are added.
    assert change["before_cores"] == 5
    assert change["after_cores"] == crop["after"]["replicas"] + 5
    assert change["peak_cores"] == change["after_cores"] + 2
    assert change["started_cores"] == change["after_cores"] - 3
    assert run([*ASKED, "--rate", "30", "--running", str(now)]) == 0
    text = capsys.readouterr().out
    assert "Change: 2 stages" in text and "while old and new replicas run side by side" in text
    assert "crop: yolov5n b1 2×1 core → yolov5m b1" in text
    assert "classification: 3 → 5 replicas of resnet50 b1 on 1 core" in text


def test_a_switch_between_resident_variants_starts_nothing(
    now: Path, capsys: Capture, root: Path, tmp_path: Path
) -> None:
    now.write_text(json.dumps([{**CROP, "variant": "yolov5n"}, CLASSIFY]))
    folder = bounded(root, tmp_path, "  - name: crop\n", "  - name: crop\n    resident: all\n")
    change = planned(capsys, now, "12", *folder)["change"]
    (crop,) = change["stages"]
    assert crop["in_place"] and crop["before"]["variant"] != crop["after"]["variant"]
    assert change["started_cores"] == 0 and change["peak_cores"] == change["before_cores"]
    assert run([*ASKED, "--rate", "12", "--running", str(now), *folder]) == 0
    assert "crop: yolov5n b1 6×1 core → yolov5m b1 6×1 core, in place" in capsys.readouterr().out


def bounded(root: Path, tmp_path: Path, text: str, instead: str) -> list[str]:
    folder = tmp_path / "video"
    folder.mkdir()
    original = (root / "pipelines" / "video" / "pipeline.yaml").read_text()
    assert text in original
    (folder / "pipeline.yaml").write_text(original.replace(text, instead))
    return ["--pipelines-dir", str(tmp_path)]


def test_old_and_new_are_within_the_budget_together(
    root: Path, tmp_path: Path, now: Path, capsys: Capture
) -> None:
    folder = bounded(root, tmp_path, "bounds: {", "bounds: {cores: 19, ")
    assert run([*ASKED, "--rate", "30", *folder, "-o", "json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    now.write_text(json.dumps([{**CROP, "variant": "yolov5n", "replicas": 4}, CLASSIFY]))
    plan = planned(capsys, now, "30", *folder)
    assert alone["cost_cores"] == 19 and plan["change"]["peak_cores"] <= 19
    assert plan["objective"] < alone["objective"]


def test_what_a_change_costs_counts(root: Path, tmp_path: Path, now: Path, capsys: Capture) -> None:
    folder = bounded(root, tmp_path, "  default:\n", "  default:\n    transition_per_core: 1\n")
    now.write_text(json.dumps([{**CROP, "variant": "yolov5s", "replicas": 8}, CLASSIFY]))
    free = planned(capsys, now, "12")
    costly = planned(capsys, now, "12", *folder)
    assert free["change"]["started_cores"] > 0 == costly["change"]["started_cores"]


def test_nothing_feasible_has_no_change(now: Path, capsys: Capture) -> None:
    now.write_text(json.dumps([CROP, CLASSIFY]))
    asked = [*ASKED, "--rate", "9000", "--running", str(now)]
    assert run([*asked, "-o", "json"]) == 3
    assert json.loads(capsys.readouterr().out)["change"] is None
    assert run(asked) == 3
    text = capsys.readouterr().out
    assert "No plan: infeasible" in text and "Change" not in text


def test_a_stage_of_which_nothing_is_known_starts(now: Path, capsys: Capture) -> None:
    now.write_text(json.dumps([CROP]))
    change = planned(capsys, now, "12")["change"]
    assert [stage["stage"] for stage in change["stages"]] == ["classification"]
    assert change["stages"][0]["before"] is None
    assert run([*ASKED, "--rate", "12", "--running", str(now)]) == 0
    assert "(not known what runs)" in capsys.readouterr().out


def test_stages_are_read_in_the_order_of_the_pipeline(root: Path, now: Path) -> None:
    now.write_text(json.dumps([CLASSIFY, {**CROP, "cores": 0.5}]))
    pipeline = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    assert load_running(now, pipeline) == (
        StageConfig("crop", "yolov5m", 1, 0.5, 6),
        StageConfig("classification", "resnet50", 1, 1.0, 3),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("7", "no stages"),
        ("{}", "/stages: no stages"),
        ("[]", "no stages"),
        ('{"stages": []}', "/stages: no stages"),
        ('{"stages": "crop"}', "/stages: no stages"),
        (json.dumps({"pipeline": "ocr", "stages": [CROP]}), "/pipeline: it is a plan of pipeline 'ocr'"),
        (
            json.dumps({"stages": [CROP, 4]}),
            "/stages/1: entry 2 of stages is 4",
        ),
        (json.dumps([CROP, CROP]), "/1/stage: stage 'crop' appears twice"),
        (json.dumps([{**CROP, "stage": "corp"}]), "/0/stage: pipeline 'video' has no stage 'corp'"),
        (json.dumps([{**CROP, "variant": "yolo"}]), "/0/variant: stage 'crop' has no variant 'yolo'"),
        (
            json.dumps([{**CROP, "variant": 5}]),
            "/0/variant: variant is 5, which is a number",
        ),
        (json.dumps([{**CROP, "replicas": 0}]), "/0/replicas: replicas is 0; it must be at least 1"),
        (json.dumps([{**CROP, "replicas": True}]), "/0/replicas: replicas is true; expected a whole number"),
        (
            json.dumps([{**CROP, "batch_size": 1.5}]),
            "/0/batch_size: batch_size is 1.5; expected a whole",
        ),
        (json.dumps([{**CROP, "cores": "1"}]), '/0/cores: cores is "1"; expected a number'),
        ('[{"stage": "crop", "cores": NaN}]', "/0/cores:"),
        (json.dumps([{**CROP, "replica": 1}]), "/0/replica: unknown key 'replica'; did you mean 'replicas'?"),
        (json.dumps([{"stage": "crop"}]), "/0: entry 1 of the file lacks the key 'batch_size'"),
        ('[{"stage": "crop", "stage": "crop"}]', "duplicate key 'stage'"),
    ],
)
def test_bad_files_name_file_and_key(content: str, words: str, now: Path, capsys: Capture) -> None:
    now.write_text(content)
    assert run([*ASKED, "--rate", "12", "--running", str(now)]) == InputError.exit_code
    printed = capsys.readouterr()
    assert words in printed.err and str(now) in printed.err and printed.out == ""


def test_all_problems_are_listed_at_once(now: Path, capsys: Capture) -> None:
    now.write_text(json.dumps([{**CROP, "cores": 0}, {**CLASSIFY, "replicas": -1}]))
    assert run([*ASKED, "--rate", "12", "--running", str(now)]) == 65
    error = capsys.readouterr().err
    assert "/0/cores" in error and "/1/replicas" in error


def test_no_such_file(now: Path, capsys: Capture) -> None:
    assert run([*ASKED, "--rate", "12", "--running", str(now)]) == 1
    assert f"{now} does not exist" in capsys.readouterr().err
