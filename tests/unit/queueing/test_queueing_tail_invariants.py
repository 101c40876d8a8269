"""Invariants of a stage's quantile whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.queueing.tail import Sojourn, path_quantile_s, sojourn
from tests.amounts import many

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
