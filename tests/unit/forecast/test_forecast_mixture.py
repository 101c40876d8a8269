"""The weights of the rungs: by their recent losses, near the best in hindsight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.forecast.arrivals import workload_rates
from ipa.forecast.base import Forecaster, Series, answers, prepare, sliding_max
from ipa.forecast.boosted import Boosted, TreeGrowth, learn
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast
from ipa.forecast.level import Level
from ipa.forecast.mixture import (
    LAST_SHARE,
    LOSS_UNIT_RATIO,
    RATE_OF_RATES,
    RATE_WEIGHTS,
    RATES,
    judged,
    past_of,
    weights_of,
)
from ipa.forecast.quality import pinball
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.observation import Forecast, LoadHistory

HORIZON_S, QUANTILE = 20.0, 0.95
RUNGS = (Level(), WindowMaximum(), LastValue())


def drawn(rates: object, seed: int = 0) -> tuple[float, ...]:
    return tuple(map(float, np.random.default_rng(seed).poisson(np.asarray(rates))))


def sine(seconds: int) -> np.ndarray:
    return 20 + 15 * np.sin(np.arange(seconds) * 2 * np.pi / 200)


LOADS = {
    **{name: drawn(workload_rates(name, seed=1)) for name in ("bursty", "steady_high", "fluctuating")},
    "step": drawn(np.repeat([5, 30, 90, 20], 300)),
    "ramp": drawn(np.linspace(2, 60, 1200)),
    "sine": drawn(sine(1200)),
}


def test_weights_fall_with_every_loss_as_those_of_experts_do() -> None:
    """The same weights, moment by moment."""
    series = prepare(LoadHistory(1.0, LOADS["sine"][:400]))
    past = past_of(series, HORIZON_S)
    heard = [judged(rung, series, past, HORIZON_S, QUANTILE) for rung in RUNGS]
    moments = [at for at in range(len(past.counts)) if any(np.isfinite(each.uppers[at]) for each in heard)]
    scale = LOSS_UNIT_RATIO * float(past.peaks[moments].mean())
    prior = np.array([1.0, 1.0, LAST_SHARE])

    def losses(at: int) -> np.ndarray:
        each = pinball(past.peaks[at], np.array([rung.uppers[at] for rung in heard]), QUANTILE) / scale
        return np.where(np.isfinite(each), each, np.nanmin(each))

    shares, followed = np.array(RATE_WEIGHTS), []
    for number, rate in enumerate(RATES):
        weights = prior.copy()
        for place, at in enumerate(moments):
            known = moments[: max(place - past.lag, 0)]
            then = prior * np.exp(-rate * sum((losses(each) for each in known), np.zeros(3)))
            uppers = np.array([rung.uppers[at] for rung in heard])
            then = np.where(np.isfinite(uppers), then, 0.0)
            mixed = np.nansum(then * uppers) / then.sum()
            shares[number] *= np.exp(-RATE_OF_RATES * pinball(past.peaks[at], mixed, QUANTILE) / scale)
            weights *= np.exp(-rate * losses(at))
        followed.append(weights / weights.sum())
    expected = (shares / shares.sum()) @ np.array(followed)
    np.testing.assert_allclose(weights_of(heard, past, QUANTILE), expected, rtol=1e-9)


def test_nothing_to_judge_by_leaves_the_first_weights() -> None:
    series = prepare(LoadHistory(1.0, (5.0,) * 10))
    past = past_of(series, HORIZON_S)
    heard = [judged(rung, series, past, HORIZON_S, QUANTILE) for rung in (WindowMaximum(), LastValue())]
    assert weights_of(heard, past, QUANTILE) == pytest.approx(
        [1 / (1 + LAST_SHARE), LAST_SHARE / (1 + LAST_SHARE)]
    )


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_weights_do_not_depend_on_the_size_of_the_load(unit: float) -> None:
    series = prepare(LoadHistory(1.0, LOADS["sine"][:400]))
    past = past_of(series, HORIZON_S)
    heard = [judged(rung, series, past, HORIZON_S, QUANTILE) for rung in RUNGS]
    scaled = [replace(each, uppers=each.uppers * unit) for each in heard]
    of_scaled = weights_of(scaled, replace(past, peaks=past.peaks * unit), QUANTILE)
    assert of_scaled == pytest.approx(weights_of(heard, past, QUANTILE), rel=1e-9)


@pytest.mark.parametrize(("rungs", "most_ratio"), [(DEFAULT_RUNGS, 1.1), (RUNGS, 1.4)])
@pytest.mark.parametrize("name", LOADS)
def test_the_mixture_is_never_far_from_the_best_rung_in_hindsight(
    name: str, rungs: tuple[Forecaster, ...], most_ratio: float
) -> None:
    """A rung that is good until a step keeps its weight until the peaks after it are known."""
    rates = LOADS[name]
    series = prepare(LoadHistory(1.0, rates))
    ends = np.arange(130, len(rates) - 20, 30)
    peaks = sliding_max(series.rates_rps, 20)[ends]
    mixed = [
        forecast(
            LoadHistory(1.0, rates[max(0, end - 600) : end]),
            horizon_s=HORIZON_S,
            quantile=QUANTILE,
            rungs=rungs,
        ).upper_rps
        for end in ends.tolist()
    ]
    alone = [
        pinball(peaks, answers(rung, series, ends, HORIZON_S, QUANTILE)[1], QUANTILE).mean() for rung in rungs
    ]
    assert pinball(peaks, np.array(mixed), QUANTILE).mean() <= most_ratio * min(alone)


def test_a_rung_that_learns_from_the_load_sees_only_its_first_half() -> None:
    lengths: list[int] = []

    class Spy(LastValue):
        __slots__ = ()

        def fitted(self, series: Series, horizon_s: float, quantile: float) -> Spy:
            lengths.append(len(series.rates_rps))
            return Spy()

    series = Series(1.0, np.array(drawn(sine(1600))), 1.0)
    past = past_of(series, HORIZON_S)
    judgement = judged(Spy(), series, past, HORIZON_S, QUANTILE)
    assert lengths == [800]
    assert np.isnan(judgement.uppers[past.counts < 800]).all()
    assert np.isfinite(judgement.uppers[past.counts >= 800]).all()


def climbing(seed: int, length: int, period: int) -> tuple[float, ...]:
    """A load that climbs for a period and falls back: what one period teaches is wrong for another."""
    return drawn(30 + 60 * (np.arange(length) % period) / period, seed)


@pytest.fixture(scope="module")
def model() -> Boosted:
    trace = np.array(climbing(1, 14_400, 120))
    return Boosted(learn(Series(1.0, trace, 1.0), 20.0, 0.9, TreeGrowth(60, 0.1, 15, 20)))


def ask(rates: tuple[float, ...], model: Boosted) -> Forecast:
    rungs = (model, WindowMaximum(), LastValue())
    load = LoadHistory(1.0, rates[-1220:])
    return forecast(load, horizon_s=20.0, quantile=0.9, rungs=rungs, smooth_s=1.0)


def test_a_model_keeps_the_load_it_learned_loses_another_and_wins_its_own_back(model: Boosted) -> None:
    own = ask(climbing(2, 1220, 120), model)
    assert own.rung == "boosted" and dict(own.weights)["boosted"] > 0.9
    away = climbing(3, 1300, 150)
    lost = ask(away, model)
    assert lost.rung == "window" and lost.steps_down == ()
    assert ask((*away, *climbing(4, 1220, 120)), model).rung == "boosted"


def test_every_default_rung_that_answers_is_named_with_its_weight() -> None:
    load = LoadHistory(1.0, drawn(np.full(900, 20.0)))
    answer = forecast(load, horizon_s=10.0, quantile=QUANTILE)
    assert answer.weights[0][0] == answer.rung
    assert sum(weight for _, weight in answer.weights) == pytest.approx(1.0, abs=0.02)
    assert {name for name, _ in answer.weights} <= {rung.name for rung in DEFAULT_RUNGS}
