"""The queueing formulas against closed forms, on figures worked by hand, and whatever the numbers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from math import exp, factorial, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.errors import InputError
from ipa.queueing.service import ServiceTime, released_wait_s
from ipa.queueing.tail import Sojourn, path_quantile_s, sojourn
from tests.amounts import many

# The p99 of an exponential variable, in means.
EXPONENTIAL = log(100.0)
NEAR = 0.1


def quantile(later: Callable[[float], float], percentile: float = 99.0) -> float:
    """The time at which P(T > t) has fallen to what the percentile leaves."""
    low, high = 0.0, 1.0
    while later(high) > 1.0 - percentile / 100.0:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if later(middle) > 1.0 - percentile / 100.0 else (low, middle)
    return high


def erlang_c(servers: int, offered: float) -> float:
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1.0 - offered / servers * (1.0 - blocked))


@pytest.mark.parametrize("wrong", [{"full_s": 0.0}, {"one_s": 0.0}, {"spread": -0.1}])
def test_a_service_that_takes_no_time_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="above zero"):
        ServiceTime(**{"full_s": 0.2, "one_s": 0.1, **wrong})


@pytest.mark.parametrize("load", [0.2, 0.5, 0.7, 0.85, 0.93])
@pytest.mark.parametrize("percentile", [95.0, 99.0])
def test_m_d_1(load: float, percentile: float) -> None:
    def later(t: float) -> float:  # Erlang 1909, of waiting; its terms cancel in all but 40 digits and more
        rate = Decimal(load)
        gaps = [rate * (Decimal(i) - Decimal(t)) for i in range(int(t) + 1)]
        terms = [(-gap).exp() * gap**i / factorial(i) for i, gap in enumerate(gaps)]
        return float(1 - (1 - rate) * sum(terms))

    predicted = float(sojourn(1, 1, 1.0, 1.0, load, percentile=percentile).quantile_s)
    with localcontext(prec=80):
        assert predicted == pytest.approx(quantile(later, percentile) + 1.0, rel=NEAR)


@pytest.mark.parametrize("load", [0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
def test_m_m_1(load: float) -> None:
    stage = sojourn(1, 1, 1.0, EXPONENTIAL, load)
    assert float(stage.quantile_s) == pytest.approx(EXPONENTIAL / (1.0 - load), rel=NEAR)
    assert float(stage.mean_s) == pytest.approx(1.0 / (1.0 - load), rel=0.15)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.93])
@pytest.mark.parametrize("servers", [2, 4, 16])
def test_m_m_c(load: float, servers: int) -> None:
    delayed, gap = erlang_c(servers, load * servers), servers * (1.0 - load) - 1.0

    def later(t: float) -> float:
        share = (1.0 - exp(-gap * t)) / gap if abs(gap) > 1e-9 else t
        return exp(-t) * (1.0 + delayed * share)

    predicted = float(sojourn(1, servers, 1.0, EXPONENTIAL, load * servers).quantile_s)
    assert predicted == pytest.approx(quantile(later), rel=NEAR)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8, 0.93])
@pytest.mark.parametrize("size", [2, 8, 32])
def test_full_batches_of_exponential_service(load: float, size: int) -> None:
    """M/M^b/1: batches see a queue E_b/M/1, where waiting and service together are exponential.

    An item waits for the later of its batch being full and the replica being free; the first depends on what
    comes after it, the second on what came before, so they are independent.
    """
    rate, root = load * size, 0.0
    for _ in range(2000):
        root = (rate / (rate + 1.0 - root)) ** size
    decay = 1.0 - root
    fading = (rate / (rate + decay)) ** np.arange(size, 0, -1)
    # Service times at the middles of 400 slices of equal probability.
    services = -np.log1p(-(np.arange(400) + 0.5) / 400.0)

    def later(t: float) -> float:  # P(wait + service > t), mean over the places in the batch, the last first
        left = np.maximum(t - services, 0.0)[:, None]
        arrivals = np.arange(size)
        # P(i or more arrive in the time left), for i still to come.
        terms = np.exp(-rate * left) * np.cumprod(
            np.where(arrivals > 0, rate * left / np.maximum(arrivals, 1), 1.0), axis=1
        )
        full = 1.0 - np.concatenate([np.zeros((400, 1)), np.cumsum(terms, axis=1)[:, :-1]], axis=1)
        served = full * (1.0 - np.exp(-decay * left) * fading)
        return float(np.mean(np.where(services[:, None] > t, 1.0, 1.0 - served)))

    predicted = float(sojourn(size, 1, 1.0, EXPONENTIAL, rate).quantile_s)
    assert predicted == pytest.approx(quantile(later), rel=NEAR)


def test_an_idle_stage_takes_its_service_time() -> None:
    assert float(sojourn(1, 4, 0.2, 0.2, 1e-3).quantile_s) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0])
def test_a_batch_that_never_fills_is_sent_after_its_timeout(rate: float) -> None:
    stage = sojourn(8, 4, 0.2, 0.2, rate, timeout_s=0.5, service_one_s=0.05)
    assert 0.55 <= float(stage.quantile_s) <= 0.5 + 0.2


def test_a_stage_that_cannot_carry_the_rate_takes_for_ever() -> None:
    stage = sojourn(4, 2, 0.1, 0.12, np.array([79.0, 80.0, 90.0]))
    assert np.isinf(stage.quantile_s).tolist() == [False, True, True]
    assert np.isinf(stage.mean_s).tolist() == [False, True, True]


def test_the_quantile_rises_without_bound_towards_full_load() -> None:
    loads = np.array([0.9, 0.99, 0.999, 0.9999])
    quantiles = sojourn(4, 2, 1.0, 1.3, 8.0 * loads).quantile_s
    assert np.all(quantiles[1:] / quantiles[:-1] > 5.0)


def test_options_of_any_shape_are_answered_one_by_one() -> None:
    sizes, replicas = np.array([1.0, 4.0, 16.0])[:, None], np.array([2.0, 5.0])
    grid = sojourn(sizes, replicas, 0.05 * sizes, 0.06 * sizes, 15.0, timeout_s=0.1, items=1.5)
    assert grid.quantile_s.shape == (3, 2)
    alone = sojourn(16, 5, 0.8, 0.96, 15.0, timeout_s=0.1, items=1.5)
    assert float(alone.quantile_s) == pytest.approx(grid.quantile_s[2, 1], rel=1e-12)


def test_a_path_adds_means_and_squares_of_excesses() -> None:
    assert float(path_quantile_s([0.1, 0.2], [0.03, 0.04])) == pytest.approx(0.35)
    stage = sojourn(np.array([1, 8]), 2, 0.1, 0.13, 12.0)
    assert path_quantile_s(stage.mean_s[:, None], stage.excess_s[:, None]) == pytest.approx(stage.quantile_s)


# The last bits of some sixty operations.
ROUNDING = 1e-9

spans = st.floats(0.0, 1e4) | st.just(float("inf"))


@st.composite
def stages(draw: st.DrawFn, most_load: float = 0.9999) -> dict[str, Any]:
    b, n = 2 ** draw(st.integers(0, 8)), draw(st.integers(1, 200))
    full_s = draw(st.floats(1e-3, 1e2))
    return {
        "batch_size": b,
        "replicas": n,
        "service_mean_s": full_s,
        "service_tail_s": full_s * draw(st.floats(1.0, 10.0)),
        "rate_rps": draw(st.floats(1e-3, most_load)) * b * n / full_s,
        "items": draw(st.floats(0.1, 50.0) | st.integers(1, 50)),
        "timeout_s": draw(spans) * full_s,
        "percentile": draw(st.sampled_from([90.0, 95.0, 99.0, 99.9])),
        "service_one_s": full_s * draw(st.floats(1e-3, 1.0)),
    }


def of(stage: dict[str, Any], **changed: Any) -> Sojourn:
    return sojourn(**(stage | changed))


def is_no_less(one: Sojourn, other: Sojourn) -> bool:
    return bool(
        one.quantile_s >= other.quantile_s * (1.0 - ROUNDING)
        and one.mean_s >= other.mean_s * (1.0 - ROUNDING)
    )


@settings(deadline=None, max_examples=many(100))
@given(stages())
def test_below_full_load_all_is_finite_and_the_excess_not_negative(stage: dict[str, Any]) -> None:
    made = of(stage)
    assert np.isfinite(made.quantile_s)
    assert made.excess_s >= 0.0
    assert made.mean_s >= min(stage["service_one_s"], stage["service_mean_s"]) * (1.0 - ROUNDING)


@settings(deadline=None)
@given(stages(), st.floats(1.0, 10.0))
def test_from_full_load_on_all_is_infinite(stage: dict[str, Any], load: float) -> None:
    full = stage["batch_size"] * stage["replicas"] / stage["service_mean_s"]
    made = of(stage, rate_rps=full * load * (1.0 + ROUNDING))
    assert np.isinf(made.mean_s)
    assert np.isinf(made.excess_s)


@settings(deadline=None, max_examples=many(150))
@given(stages(), st.integers(1, 20))
def test_more_replicas_never_raise_it(stage: dict[str, Any], more: int) -> None:
    assert is_no_less(of(stage), of(stage, replicas=stage["replicas"] + more))


@settings(deadline=None, max_examples=many(150))
@given(stages(), st.floats(1.0, 3.0))
def test_slower_service_never_lowers_it(stage: dict[str, Any], factor: float) -> None:
    names = ("service_mean_s", "service_tail_s", "service_one_s")
    slower = {name: stage[name] * factor for name in names}
    assert is_no_less(of(stage, **slower), of(stage))


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 10.0)), min_size=1, max_size=6))
def test_a_path_takes_no_longer_than_the_sum_of_its_stages_quantiles(
    parts: list[tuple[float, float]],
) -> None:
    means, excesses = zip(*parts, strict=True)
    assert path_quantile_s(means, excesses) <= sum(means) + sum(excesses) + ROUNDING


def test_the_released_term_is_negative_and_zero_with_one_batch_size() -> None:
    assert released_wait_s(5, 3, 20.0) == pytest.approx(-0.5)
    assert released_wait_s(5, 1, 20.0) == 0.0
