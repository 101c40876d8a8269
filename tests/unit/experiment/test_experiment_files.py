"""Experiment files: wrong ones are told with their lines; loads, SLAs and pipelines by name."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest

from experiments.infadapter.world import as_servers
from ipa.experiment.cells import code_of
from ipa.experiment.loads import fastest_s, pipeline_of, rates_of, sla_of, with_sla
from ipa.experiment.reading import find_experiment, find_experiments, load_experiment
from ipa.experiment.runners import Experiment, PipelineArm, WorkloadArm, runner_of
from ipa.experiment.simulated import cells, setup_of
from ipa.model.errors import InputError, UsageError
from ipa.plugins import Registry

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = ROOT / "experiments"
FOLDERS = {"pipelines_dir": ROOT / "pipelines", "profiles_dir": ROOT / "profiles"}
GOOD = """\
apiVersion: ipa/v1
kind: Experiment
name: try
title: A try
runner: simulate
minutes: 2
seeds: [1, 2, 3]
pipelines:
  - video
  - {pipeline: nlp, objective: paper-v3}
workloads:
  - bursty
  - {name: calm, like: steady_low, scale: 0.5}
slas: [own, 1.5x, 800ms]
policies: [ours, ipa]
worlds: [as-profiled, "no-room+slow:1.5"]
reference: ipa
quick: {seeds: [1], slas: [own]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_experiment(write(folder, text), **FOLDERS)
    return [f"{problem.line}: {problem.message}" for problem in caught.value.problems]


def test_all_is_read(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD), **FOLDERS)
    assert experiment.seeds == (1, 2, 3)
    assert [(arm.pipeline, arm.objective) for arm in experiment.pipelines] == [
        ("video", None),
        ("nlp", "paper-v3"),
    ]
    assert [(arm.name, arm.like, arm.scale) for arm in experiment.workloads] == [
        ("bursty", "bursty", 1.0),
        ("calm", "steady_low", 0.5),
    ]
    assert experiment.slas == ("own", "1.5x", "800ms")
    assert experiment.worlds == ("as-profiled", "no-room+slow:1.5")


