"""How far a server's clock is from ours, from whole seconds in its answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.transport import Skew

START = datetime(2026, 1, 1, tzinfo=UTC)


def answers(skew: Skew, true_s: float, count: int, random: Random) -> Skew:
    """After so many answers of a server whose clock is `true_s` ahead, each after up to 0.2 s each way."""
    for number in range(count):
        sent = START + timedelta(seconds=10 * number + random.random())
        made = sent + timedelta(seconds=0.2 * random.random())
        received = made + timedelta(seconds=0.2 * random.random())
        date = (made + timedelta(seconds=true_s)).replace(microsecond=0)
        skew = skew.narrowed(date, sent, received)
    return skew


@given(st.floats(-400.0, 400.0), st.integers(0, 2**32))
def test_every_answer_bounds_it_and_many_bound_it_well(true_s: float, seed: int) -> None:
    random = Random(seed)
    once = answers(Skew(), true_s, 1, random)
    assert once.low_s <= true_s <= once.high_s
    assert once.high_s - once.low_s <= 1.4 + 1e-9
    many = answers(once, true_s, 200, random)
    assert many.low_s - 1e-6 <= true_s <= many.high_s + 1e-6
    assert many.estimate_s == pytest.approx(true_s, abs=0.3)


def test_a_clock_that_is_set_counts_from_then() -> None:
    random = Random(1)
    skew = answers(Skew(), 0.0, 50, random)
    assert answers(skew, 300.0, 1, random).estimate_s == pytest.approx(300.0, abs=0.8)


def test_before_any_answer_nothing_is_known_and_our_own_clock_set_back_says_nothing() -> None:
    assert Skew().estimate_s is None
    assert Skew().narrowed(START, START, START - timedelta(seconds=5)) == Skew()
