"""The published runs repeated: settings, replays against the logs, InfAdapter's forecasters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.reproduction import beating, infadapter
from experiments.reproduction.compare import HEADLINE, PLAIN, Compared, counts
from experiments.reproduction.forecasts import at_mean, fitted, foresight, last_maximum
from experiments.reproduction.replay import Replay, planner, started, walk
from experiments.reproduction.runs import Log, LoggedRun, Published, read_runs, workload_of
from experiments.reproduction.settings import settings_of
from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import InputError
from ipa.model.pipeline import AccuracyRule, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.optimize.problem import Compat
from ipa.profiling.points import Allocation

Loaded = tuple[Pipeline, Mapping[str, StageProfile]]
SETTINGS: dict[str, Any] = {
    "alpha": 2,
    "beta": 1,
    "gamma": 1e-6,
    "threshold": 4,
    "batching_cap": 8,
    "scaling_cap": 100,
    "normalize_accuracy": False,
    "accuracy_method": "multiply",
    "lowest_model_accuracy": 0.05,
    "profiling_load": 20,
    "latency_margin": 0,
    "throughput_margin": -50,
    "predictor_type": "lstm",
    "predictor_margin": 20,
    "baseline_mode": None,
    "initial_active_model": ["yolov5s", "resnet101"],
    "initial_replica": [3, 2],
    "initial_cpu_allocation": [1, 2],
}


@pytest.fixture(scope="module")
def video(root: Path) -> Loaded:
    return loaded(root, "video")


def loaded(root: Path, name: str) -> Loaded:
    return load_pipeline(root / "pipelines" / name / "pipeline.yaml"), load_profiles(root / "profiles", name)


def test_settings_become_a_run(video: Loaded) -> None:
    run = settings_of({**SETTINGS, "sla_s": 3.5, "drop_limit_s": 7}, *video)
    objective = run.objective
    assert (objective.alpha, objective.beta, objective.delta, objective.sla_s) == (2, 1, 1e-6, 3.5)
    assert (objective.accuracy_rule, objective.rank_floor) == (AccuracyRule.PRODUCT, 0.05)
    assert (objective.throughput_margin_ratio, objective.max_batch_size, objective.max_replicas) == (
        -0.5,
        8,
        100,
    )
    assert (run.compat, run.allocation, run.margin_ratio) == (Compat.IPA_ARTIFACT, Allocation.BASE, 0.2)
    assert (run.interval_s, run.pipeline.drop_after_s) == (10.0, 7)
    assert run.starting == (
        StageConfig("crop", "yolov5s", 1, 1.0, 3),
        StageConfig("classification", "resnet101", 1, 2.0, 2),
    )
    assert [stage.pin for stage in run.pipeline.stages] == [stage.pin for stage in video[0].stages]


def test_a_rivals_run_is_pinned(video: Loaded) -> None:
    scaled = settings_of({**SETTINGS, "baseline_mode": "scale"}, *video)
    assert [stage.pin.variant for stage in scaled.pipeline.stages] == ["yolov5s", "resnet101"]
    switched = settings_of({**SETTINGS, "baseline_mode": "switch"}, *video)
    assert [stage.pin.replicas for stage in switched.pipeline.stages] == [3, 2]


def test_an_sla_that_is_not_given_is_that_of_the_released_rule(video: Loaded) -> None:
    assert settings_of(SETTINGS, *video).objective.sla_s == pytest.approx(4.598, abs=5e-3)


def test_everything_that_is_wrong_is_said_at_once(video: Loaded) -> None:
    wrong = {
        **SETTINGS,
        "alfa": 1,
        "beta": "much",
        "gamma": -1,
        "throughput_margin": -100,
        "accuracy_method": "mean",
        "initial_active_model": ["yolov5s", "vgg"],
        "profiling_load": [20, 10],
    }
    del wrong["threshold"]
    with pytest.raises(InputError) as error:
        settings_of(wrong, *video)
    message = str(error.value)
    for words in (
        "alfa",
        "threshold must be given",
        "beta must be a number",
        "gamma must not",
        "-100",
        "'mean'",
    ):
        assert words in message
    assert "no variant 'vgg'" in message
    assert "profiling_load 10: stage 'classification' was measured at 20 rps" in message
    for name in ("initial_replica", "initial_active_model"):
        short = {**SETTINGS, "baseline_mode": "switch", name: [1]}
        with pytest.raises(InputError, match=f"{name} must have a value for each of crop, classification"):
            settings_of(short, *video)
    without = {key: value for key, value in SETTINGS.items() if not key.startswith("initial")}
    with pytest.raises(InputError, match="'scale' needs initial_active_model"):
        settings_of({**without, "baseline_mode": "scale"}, *video)
    assert settings_of(without, *video).starting == ()


def test_what_stands_in_for_the_forecaster() -> None:
    pattern = [1.0] * 10 + [5.0] * 10 + [2.0] * 15
    assert foresight(pattern) == (5.0, 5.0, 2.0, 2.0)
    assert last_maximum(pattern) == (1.0, 1.0, 5.0, 5.0)
    assert at_mean((1.0, 3.0), 4.0) == (2.0, 6.0)
    steady = fitted(np.full(400, 7.0))(np.full(200, 7.0))
    assert len(steady) == 20
    assert steady == pytest.approx([7.0] * 20)


def test_the_line_learns_what_comes_next() -> None:
    # Every ten seconds one request more, for ever: the next 20 s have two more than the last ten.
    ramp = fitted(np.repeat(np.arange(300.0), 10))
    assert ramp(np.repeat(np.arange(30.0), 10))[20] == pytest.approx(21.0)


def test_without_a_plan_what_runs_goes_on() -> None:
    plans = {1.0: (2.0, 0.5), 2.0: None, 3.0: (4.0, 0.9)}
    replayed = walk(plans.__getitem__, (1.0, 0.1), (2.0, 1.0, 2.0, 3.0))
    assert (replayed.cores, replayed.pas) == ((1 + 2 + 2 + 4) / 4, pytest.approx((0.1 + 0.5 + 0.5 + 0.9) / 4))
    assert (replayed.decisions, replayed.infeasible, replayed.rate_rps) == (4, 2, 2.0)


def compared(cores: float, *, series: str = "18", system: str = "ipa") -> Compared:
    run = LoggedRun(series, "video", "bursty", system, {}, Log(10.0, 0.5, 5.0, 100, 0))
    ways = {PLAIN: cores, (PLAIN[0], "accurate"): 10.5, HEADLINE: 9.5, (HEADLINE[0], "accurate"): 9.5}
    others = {
        (name, ties): 30.0
        for name in ("last maximum", "line", "line, rounded up", "foresight at the log's mean")
        for ties in ("cheap", "accurate")
    }
    replays = {way: Replay(each, 0.5, 5.0, 100, 0) for way, each in {**others, **ways}.items()}
    return Compared(run, 10.0, replays)


def test_runs_and_whole_cells_are_counted() -> None:
    cells = [compared(10.9), compared(11.1, system="fa2-low"), compared(10.0, series="14")]
    assert counts(cells, PLAIN) == (2, 3, 1, 2)
    assert counts(cells, (PLAIN[0], "either")) == (3, 3, 2, 2)
    assert counts([*cells, compared(20.0, system="rim-low")], PLAIN) == (2, 3, 1, 2)
    assert cells[0].reason(PLAIN) == ""
    assert "the same objective" in cells[1].reason(PLAIN)


def test_a_workload_is_told_by_its_rates() -> None:
    patterns = {"low": [5.0] * 40, "high": [10.0] * 40}
    assert workload_of(8.0, 0, patterns) == "high"
    assert workload_of(8.0, 50, patterns) == "low"


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Published:
    return read_runs(shared_data)


def test_labels_and_names_are_mended(published: Published) -> None:
    assert len(published.runs) == 104
    assert len({each.cell for each in published.runs}) == 24
    assert sum("labelled" in note for each in published.runs for note in each.notes) == 8
    cut = [each for each in published.runs if any("lacks the system" in note for note in each.notes)]
    assert [(each.cell, each.system) for each in cut] == [
        (("14", "video", "steady_high"), "fa2-high"),
        (("18", "video", "steady_high"), "fa2-high"),
    ]


@pytest.mark.parametrize("system", ["ipa", "fa2-low", "fa2-high", "rim-high"])
@pytest.mark.parametrize("name", ["video", "nlp"])
def test_a_replay_is_within_a_tenth_of_the_log(
    published: Published, root: Path, name: str, system: str
) -> None:
    """Series 18 under steady_high: nothing but settings and foresight."""
    cell = ("18", name, "steady_high")
    (run,) = (each for each in published.runs if (each.cell, each.system) == (cell, system))
    pipeline, profiles = loaded(root, name)
    setup = settings_of(run.settings, pipeline, profiles)
    rates = [rate * (1 + setup.margin_ratio) for rate in foresight(published.patterns[run.workload])]
    replayed = walk(planner(setup, profiles), started(setup, profiles), rates)
    assert replayed.cores == pytest.approx(run.log.cores, rel=0.10)
    assert replayed.pas == pytest.approx(run.log.pas, rel=0.10)


def test_the_forecaster_decides_who_is_late(shared_data: Path) -> None:
    task = infadapter.read_task(shared_data / "infadapter.json")
    runs = {name: infadapter.simulate(task, name, 0.05, sets=True, seed=1) for name in infadapter.FORECASTS}
    assert runs["foresight"].late_ratio < 1e-3
    assert 0.03 < runs["last maximum"].late_ratio < 0.07
    assert runs["EWM"].late_ratio > 0.2
    one = infadapter.simulate(task, "foresight", 0.05, sets=False, seed=1)
    assert 0.005 < runs["foresight"].accuracy - one.accuracy < 0.02
    assert json.dumps(runs["EWM"].late_ratio) == json.dumps(
        infadapter.simulate(task, "EWM", 0.05, sets=True, seed=1).late_ratio
    )


def outcome(system: str, cores: float, workload: str) -> beating.Outcome:
    return beating.Outcome("video", workload, "default", system, cores, 0.5)


def test_a_verdict_needs_every_goal_in_every_cell() -> None:
    good = [outcome(system, 10.0 if system == beating.IPA else 7.0, "a") for system in beating.SYSTEMS]
    assert all(verdict.met for verdict in beating.verdicts(good))
    bad = [outcome(system, 10.0 if system == beating.IPA else 10.5, "b") for system in beating.SYSTEMS]
    verdict = next(iter(beating.verdicts([*good, *bad])))
    assert (verdict.cells, verdict.no_more_cores, verdict.no_less_accurate) == (2, 1, 2)
    assert verdict.cores_worst_ratio == pytest.approx(1.05)
    assert not verdict.met