def test_the_quick_form_replaces(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD), quick=True, **FOLDERS)
    assert (experiment.seeds, experiment.slas, experiment.policies) == ((1,), ("own",), ("ours", "ipa"))


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("  - video", "  - vidoe")
        .replace("[ours, ipa]", "[ours, ippa]")
        .replace("bursty", "burtsy")
        .replace("objective: paper-v3", "objective: paper-v2")
        .replace("minutes: 2", "minutes: 0")
        .replace("1.5x", "1.5")
    )
    messages = problems(tmp_path, text)
    assert [each.split(":")[0] for each in messages] == ["6", "9", "10", "12", "14", "15", "17"]
    assert "minutes is 0; it must be greater than 0" in messages[0]
    assert "did you mean 'video'?" in messages[1]
    assert "nlp has no objective 'paper-v2'; did you mean" in messages[2]
    assert "did you mean 'bursty'?" in messages[3]
    assert "expected own (that of the pipeline), a multiple" in messages[4]
    assert "there is no policy 'ippa'; did you mean 'ipa'?" in messages[5]
    assert "reference 'ipa' is not among policies; add it there" in messages[6]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "seeds has 1 twice"),
        ("seeds: [1, 2, 3]", "seed: [1]", "unknown key 'seed'; did you mean 'seeds'?"),
        ("policies: [ours, ipa]\n", "", "runner simulate needs the key 'policies'; add it"),
        (
            "like: steady_low",
            "like: bursty, trace: x.txt",
            "exactly one of like, trace, shared; there is like and",
        ),
        ("like: steady_low", "trace: x.txt", "x.txt; the path starts from this file's folder"),
        ("like: steady_low, ", "", "expected exactly one of like, trace, shared; there is none"),
        ("{name: calm,", "{name: bursty,", "name 'bursty' occurs twice; give one of them another `name`"),
        ("slow:1.5", "slow:x", "16: world 'slow:x': 'x' is not a number above 0. Write slow alone, or with"),
        ("as-profiled", "as-pictured", "16: there is no world 'as-pictured'. There are: as-profiled, slow"),
        (
            "quick:",
            "settings: {IPA_PORT: 1}\nquick:",
            "18: IPA_PORT is no setting that can vary; there are: IPA_PEEK_S, IPA_",
        ),
        (
            "quick:",
            "settings:\n  IPA_FORECAST_QUANTILE:\n    - 0.5\n    - 1.5\nquick:",
            "21: IPA_FORECAST_QUANTILE='1.5' is not below 1; correct it, or leave it out",
        ),
        (
            "quick: {",
            "quick: {settings: {IPA_PEEK_S: [1, much]}, ",
            "18: IPA_PEEK_S='much' is not a number; corr",
        ),
        ("quick:", "settings: {IPA_PEEK_S: [1, 1.0]}\nquick:", "18: IPA_PEEK_S has 1.0 twice; leave one out"),
        ("quick:", "settings: {IPA_PEEK_S: []}\nquick:", "18: IPA_PEEK_S has no value; give one or several"),
        (
            "quick:",
            "forecasters: [authors]\nsettings: {IPA_FORECAST_QUANTILE: 0.5}\nquick:",
            "19: forecaster authors has its own IPA_FORECAST_QUANTILE; leave one of them out",
        ),
        ("runner: simulate", "runner: dream", "there is no runner 'dream'; known: simulate"),
    ],
)
def test_a_problem(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    messages = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(says in each for each in messages), messages


def test_the_experiments_of_the_repository_can_be_read() -> None:
    known = find_experiments(EXPERIMENTS)
    assert {"ipa-paper", "ipa-tight", "infadapter", "forecast", "fan-out", "scale", "what-if"} <= set(known)
    for name, path in known.items():
        for quick in (False, True):
            assert load_experiment(path, quick=quick, **FOLDERS).name == name


def test_an_unknown_experiment() -> None:
    with pytest.raises(UsageError, match="did you mean 'ipa-paper'"):
        find_experiment("ipa-papr", EXPERIMENTS)
    assert find_experiment("mine/experiment.yaml", EXPERIMENTS) == Path("mine/experiment.yaml")


@pytest.mark.parametrize("path", find_experiments(EXPERIMENTS).values(), ids=lambda path: path.parent.name)
def test_every_experiment_has_cells_that_are_kept_as_json(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPA_SHARED_DATA", str(tmp_path))
    experiment = load_experiment(path, quick=True, **FOLDERS)
    cells, notes = runner_of(experiment.runner).cells(experiment)
    assert cells or notes
    assert len({cell.digest("x") for cell in cells}) == len(cells)
    for cell in cells:
        assert json.loads(json.dumps(cell.payload)) == cell.payload


def tight() -> Experiment:
    return load_experiment(find_experiment("ipa-tight", EXPERIMENTS), quick=True, **FOLDERS)


def test_a_trace_is_read_and_scaled(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("3\n\n4.5\n0\n")
    assert rates_of(WorkloadArm("x", trace=str(path), scale=2.0), tmp_path) == [6.0, 9.0, 0.0]
    path.write_text("3\nmany\n")
    with pytest.raises(InputError, match=r"trace\.txt:2:1: requests: 'many' is not a number from 0 on"):
        rates_of(WorkloadArm("x", trace=str(path)), tmp_path)


def test_published_rates_are_left_out_where_they_are_not_there(tmp_path: Path) -> None:
    arm = WorkloadArm("x", shared="some.json", at="/a/b")
    assert rates_of(arm, tmp_path) is None
    (tmp_path / "some.json").write_text(json.dumps({"a": {"b": [1, 2]}}))
    assert rates_of(arm, tmp_path) == [1.0, 2.0]
    with pytest.raises(InputError, match="no list of rates at /a/c"):
        rates_of(replace(arm, at="/a/c"), tmp_path)


def test_what_an_arm_has_otherwise() -> None:
    arm = PipelineArm("video", "v", objective="paper-v3", accuracy_floor=0.3, cores=9.0)
    pipeline, profiles = pipeline_of(arm, **FOLDERS)
    assert pipeline.default_objective == "paper-v3"
    assert (pipeline.bounds.accuracy_floor, pipeline.bounds.cores) == (0.3, 9.0)
    assert set(profiles) == {"crop", "classification"}


def test_slas() -> None:
    pipeline, profiles = pipeline_of(PipelineArm("video", "video", objective="paper-v3"), **FOLDERS)
    assert sla_of("own", pipeline, profiles) == pipeline.objectives["paper-v3"].sla_s
    assert sla_of("800ms", pipeline, profiles) == 0.8
    fastest = fastest_s(pipeline, profiles)
    # No measured point of a stage is faster.
    least = [
        min(point.latency_s for variant in profile.variants for point in variant.points)
        for profile in profiles.values()
    ]
    assert fastest == pytest.approx(sum(least), rel=0.25)
    assert sla_of("2x", pipeline, profiles) == pytest.approx(2 * fastest, abs=1e-4)
    tight = with_sla(pipeline, 0.5)
    assert tight.objective().sla_s == tight.sla.latency_s == 0.5


def test_servers_of_which_the_measured_capacity_is_true() -> None:
    profile = pipeline_of(PipelineArm("resnets", "resnets"), **FOLDERS)[1]["classify"]
    served = as_servers(profile, 0.75)
    for before, after in zip(profile.variants[0].points, served.variants[0].points, strict=True):
        assert before.throughput_rps is not None and after.latency_mean_s is not None
        # M/M/1: a request takes longer than t with the chance exp(-(1/s - rate)·t).
        rate = 1 / after.latency_mean_s - before.throughput_rps
        assert exp(-rate * 0.75) == pytest.approx(0.01)
        assert after.throughput_rps == pytest.approx(1 / after.latency_mean_s)


def test_every_policy_has_the_same_requests() -> None:
    experiment = tight()
    made, notes = cells(experiment)
    assert notes == []
    arms = 2 * 1 * 3 * 4 * 3  # pipelines, workloads, SLAs, policies, seeds
    assert len(made) == arms
    assert len({cell.digest("x") for cell in made}) == arms
    rates = {cell.labels["policy"]: cell.series["rates_rps"] for cell in made if cell.labels["seed"] == 2}
    assert len(rates) == 4
    assert len({tuple(each) for each in rates.values()}) == 1
    assert len(next(iter(rates.values()))) == 1200


def test_a_cell_is_addressed_by_its_inputs_alone() -> None:
    experiment = replace(tight(), seeds=(1,), slas=("2x",))
    first = cells(experiment)[0][0]
    address = first.digest("1.0")
    renamed = replace(experiment, pipelines=tuple(replace(arm, name="v") for arm in experiment.pipelines))
    assert cells(renamed)[0][0].digest("1.0") == address
    loud = replace(experiment, workloads=(WorkloadArm("fluctuating", like="fluctuating", scale=1.1),))
    others = {
        first.digest("1.1"),
        cells(replace(experiment, seeds=(2,)))[0][0].digest("1.0"),
        cells(replace(experiment, spacing="even"))[0][0].digest("1.0"),
        cells(loud)[0][0].digest("1.0"),
    }
    assert len(others - {address}) == 4


def test_code_of_a_plug_in_is_part_of_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("none", "policy", {"ours": "ipa.policies.ours:Ours"})
    assert code_of(registry.find("ours")) == ""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "try_policy.py").write_text("Mine = 1\n")
    before = code_of(registry.find(registry.admit("try_policy:Mine")))
    (tmp_path / "try_policy.py").write_text("Mine = 2\n")
    assert before != code_of(registry.find("try_policy:Mine")) != ""


def test_a_start_that_no_plan_allows_is_eased() -> None:
    cell = cells(replace(tight(), slas=("0.9x",)))[0][0]
    setup = setup_of(cell.payload, cell.series)
    assert setup.start
    assert setup.pipeline.sla.latency_s == cell.labels["sla_s"]
