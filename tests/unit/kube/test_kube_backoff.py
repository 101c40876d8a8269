"""When the next request may go: what is asked for is kept, failures wait longer, nobody comes in a herd."""

from __future__ import annotations

import math
import threading
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.backoff import LONGEST_RETRY_AFTER_S, Backoff, Gate, Limits, Throttle, retry_after_s
from ipa.model.errors import UnavailableError
from tests.fakes.clock import SharedClock, VirtualClock

LIMITS = Limits(rate_per_s=10.0, slow_s=5.0, backoff=Backoff(1.0, 8.0))


def test_waits_double_to_the_longest_and_half_of_them_is_jitter() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.delay_s(failures, 0.0) for failures in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff.delay_s(3, 1.0) == 2.0
    assert backoff.delay_s(10_000, 1.0) == 8.0


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_clients_that_failed_together_do_not_come_back_together(failures: int, seed: int) -> None:
    random = Random(seed)
    waits = {Backoff().delay_s(failures, random.random()) for _ in range(50)}
    assert len(waits) > 40


@given(st.floats(0.0, 3600.0), st.floats(0.0, 1.0, exclude_max=True), st.floats(0.0, 1e6))
def test_what_the_server_asked_for_is_kept_and_not_by_much_exceeded(
    asked_s: float, draw: float, now_s: float
) -> None:
    gate = Gate(LIMITS).taken(now_s).pushed_back(now_s, now_s, asked_s, draw)
    wait_s = gate.wait_s(now_s)
    assert asked_s - 1e-6 <= wait_s <= asked_s + min(0.25 * asked_s, 2.0) + 1e-6


def test_a_wait_of_a_day_is_a_mistake_of_the_server() -> None:
    gate = Gate(LIMITS).pushed_back(0.0, 0.0, 86_400.0, 0.0)
    assert gate.wait_s(0.0) == LONGEST_RETRY_AFTER_S


def test_after_a_failure_one_at_a_time_tries_and_then_they_go_at_a_rate() -> None:
    gate = Gate(LIMITS).taken(0.0).pushed_back(0.0, 0.0, None, 0.5)
    assert gate.wait_s(0.0) == 0.75
    gate = gate.taken(1.0)
    assert math.isinf(gate.wait_s(1.0))
    gate = gate.answered(1.0, 1.5)
    assert gate.wait_s(1.5) == pytest.approx(0.1)
    gate = gate.taken(1.6)
    assert gate.wait_s(1.6) == pytest.approx(0.1)
    # Some time later the server is trusted again.
    assert gate.wait_s(6.5) == 0.0
    assert gate.taken(6.5).wait_s(6.5) == 0.0


def test_requests_that_were_out_together_are_one_failure() -> None:
    gate = Gate(LIMITS)
    for sent_s in (0.0, 0.1, 0.2):
        gate = gate.taken(sent_s)
    for sent_s, now_s in ((0.0, 1.0), (0.1, 1.1), (0.2, 1.2)):
        gate = gate.pushed_back(sent_s, now_s, None, 0.0)
    assert gate.failures == 1
    # An answer to what was sent before the outage does not end it.
    assert gate.answered(0.5, 1.3) == gate
    assert gate.answered(1.5, 1.6).failures == 0


def test_one_lost_connection_is_no_outage() -> None:
    gate = Gate(LIMITS).taken(0.0).lost(0.0, 1.0, 0.0)
    assert gate.wait_s(1.0) == 0.0
    gate = gate.taken(1.0)
    assert gate.answered(1.0, 1.1).taken(1.1).wait_s(1.1) == 0.0
    assert gate.lost(1.0, 2.0, 0.0).wait_s(2.0) == 0.5


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "١"}, None),
        ({"Retry-After": "9" * 400}, 999_999_999_999.0),
        (
            {"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            30.0,
        ),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 08:00:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 99 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)
def test_retry_after_in_either_form_by_the_servers_own_clock(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(headers) == wait_s


def test_who_cannot_go_before_its_deadline_fails_at_once_and_says_until_when() -> None:
    clock = VirtualClock()
    door = Throttle(clock, LIMITS, seed=0)
    door.pushed_back(door.enter("first", 10.0), 60.0)
    with pytest.raises(UnavailableError, match=r"until 00:01:\d\d UTC, for another 6\d\.\d s"):
        door.enter("second", 10.0)
    assert clock.monotonic_s() == 0.0
    assert door.enter("third", 100.0) >= 60.0


def test_threads_that_wait_out_an_outage_go_one_by_one() -> None:
    clock = SharedClock()
    door = Throttle(clock, LIMITS, seed=0)
    door.pushed_back(door.enter("first", 10.0), 30.0)
    sent: list[float] = []
    lock = threading.Lock()

    def call() -> None:
        sent_s = door.enter("another", 1e6)
        with lock:
            sent.append(sent_s)
        door.answered(sent_s)
        clock.leave()

    clock.crowd([threading.Thread(target=call) for _ in range(20)])
    assert len(sent) == 20
    sent.sort()
    assert sent[0] >= 30.0
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in pairwise(sent))
    assert sent[-1] < sent[0] + LIMITS.slow_s
