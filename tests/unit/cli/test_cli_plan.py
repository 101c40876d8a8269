"""`ipa plan` on the shipped pipelines: its forms, sets of variants, and what runs beside the replicas."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.sets.published import Splits
from ipa.cli.main import run
from ipa.cli.planning import Question
from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import UsageError
from ipa.model.pipeline import AccuracyRule, Pin, Pipeline, StageBounds
from ipa.model.profile import StageProfile
from ipa.optimize.set_solve import in_whole_percents
from ipa.policies.infadapter import set_question
from tests.fakes.children import run_process
from tests.fakes.commands import Ipa

MAIN = "from ipa.cli.main import main; main()"


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_plan_prints_json_with_the_documented_keys(ipa: Ipa) -> None:
    plan = json.loads(ipa("plan", "video", "--rate", "12", "--solver", "exact", "-o", "json").out)
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
    done = run_process(
        [sys.executable, "-c", MAIN, "plan", "video", *chosen, "--solver", solver, "-o", "json"], check=True
    )
    assert json.loads(done.stdout)["solver"] == solver
    assert done.stderr == ""


def test_plan_prints_a_table_for_people(ipa: Ipa) -> None:
    text = ipa("plan", "video", "--rate", "12", "--objective", "paper-v3").out
    assert "Pipeline video   λ 12 rps   SLA 4.598 s   objective paper-v3" in text
    for word in ("crop", "classification", "share of SLA", "PAS", "headroom", "exact"):
        assert word in text


def test_a_pipeline_may_be_given_by_its_file(ipa: Ipa) -> None:
    by_file = json.loads(ipa("plan", "pipelines/video/pipeline.yaml", "--rate", "12", "-o", "json").out)
    by_name = json.loads(ipa("plan", "video", "--rate", "12", "-o", "json").out)
    assert by_file["stages"] == by_name["stages"]


def test_an_infeasible_plan_exits_3_and_says_what_would_help(ipa: Ipa) -> None:
    text = ipa("plan", "video", "--rate", "9000", "--solver", "exact", code=3).out
    assert "No plan: infeasible" in text
    assert "Feasible with rate ≤" in text
    plan = json.loads(ipa("plan", "video", "--rate", "9000", "--solver", "exact", "-o", "json", code=3).out)
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
def test_bad_input_gets_a_message(arguments: list[str], code: int, words: str, ipa: Ipa) -> None:
    printed = ipa(*arguments, code=code)
    assert words in printed.err
    assert printed.out == ""


def test_planning_does_not_load_scikit_learn() -> None:
    # It takes a second, and with what it brings a hundred megabytes.
    chosen = "plan video --rate 5 -o json"
    probe = (
        f"import sys; from ipa.cli.main import run; run({chosen!r}.split()); print('sklearn' in sys.modules)"
    )
    done = run_process([sys.executable, "-c", probe], check=True)
    assert done.stdout.splitlines()[-1] == "False"


def plan(ipa: Ipa, *arguments: str) -> dict[str, Any]:
    best: dict[str, Any] = json.loads(ipa("plan", "video", "--rate", "10", "-o", "json", *arguments).out)
    return best


def test_the_orchestrator_counts_on_a_cluster_only(ipa: Ipa) -> None:
    here, there = plan(ipa), plan(ipa, "--at", "kubernetes")
    cores = [sum(it["replicas"] * it["cores"] for it in best["stages"]) for best in (here, there)]
    assert (here["cost_cores"], there["cost_cores"]) == (cores[0], cores[1] + 0.5)
    # Replicas that batch for themselves help each other less than those of one queue.
    assert there["cost_cores"] > here["cost_cores"] + 0.5
    assert "(0.5 beside the replicas)" in ipa("plan", "video", "--rate", "10", "--at", "kubernetes").out
    assert "beside" not in ipa("plan", "video", "--rate", "10").out


def test_beside_the_first_stage_it_multiplies_and_the_budget_holds_with_it(
    tmp_path: Path, root: Path, ipa: Ipa, capfd: pytest.CaptureFixture[str]
) -> None:
    given = yaml.safe_load((root / "pipelines/video/pipeline.yaml").read_text(encoding="utf-8"))
    given["seldon"] |= {"separate_orchestrator": False, "orchestrator_cores": 1.0}
    (tmp_path / "video").mkdir()
    (tmp_path / "video/pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    where = ("--pipelines-dir", str(tmp_path))
    best = plan(ipa, "--at", "kubernetes", *where)
    first, *_ = best["stages"]
    replicas = sum(stage["replicas"] * stage["cores"] for stage in best["stages"])
    assert best["cost_cores"] == pytest.approx(replicas + first["replicas"])
    least = plan(ipa, *where)["cost_cores"]
    given["bounds"] = {**given.get("bounds", {}), "cores": least}
    (tmp_path / "video/pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    assert plan(ipa, *where)["cost_cores"] <= least
    code = run(["plan", "video", "--rate", "10", "-o", "json", "--at", "kubernetes", *where])
    tight = json.loads(capfd.readouterr().out)
    assert code == 3 or tight["cost_cores"] <= least
    assert tight["stages"] != best["stages"]


def test_every_verb_that_plans_counts_alike(ipa: Ipa) -> None:
    cost_cores = plan(ipa, "--at", "kubernetes")["cost_cores"]
    assert Question("video", at="kubernetes").plan(10.0).cost_cores == cost_cores


def test_where_it_makes_no_difference_is_said(ipa: Ipa) -> None:
    assert "There are: kubernetes" in ipa("plan", "video", "--rate", "10", "--at", "mars", code=64).err


@pytest.fixture
def resnets(root: Path) -> tuple[Pipeline, dict[str, StageProfile]]:
    pipeline = load_pipeline(root / "pipelines" / "resnets" / "pipeline.yaml")
    return pipeline, load_profiles(root / "profiles", "resnets")


def as_json(ipa: Ipa, *arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(ipa("plan", *arguments, "-o", "json").out)
    return values


def test_the_set_is_the_best_of_all_splits_in_whole_percents(
    resnets: tuple[Pipeline, dict[str, StageProfile]], ipa: Ipa
) -> None:
    question = set_question(*resnets, 100.0)
    several = 0
    for rate in (20.0, 70.0, 100.0, 250.0, 370.0):
        problem = in_whole_percents(replace(question.problem, rate_rps=rate))
        expected, _ = Splits(problem).best(problem)
        plan = as_json(ipa, "resnets", "--sets", "--rate", str(rate))
        # The set's objective has no term of batch sizes.
        batches = 1e-6 * sum(stage["batch_size"] for stage in plan["stages"])
        assert plan["objective"] + batches == pytest.approx(expected, rel=1e-9)
        assert sum(stage["share_percent"] for stage in plan["stages"]) == 100
        assert plan["cost_cores"] <= 20
        several += len(plan["stages"]) > 1
    assert several >= 3


def test_text_says_who_serves_what(ipa: Ipa) -> None:
    text = ipa("plan", "resnets", "--sets", "--rate", "100").out
    for words in ("share", "52 %", "38 %", "10 %", "PAS 0.7699", "cost 20 cores"):
        assert words in text


def test_what_no_set_carries_is_named_and_exits_3(ipa: Ipa) -> None:
    text = ipa("plan", "resnets", "--sets", "--rate", "900", code=3).out
    assert "No plan: infeasible" in text and "this one carries 378 rps" in text
    plan = json.loads(ipa("plan", "resnets", "--sets", "--rate", "900", "-o", "json", code=3).out)
    assert plan["stages"] == [] and plan["objective"] is None


def test_the_file_decides_unless_the_command_line_does(root: Path, tmp_path: Path, ipa: Ipa) -> None:
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    folder = tmp_path / "resnets"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(text.replace("graph:", "sets: true\ngraph:"))
    chosen = ["resnets", "--rate", "20", "--pipelines-dir", str(tmp_path)]
    assert as_json(ipa, *chosen)["solver"] == "infadapter"
    for single in ([*chosen, "--no-sets"], ["resnets", "--rate", "20"]):
        assert as_json(ipa, *single)["solver"] == "exact"


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
def test_options_without_meaning_are_refused(arguments: list[str], words: str, ipa: Ipa) -> None:
    rate = [] if "--rate" in arguments else ["--rate", "20"]
    printed = ipa("plan", "resnets", "--sets", *rate, *arguments, code=64)
    assert words in printed.err and printed.out == ""


def test_a_pipeline_of_two_stages_has_no_sets(ipa: Ipa) -> None:
    err = ipa("plan", "video", "--sets", "--rate", "20", code=64).err
    assert "a set needs a pipeline of one stage, and this one has 2" in err


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
    resnets: tuple[Pipeline, dict[str, StageProfile]], root: Path, tmp_path: Path, ipa: Ipa
) -> None:
    text = (root / "pipelines" / "resnets" / "pipeline.yaml").read_text()
    (tmp_path / "resnets").mkdir()
    edited = text.replace("bounds: {", "prices: {cores: 0.04, memory: 0.01}\nbounds: {memory: 3GiB, ")
    (tmp_path / "resnets" / "pipeline.yaml").write_text(edited)
    chosen = ["resnets", "--sets", "--rate", "100", "--pipelines-dir", str(tmp_path)]
    free, plan = as_json(ipa, *chosen[:4]), as_json(ipa, *chosen)
    memory = {
        variant.name: variant.beside.memory_gib for variant in set_question(*resnets, 1.0).problem.variants
    }
    held_gib = sum(memory[stage["variant"]] for stage in plan["stages"])
    assert held_gib <= 3 < sum(memory[stage["variant"]] for stage in free["stages"])
    assert plan["cost_usd_per_hour"] == pytest.approx(0.04 * plan["cost_cores"] + 0.01 * held_gib)
    assert "USD/h" in ipa("plan", *chosen).out


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
