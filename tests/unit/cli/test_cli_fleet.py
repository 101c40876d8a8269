"""`ipa fleet`: many pipelines under one budget of cores."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ipa.cli.options import parse_pairs
from ipa.cli.output import Output, show
from ipa.cli.planning import Question
from ipa.cli.views.result_text import fleet_lines
from ipa.model.plan import Termination
from ipa.optimize.fleet.plan import Member, plan_fleet
from tests.fakes.commands import Ipa

CONFIG = ("stage", "variant", "batch_size", "cores", "replicas")
THREE = ["video=20", "sum-qa=5", "audio-sent=5"]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def planned(ipa: Ipa, cores: float, *more: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(ipa("fleet", *THREE, "--cores", str(cores), "-o", "json", *more).out)
    return values


def test_with_cores_enough_each_has_its_best_plan(ipa: Ipa) -> None:
    fleet = planned(ipa, 100)
    for entry, argument in zip(fleet["pipelines"], THREE, strict=True):
        name, _, rate = argument.partition("=")
        alone = json.loads(ipa("plan", name, "--rate", rate, "--solver", "exact", "-o", "json").out)
        assert entry["plan"]["pipeline"] == name
        for mine, best in zip(entry["plan"]["stages"], alone["stages"], strict=True):
            assert {key: mine[key] for key in CONFIG} == {key: best[key] for key in CONFIG}
        assert entry["plan"]["objective"] == pytest.approx(alone["objective"])
        assert entry["plan"]["pas"] == pytest.approx(alone["pas"])
    assert fleet["price_per_core"] == 0
    assert fleet["termination"] == "optimal"


def test_a_tight_budget_is_kept_and_has_a_price(ipa: Ipa) -> None:
    tight, looser = planned(ipa, 15), planned(ipa, 16)
    assert tight["cost_cores"] == sum(each["plan"]["cost_cores"] for each in tight["pipelines"]) <= 15
    assert tight["worth"] == pytest.approx(sum(each["plan"]["objective"] for each in tight["pipelines"]))
    assert tight["price_per_core"] > 0
    assert looser["worth"] > tight["worth"]


def test_weights_say_who_is_served_first(ipa: Ipa) -> None:
    even = planned(ipa, 12)
    video, sums, audio = (each["plan"]["objective"] for each in even["pipelines"])
    heavy = planned(ipa, 12, "--weight", "sum-qa=50")
    assert heavy["pipelines"][1]["weight"] == 50
    assert heavy["pipelines"][1]["plan"]["objective"] > sums
    assert heavy["pipelines"][1]["worth"] == pytest.approx(50 * heavy["pipelines"][1]["plan"]["objective"])
    assert video + sums + audio >= sum(each["plan"]["objective"] for each in heavy["pipelines"])


def test_text_has_a_line_a_pipeline_and_the_sums(ipa: Ipa) -> None:
    text = ipa("fleet", *THREE, "--cores", "10").out
    for words in ("Fleet of 3 pipelines on 10 cores", "video", "sum-qa", "audio-sent", "crop=yolov5n b1"):
        assert words in text
    assert "10 of 10 cores" in text and "one more core is worth about 0." in text
    assert "Fleet of 1 pipeline on" in ipa("fleet", "video=20", "--cores", "12").out


def test_memory_is_kept_and_shown_beside_the_cores(ipa: Ipa) -> None:
    free = planned(ipa, 14)
    assert free["budget"] == {"cpu_cores": 14} and free["held"]["memory_gib"] == 30
    tight = planned(ipa, 14, "--memory", "20GiB")
    assert tight["budget"] == {"cpu_cores": 14, "memory_gib": 20}
    assert tight["held"]["memory_gib"] <= 20 and tight["worth"] < free["worth"]
    assert tight["held"]["cpu_cores"] == tight["cost_cores"]
    assert tight["prices"]["memory_gib"] > 0
    text = ipa("fleet", *THREE, "--cores", "14", "--memory", "20GiB").out
    assert "Fleet of 3 pipelines on 14 cores, 20 GiB of memory" in text
    assert "12 of 14 cores, 20 of 20 GiB of memory, objectives" in text
    assert ", one GiB more 0." in text


def test_no_pipeline_has_accelerators_and_none_are_used(ipa: Ipa) -> None:
    fleet = planned(ipa, 14, "--accelerators", "nvidia.com/gpu=1", "--accelerators", "amd.com/gpu=0")
    assert fleet["budget"] == {"cpu_cores": 14, "nvidia.com/gpu": 1, "amd.com/gpu": 0}
    assert fleet["held"]["nvidia.com/gpu"] == 0


def test_too_little_of_two_resources_exits_3_and_says_of_which(ipa: Ipa) -> None:
    printed = ipa("fleet", *THREE, "--cores", "8", "--memory", "2048MiB", code=3)
    assert printed.out == ""
    assert "8 cores: the plans need at least 10, that is 2 more" in printed.err
    assert "2 GiB of memory: the plans need at least 18, that is 16 more" in printed.err
    assert "Raise the budget to 10 cores and 18 GiB of memory or more" in printed.err


def test_what_is_not_proved_is_said_and_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    question = Question("video")
    proved = plan_fleet([Member(question.at_rate(20.0).problem())], 12.0, 5.0)
    for gap, words in ((inf, "no bound known"), (0.25, "gap 25.00%")):
        fleet = replace(proved, bound=proved.worth + gap, gap=gap, termination=Termination.FEASIBLE)
        values = json.loads(json.dumps(fleet.to_json(), allow_nan=False))
        assert values["termination"] == "feasible"
        assert values["gap"] == (None if gap == inf else gap)
        show(Output.TEXT, None, fleet_lines(fleet))
        assert words in capsys.readouterr().out


def test_a_pipeline_without_a_plan_is_named(ipa: Ipa) -> None:
    err = ipa("fleet", "video=9000", "sum-qa=5", "--cores", "5000", code=3).err
    assert "pipeline 'video' at 9000 rps" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cores", "4"], 64, "PIPELINE=RATE"),
        (["video=20"], 64, "--cores"),
        (["video", "--cores", "4"], 64, "'video' is not PIPELINE=a number"),
        (["=4", "--cores", "4"], 64, "'=4' is not PIPELINE=a number"),
        (["video=many", "--cores", "4"], 64, "'video=many' is not PIPELINE=a number"),
        (["video=0", "--cores", "4"], 64, "'video=0': the number must be above 0"),
        (["video=nan", "--cores", "4"], 64, "'video=nan': the number must be above 0"),
        (["video=1", "video=2", "--cores", "4"], 64, "'video' is given twice"),
        (["video=1", "--cores", "0"], 64, "--cores must be above 0 and finite"),
        (["video=1", "--cores", "9", "--weight", "vide=2"], 64, "'vide' is none of: video"),
        (["video=1", "--cores", "9", "--weight", "video=-2"], 64, "'video=-2': the number"),
        (
            ["video=1", "--cores", "9", "--memory", "5"],
            64,
            "--memory '5' is not a number with one of the units",
        ),
        (["video=1", "--cores", "9", "--memory", "0GiB"], 64, "--memory must be above 0"),
        (
            ["video=1", "--cores", "9", "--accelerators", "gpu=1"],
            64,
            "--accelerators 'gpu=1' is not KIND=COUNT",
        ),
        (["video=1", "--cores", "9", "--accelerators", "a.b/c=-1"], 64, "'a.b/c=-1' is not KIND=COUNT"),
        (["video=1", "--cores", "9", "--compat", "both"], 64, "tail, paper, ipa-artifact"),
        (["video=1", "--cores", "9", "--objective", "best"], 1, "paper-v1"),
        (["video=1", "--cores", "9", "--deadline", "0"], 64, "--deadline must be above 0"),
        (["vidio=1", "--cores", "9"], 1, "there is no pipeline 'vidio'"),
        (["video=1", "pipelines/video/pipeline.yaml=1", "--cores", "90"], 65, "'video' appears twice"),
    ],
)
def test_bad_input_gets_a_message(arguments: list[str], code: int, words: str, ipa: Ipa) -> None:
    printed = ipa("fleet", *arguments, code=code)
    assert words in printed.err
    assert printed.out == ""


def test_a_path_may_have_an_equals_sign() -> None:
    assert parse_pairs("PIPELINE=RATE", ["a=b/pipeline.yaml=2"]) == {"a=b/pipeline.yaml": 2.0}
