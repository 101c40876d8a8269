"""The service's forecaster: the ladder, and what a trace teaches it while it already answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from ipa.adapters.forecasting import TraceForecaster, forecast_horizon_s, forecast_setup
from ipa.model.errors import InputError, NotFoundError
from ipa.model.observation import LoadHistory
from ipa.model.profile import StageProfile, VariantProfile
from ipa.settings import Settings
from tests.fakes.policy_contract import PIPELINE


def unlearned() -> TraceForecaster:
    return TraceForecaster(horizon_s=20.0, quantile=0.95, smooth_s=5.0)


def counts(seed: int, length: int, height_rps: float = 60.0) -> tuple[float, ...]:
    """A spike of half a minute every five minutes. Four hours are enough to learn from."""
    rates = 20 + height_rps * (np.arange(length) % 300 < 30)
    return tuple(float(count) for count in np.random.default_rng(seed).poisson(rates))


def means(seed: int, length: int) -> LoadHistory:
    """The metrics: means over five seconds."""
    rates = np.convolve(counts(seed, length + 4), np.full(5, 0.2), "valid")
    return LoadHistory(1.0, tuple(rates.tolist()), averaged_s=5.0)


@pytest.fixture(scope="module")
def forecaster() -> TraceForecaster:
    made = unlearned()
    made.learn(LoadHistory(1.0, counts(1, 14_400)))
    return made


def test_it_answers_before_it_has_learned_and_by_the_trace_after(forecaster: TraceForecaster) -> None:
    # The next spike begins in ten seconds.
    load = means(2, 1190)
    before = unlearned()(load)
    assert before.rung != "boosted"
    assert before.steps_down[0] == "boosted: still learning from the trace"
    after = forecaster(load)
    assert (after.rung, after.steps_down) == ("boosted", ())
    assert before.upper_rps < 60 < after.point_rps <= after.upper_rps < 120


def test_an_even_trace_teaches_nothing_that_the_other_rungs_do_not_know() -> None:
    made = unlearned()
    made.learn(LoadHistory(1.0, counts(4, 14_400, 0.0)))
    answer = made(means(5, 1200))
    assert "boosted" not in dict(answer.weights)
    assert "as good without it (pinball loss: " in answer.steps_down[0]


def test_a_short_load_and_coarser_means_step_down(forecaster: TraceForecaster) -> None:
    short = forecaster(means(3, 300))
    assert short.rung == "level"
    assert short.steps_down == ("boosted: 300 s of load, needs 600 s",)
    # Every rung is still there, those that need no trace too.
    shortest = forecaster(means(3, 10))
    assert [why.split(":")[0] for why in shortest.steps_down] == ["boosted", "level"]
    coarse = forecaster(replace(means(3, 1220), averaged_s=30.0))
    assert coarse.rung != "boosted"
    assert "learned for 20 s, quantile 0.95, means over 5 s every 1 s" in coarse.steps_down[0]


def test_a_trace_too_short_to_learn_from_is_said_in_every_forecast() -> None:
    idle = unlearned()
    idle.learn(LoadHistory(1.0, counts(1, 900)))
    answer = idle(means(2, 1220))
    assert "nothing learned from the trace" in answer.steps_down[0]
    assert answer.upper_rps > 20


def test_without_a_trace_it_is_the_plain_ladder() -> None:
    setup = forecast_setup(Settings(), {})
    assert setup.window_s == Settings().window_s
    assert setup.of(PIPELINE, {})(means(2, 120)).rung == "level"


@pytest.mark.parametrize(
    ("percentile", "quantile"), [(50.0, 0.5), (95.0, 0.75), (99.0, 0.95), (99.9, 0.995), (99.999, 0.999)]
)
def test_the_quantile_is_that_of_the_slo(percentile: float, quantile: float) -> None:
    pipeline = replace(PIPELINE, sla=replace(PIPELINE.sla, percentile=percentile))
    forecaster = forecast_setup(Settings(), {}).of(pipeline, {})
    assert forecaster(means(2, 300)).quantile == pytest.approx(quantile)
    # Alike pipelines share one, whose threads are few.
    assert forecast_setup(Settings(), {}).of(pipeline, {}) is not forecaster
    setup = forecast_setup(Settings(), {})
    assert setup.of(pipeline, {}) is setup.of(replace(pipeline, name="other"), {})


@pytest.mark.parametrize(("readiness_s", "horizon_s"), [(None, 20.0), (9.0, 20.0), (45.0, 55.0)])
def test_the_horizon_covers_the_slowest_start_up_and_a_tick(
    readiness_s: float | None, horizon_s: float
) -> None:
    variants = (VariantProfile("light", 0.7, ()), VariantProfile("heavy", 0.9, (), readiness_s=readiness_s))
    stage = StageProfile("p", "s", variants, "a machine", date(2026, 1, 1), "measured")
    assert forecast_horizon_s(Settings(tick_s=10.0), [stage]) == horizon_s
    setup = forecast_setup(Settings(), {"p": {"s": stage}, "other": {}})
    assert setup.of(PIPELINE, {"s": stage})(means(2, 300)).horizon_s == horizon_s
    # Not that of the slowest of all pipelines.
    assert setup.of(PIPELINE, {})(means(2, 300)).horizon_s == Settings().horizon_s


def test_the_setting_names_a_trace_and_the_window_grows(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("\n".join(f"{count:.0f}" for count in counts(1, 300)) + "\n")
    setup = forecast_setup(Settings(forecast_trace=str(path)), {}, averaged_s=30.0)
    assert setup.window_s == 600 + 600
    # It says itself that it has not learned yet, or what it learned.
    answer = setup.of(PIPELINE, {})(means(2, 1220))
    assert "boosted" in (*answer.steps_down, answer.rung)[0]


@pytest.mark.parametrize(
    ("content", "error"), [(None, NotFoundError), ("many\n", InputError), ("0\n0\n", InputError)]
)
def test_traces_that_are_none_are_said_at_start(tmp_path: Path, content: str | None, error: type) -> None:
    path = tmp_path / "trace.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match="trace"):
        forecast_setup(Settings(forecast_trace=str(path)), {})
