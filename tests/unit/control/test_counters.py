"""The load from the samples of its counters: restarts, replaced and missed series are no change of it."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.control.counters import Counted, load_of

EVERY_S = 5.0


def counted(times_s: list[float], counts: list[float]) -> Counted:
    return np.array(times_s), np.array(counts, dtype=float)


def regular(from_s: float, until_s: float, rate_rps: float, begun_at: float = 0.0) -> Counted:
    """A series of that rate whose count was `begun_at` at its first sample."""
    times_s = np.arange(from_s, until_s + 1e-9, EVERY_S)
    return times_s, begun_at + rate_rps * (times_s - from_s)


def rates(series: list[Counted], window_s: float) -> tuple[float | None, ...]:
    load = load_of(series, window_s)
    assert load is not None
    return tuple(None if rate is None else round(rate, 6) for rate in load.rates_rps)


@given(st.lists(st.integers(0, 200), min_size=2, max_size=30), st.integers(1, 15))
def test_the_rates_add_up_to_what_was_counted(came: list[int], every_s: int) -> None:
    times_s = [float(every_s * at) for at in range(len(came) + 1)]
    load = load_of([counted(times_s, list(accumulate(came, initial=1000)))], times_s[-1])
    assert load is not None and None not in load.rates_rps
    assert sum(rate or 0.0 for rate in load.rates_rps) == pytest.approx(sum(came))
    assert (load.end_s, load.averaged_s) == (times_s[-1], every_s if every_s > 1 else 0.0)


def test_a_count_that_falls_begins_at_0() -> None:
    series = counted([0.0, 5.0, 10.0, 15.0], [100.0, 150.0, 20.0, 70.0])
    assert rates([series], 15.0) == (10.0,) * 5 + (4.0,) * 5 + (10.0,) * 5


def test_before_the_first_interval_nothing_is_known() -> None:
    assert load_of([], 10.0) is None
    assert load_of([counted([100.0], [7.0])], 10.0) is None
    assert rates([regular(100.0, 105.0, 3.0)], 8.0) == (None,) * 3 + (3.0,) * 5


def test_what_replaces_a_counter_counts_from_0_after_a_gap() -> None:
    """The first was read last at 100 s, its successor first at 107 s, when it had counted for 4 s."""
    before, after = regular(0.0, 100.0, 10.0), regular(107.0, 122.0, 10.0, begun_at=40.0)
    assert rates([before, after], 30.0) == (10.0,) * 8 + (None,) * 5 + (8.0,) * 2 + (10.0,) * 15


def test_another_counter_beside_is_added_from_its_beginning() -> None:
    first, second = regular(0.0, 60.0, 10.0), regular(40.0, 60.0, 5.0, begun_at=20.0)
    assert rates([first, second], 30.0) == (10.0,) * 5 + (14.0,) * 5 + (15.0,) * 20


def test_one_that_is_seen_for_the_first_time_has_not_counted_all_since() -> None:
    """A counter that was not scraped for days is no rise of a million requests."""
    first, second = regular(0.0, 60.0, 10.0), regular(40.0, 60.0, 5.0, begun_at=1e6)
    assert rates([first, second], 30.0) == (10.0,) * 5 + (None,) * 5 + (15.0,) * 20


@pytest.mark.parametrize("behind_s", [2.0, 5.0, 8.0])
def test_one_whose_sample_is_due_or_was_missed_keeps_its_rate(behind_s: float) -> None:
    first, second = regular(0.0, 60.0, 10.0), regular(0.0, 60.0, 5.0)
    second = second[0] - behind_s, second[1]
    assert rates([first, second], 20.0) == (15.0,) * 20


def test_one_that_ended_leaves_a_gap_and_then_the_others() -> None:
    first, second = regular(0.0, 60.0, 10.0), regular(0.0, 40.0, 5.0)
    assert rates([first, second], 30.0) == (15.0,) * 10 + (None,) * 5 + (10.0,) * 15


def test_scrapes_that_were_missed_leave_the_mean_of_their_time() -> None:
    series = counted([0.0, 5.0, 10.0, 40.0, 45.0], [0.0, 50.0, 100.0, 700.0, 750.0])
    assert rates([series], 45.0) == (10.0,) * 10 + (20.0,) * 30 + (10.0,) * 5
