"""When the next request may go: what is asked for is kept, failures wait longer, nobody comes in a herd."""

from __future__ import annotations

import math
import threading
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.transport import (
    LONGEST_RETRY_AFTER_S,
    RATE_PER_S,
    SLOW_S,
    Backoff,
    Throttle,
    retry_after_s,
)
from ipa.model.errors import UnavailableError
from tests.fakes.clock import SharedClock, VirtualClock

GAP_S = 1.0 / RATE_PER_S


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


@pytest.fixture
def gate(clock: VirtualClock) -> Throttle:
    return Throttle(clock, seed=0)


@given(st.floats(0.0, 3600.0), st.integers(0, 2**32), st.floats(0.0, 1e6))
def test_what_the_server_asked_for_is_kept_and_not_by_much_exceeded(
    asked_s: float, seed: int, now_s: float
) -> None:
    clock = VirtualClock()
    clock.wait(now_s)
    gate = Throttle(clock, seed=seed)
    gate.pushed_back(gate.enter("one", 1.0), asked_s)
    wait_s = gate.enter("another", math.inf) - now_s
    assert asked_s - 1e-6 <= wait_s <= asked_s + min(0.25 * asked_s, 2.0) + 1e-6


def test_a_wait_of_a_day_is_a_mistake_of_the_server(gate: Throttle) -> None:
    gate.pushed_back(gate.enter("one", 1.0), 86_400.0)
    assert gate.enter("another", math.inf) <= LONGEST_RETRY_AFTER_S + 2.0


def test_after_a_failure_one_in_each_wait_tries_and_then_they_go_at_a_rate(
    gate: Throttle, clock: VirtualClock
) -> None:
    gate.pushed_back(gate.enter("one", 1.0), None)
    sent_s = gate.enter("another", 10.0)
    assert 0.25 <= sent_s <= 0.5
    with pytest.raises(UnavailableError, match="backing off from the API server"):
        gate.enter("a third", 0.0)
    gate.answered(sent_s)
    for _ in range(2):
        before_s = clock.monotonic_s()
        assert gate.enter("later ones", 10.0) - before_s == pytest.approx(GAP_S)
    # Some time later the server is trusted again.
    clock.wait(SLOW_S)
    assert gate.enter("one", 0.0) == gate.enter("another", 0.0)


def test_requests_that_were_out_together_are_one_failure(gate: Throttle, clock: VirtualClock) -> None:
    sent = []
    for _ in range(3):
        sent.append(gate.enter("one of three", 1.0))
        clock.wait(0.1)
    for sent_s in sent:
        gate.pushed_back(sent_s, None)
        clock.wait(0.1)
    assert gate.failures == 1
    # An answer to what was sent before the outage does not end it.
    gate.answered(sent[1])
    assert gate.failures == 1
    gate.answered(gate.enter("a later one", 10.0))
    assert gate.failures == 0


def test_one_lost_connection_is_no_outage(gate: Throttle) -> None:
    gate.lost(gate.enter("one", 1.0))
    gate.answered(gate.enter("another", 0.0))
    assert gate.enter("one", 0.0) == gate.enter("another", 0.0) == 0.0
    for _ in range(2):
        gate.lost(gate.enter("one", 0.0))
    assert 0.25 <= gate.enter("another", 10.0) <= 0.5


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
    door = Throttle(clock, seed=0)
    door.pushed_back(door.enter("first", 10.0), 60.0)
    with pytest.raises(UnavailableError, match=r"until 00:01:\d\d UTC, for another 6\d\.\d s"):
        door.enter("second", 10.0)
    assert clock.monotonic_s() == 0.0
    assert door.enter("third", 100.0) >= 60.0


def test_threads_that_wait_out_an_outage_go_one_by_one() -> None:
    clock = SharedClock()
    door = Throttle(clock, seed=0)
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
    assert all(later - earlier >= GAP_S - 1e-9 for earlier, later in pairwise(sent))
    assert sent[-1] < sent[0] + SLOW_S
