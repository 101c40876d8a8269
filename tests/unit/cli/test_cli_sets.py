"""`ipa plan` for pipelines of one stage whose variants share the load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.sets.published import Splits
from ipa.cli.main import run
from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import UsageError
from ipa.model.pipeline import AccuracyRule, Pin, Pipeline, StageBounds
from ipa.model.profile import StageProfile
from ipa.optimize.set_solve import in_whole_percents
from ipa.policies.infadapter import set_question

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def resnets(root: Path) -> tuple[Pipeline, dict[str, StageProfile]]:
    pipeline = load_pipeline(root / "pipelines" / "resnets" / "pipeline.yaml")
    return pipeline, load_profiles(root / "profiles", "resnets")


def as_json(capture: Capture, *arguments: str) -> dict[str, Any]:
    assert run(["plan", *arguments, "-o", "json"]) == 0
    values: dict[str, Any] = json.loads(capture.readouterr().out)
    return values


def test_the_set_is_the_best_of_all_splits_in_whole_percents(
    resnets: tuple[Pipeline, dict[str, StageProfile]], capsys: Capture
) -> None:
    question = set_question(*resnets, 100.0)
    several = 0
    for rate in (20.0, 70.0, 100.0, 250.0, 370.0):
        problem = in_whole_percents(replace(question.problem, rate_rps=rate))
        expected, _ = Splits(problem).best(problem)
        plan = as_json(capsys, "resnets", "--sets", "--rate", str(rate))
        # The set's objective has no term of batch sizes.
        batches = 1e-6 * sum(stage["batch_size"] for stage in plan["stages"])
        assert plan["objective"] + batches == pytest.approx(expected, rel=1e-9)
        assert sum(stage["share_percent"] for stage in plan["stages"]) == 100
        assert plan["cost_cores"] <= 20
        several += len(plan["stages"]) > 1
    assert several >= 3


def test_text_says_who_serves_what(capsys: Capture) -> None:
    assert run(["plan", "resnets", "--sets", "--rate", "100"]) == 0
    text = capsys.readouterr().out
    for words in ("share", "52 %", "38 %", "10 %", "PAS 0.7699", "cost 20 cores"):
        assert words in text


def test_what_no_set_carries_is_named_and_exits_3(capsys: Capture) -> None:
    assert run(["plan", "resnets", "--sets", "--rate", "900"]) == 3
    text = capsys.readouterr().out
    assert "No plan: infeasible" in text and "this one carries 378 rps" in text
    assert run(["plan", "resnets", "--sets", "--rate", "900", "-o", "json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"] == [] and plan["objective"] is None


def test_the_file_decides_unless_the_command_line_does(root: Path, tmp_path: Path, capsys: Capture) -> None:
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    folder = tmp_path / "resnets"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(text.replace("graph:", "sets: true\ngraph:"))
    chosen = ["resnets", "--rate", "20", "--pipelines-dir", str(tmp_path)]
    assert as_json(capsys, *chosen)["solver"] == "infadapter"
    for single in ([*chosen, "--no-sets"], ["resnets", "--rate", "20"]):
        assert as_json(capsys, *single)["solver"] == "exact"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allocation", "base"], "--allocation base fixes the cores"),
        (["--compat", "tail"], "--compat tail: a set is planned with capacities as measured"),
        # All of them are named at once.
        (["--allocation", "base", "--solver", "highs"], "--solver highs: sets are solved by label setting"),
        (["--rate", "0"], "above 0"),
    ],
)
def test_options_without_meaning_are_refused(arguments: list[str], words: str, capsys: Capture) -> None:
    rate = [] if "--rate" in arguments else ["--rate", "20"]
    assert run(["plan", "resnets", "--sets", *rate, *arguments]) == 64
    printed = capsys.readouterr()
    assert words in printed.err and printed.out == ""


def test_a_pipeline_of_two_stages_has_no_sets(capsys: Capture) -> None:
    assert run(["plan", "video", "--sets", "--rate", "20"]) == 64
    assert "shares the load of one stage out, and it has 2" in capsys.readouterr().err


def with_stage(**changes: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda it: replace(it, stages=(replace(it.stages[0], **changes),))


def with_bounds(**changes: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda it: replace(it, bounds=replace(it.bounds, **changes))


def with_objective(**changes: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda it: replace(it, objectives={"default": replace(it.objectives["default"], **changes)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_bounds(accuracy_floor=0.7), "accuracy_floor is 0.7"),
        (with_stage(bounds=StageBounds(min_replicas=2)), "at least 2 replicas"),
        (with_stage(pin=Pin(replicas=3)), "at least 3 replicas"),
        (with_objective(accuracy_rule=AccuracyRule.RANK_SUM), "rank-sum"),
    ],
)
def test_limits_that_a_set_would_break_are_refused(
    change: Callable[[Pipeline], Pipeline], words: str, resnets: tuple[Pipeline, dict[str, StageProfile]]
) -> None:
    pipeline, profiles = resnets
    with pytest.raises(UsageError, match=words):
        set_question(change(pipeline), profiles, 20.0)


def test_memory_and_prices_count(
    resnets: tuple[Pipeline, dict[str, StageProfile]], root: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    (tmp_path / "resnets").mkdir()
    edited = text.replace("bounds: {", "prices: {cores: 0.04, memory: 0.01}\nbounds: {memory: 3GiB, ")
    (tmp_path / "resnets" / "pipeline.yaml").write_text(edited)
    chosen = ["resnets", "--sets", "--rate", "100", "--pipelines-dir", str(tmp_path)]
    free, plan = as_json(capsys, *chosen[:4]), as_json(capsys, *chosen)
    memory = {
        variant.name: variant.beside.memory_gib for variant in set_question(*resnets, 1.0).problem.variants
    }
    held_gib = sum(memory[stage["variant"]] for stage in plan["stages"])
    assert held_gib <= 3 < sum(memory[stage["variant"]] for stage in free["stages"])
    assert plan["cost_usd_per_hour"] == pytest.approx(0.04 * plan["cost_cores"] + 0.01 * held_gib)
    assert run(["plan", *chosen]) == 0
    assert "USD/h" in capsys.readouterr().out


def test_pins_budgets_and_margins_hold(resnets: tuple[Pipeline, dict[str, StageProfile]]) -> None:
    pipeline, profiles = resnets
    pinned = set_question(with_stage(pin=Pin(variant="resnet50", cores=5.0))(pipeline), profiles, 20.0)
    (variant,) = pinned.problem.variants
    (level,) = variant.levels
    # The objective's margin of a fifth is InfAdapter's; it is not taken twice.
    assert (variant.name, level.cores, level.capacity_rps) == ("resnet50", 5.0, pytest.approx(0.8 * 48))
    bare = with_objective(throughput_margin_ratio=0.0)
    assert (
        set_question(bare(pipeline), profiles, 20.0).problem.variants
        == set_question(pipeline, profiles, 20.0).problem.variants
    )
    ceiling = set_question(with_objective(max_cost_cores=7.0)(pipeline), profiles, 20.0)
    assert ceiling.problem.budget_cores == 7.0
    free = set_question(with_bounds(cores=None)(pipeline), profiles, 20.0)
    assert free.problem.budget_cores == 100.0


def test_batches_form_within_the_sla(resnets: tuple[Pipeline, dict[str, StageProfile]], root: Path) -> None:
    video = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    profiles = load_profiles(root / "profiles", "video")
    lone = replace(video, stages=(replace(video.stages[1], after=()),), sla=replace(video.sla, latency_s=0.4))
    assert {*set_question(lone, profiles, 20.0).batch_sizes.values()} > {1}
    slow = replace(lone, stages=(replace(lone.stages[0], batch_timeout_s=0.5),))
    assert {*set_question(slow, profiles, 20.0).batch_sizes.values()} == {1}
