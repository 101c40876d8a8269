"""The scorecard's draws, predictions and errors; its measurements with a sender's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.scorecard.draws import LEAST_LOAD, MOST_LOAD, draws
from experiments.scorecard.figures import KINDS, Figures, Row, Score, errors, score, scores, worse
from experiments.scorecard.measure import PROGRAMME, sent_of
from experiments.scorecard.page import draw_figure, matrix, table
from experiments.scorecard.predict import Predictions
from experiments.scorecard.releases import record, recorded, worse_than_last
from ipa.files import load_pipeline, load_profiles
from ipa.model.profile import Slowdown
from ipa.targets.local.target import LOCAL

PIPELINE = load_pipeline(Path("pipelines/digits/pipeline.yaml"))
PROFILES = load_profiles(Path("profiles"), "digits")
MOST_RPS = 400.0
LATENCY = next(kind for kind in KINDS if kind.name == "mean latency")
ACCURACY = next(kind for kind in KINDS if kind.name == "accuracy")


def row(place: str = "here", **figures: float) -> Row:
    """A row predicted to take 0.1 s at accuracy 0.9, and measured as told."""
    predicted = Figures(mean_s=0.1, accuracy=0.9)
    believed = replace(predicted, mean_s=0.2)
    return Row("p", place, 1.0, "", 99.0, 10, 0, predicted, believed, Figures(**figures))


def test_draws_are_different_plans_for_loads_within_bounds() -> None:
    made = draws(PIPELINE, PROFILES, MOST_RPS, 12, seed=1)
    assert len({draw.configs for draw in made}) == 12
    assert all(LEAST_LOAD * MOST_RPS <= draw.rate_rps <= MOST_LOAD * MOST_RPS for draw in made)
    assert made == draws(PIPELINE, PROFILES, MOST_RPS, 12, seed=1)
    assert made != draws(PIPELINE, PROFILES, MOST_RPS, 12, seed=2)


def test_too_few_plans_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert draws(PIPELINE, PROFILES, 1e7, 3, seed=1) == []
    assert capsys.readouterr().err == "digits has only 0 different plans, 3 are wanted\n"


def test_slowdowns_change_what_is_predicted() -> None:
    (draw,) = draws(PIPELINE, PROFILES, 100.0, 1, seed=3)
    made = Predictions(PIPELINE, PROFILES, LOCAL)
    slow = tuple(Slowdown(config.stage, config.variant, 1.5) for config in draw.configs)
    profiled, believed = (made.of(draw.configs, draw.configs, draw.rate_rps, 95.0, it) for it in ((), slow))
    assert profiled.capacity_rps == pytest.approx(1.5 * (believed.capacity_rps or 0))
    for name in ("mean_s", "p50_s", "tail_s", "simulated_tail_s", "busy_ratio"):
        assert getattr(profiled, name) < getattr(believed, name)
    assert profiled.change_s is None


def test_errors_are_shares_or_differences() -> None:
    rows = [row(mean_s=0.08, accuracy=0.95), row(mean_s=0.125), row(accuracy=0.7)]
    assert errors(rows, LATENCY, "profiled") == pytest.approx([0.25, -0.2])
    assert errors(rows, ACCURACY, "profiled") == pytest.approx([-0.05, 0.2])
    assert errors(rows, LATENCY, "believed") == pytest.approx([1.5, 0.6])
    found = score(errors(rows, LATENCY, "profiled"))
    assert found is not None
    assert (found.count, found.error, found.bias) == (2, pytest.approx(0.225), pytest.approx(0.025))
    assert score([]) is None


def test_worse_names_place_and_kind() -> None:
    last = {"here": {"capacity": Score(9, 0.1, 0.0, -0.1, 0.1), "accuracy": Score(9, 0.02, 0.0, 0.0, 0.0)}}
    now = {"here": {"capacity": Score(9, 0.13, 0.0, -0.1, 0.1)}}
    assert worse(last, last, 0.1) == []
    assert worse(last, now, 0.4) == ["here: accuracy is not scored any more"]
    assert worse(last, now, 0.1)[0] == "here: capacity is off by 0.130, was 0.100"


def test_a_release_is_refused_that_predicts_worse_than_the_last(tmp_path: Path) -> None:
    def scored(error: float) -> dict[str, dict[str, Score]]:
        return {"here": {"capacity": Score(9, error, 0.0, -0.1, 0.1)}}

    path = tmp_path / "releases.json"
    assert record("1.0", "a", "all", scored(0.1), path) == []
    assert record("1.1", "a", "all", scored(0.2), path)[0].startswith("here: capacity is off by 0.200")
    assert [each["version"] for each in recorded(path)] == ["1.0"]
    # Of another machine, or of another run, it is no comparison; the same release may be measured again.
    assert record("1.1", "b", "all", scored(0.2), path) == record("1.1", "a", "text", scored(0.2), path) == []
    assert record("1.0", "a", "all", scored(0.3), path) == []
    assert worse_than_last(recorded()) == []


def test_a_page_has_a_line_for_each_place_and_kind(tmp_path: Path) -> None:
    rows = [row("here", mean_s=0.08, accuracy=0.95), row("there", mean_s=0.125)]
    page = table(rows, "profiled")
    assert "| here | mean latency | 1 | 25.0 % | +25.0 % | +25.0 % | +25.0 % | ≤ 10.0 % |" in page
    assert "| here | accuracy | 1 | 0.050 | -0.050 | -0.050 | -0.050 | ≤ 0.030 |" in page
    assert page.count("| there |") == 1
    assert scores(rows, "believed")["there"]["mean latency"].bias == pytest.approx(0.6)
    assert "| here | 25%, +25% | 0.050, -0.050 |" in matrix(rows, "profiled")
    draw_figure(rows, "profiled", tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 10_000


def test_latencies_are_of_the_measured_time_and_the_capacity_of_the_overload(tmp_path: Path) -> None:
    ends_s = PROGRAMME.learning_s + PROGRAMME.measured_s
    sent = [(PROGRAMME.learning_s - 1.0, 9.0), (PROGRAMME.learning_s + 1.0, 0.1), (ends_s - 1.0, 0.3)]
    sent += [(ends_s + 2.0 + number / 10, 0.05) for number in range(29)]
    answered = {"outcome": "answered", "page": 0, "answer": {"outputs": [{"data": [3]}]}}
    requests = [answered | {"at_s": at_s, "latency_s": took_s} for at_s, took_s in sent]
    requests.append({"at_s": ends_s - 2.0, "latency_s": 1.0, "outcome": "dropped", "page": 1, "answer": None})
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    seen = sent_of("digits", PROGRAMME, tmp_path / "requests.jsonl")
    assert sorted(seen.latencies_s) == [0.1, 0.3]
    assert (seen.lost, seen.capacity_rps) == (1, pytest.approx(29 / (PROGRAMME.overload_s - 1)))
    assert seen.figures(50.0, None, 2.0).tail_s == pytest.approx(0.2)
    assert (PROGRAMME.percentile(5.0), PROGRAMME.percentile(60.0)) == (95.0, 99.0)
