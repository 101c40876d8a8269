"""Hours of virtual time under random faults; `make soak` is the whole of it."""

from __future__ import annotations

import random

import pytest

from tests.faults.schedule import EFFECTS
from tests.faults.soak import Soak, episode, percentile, soak, table
from tests.faults.table import Case


@pytest.fixture(scope="module")
def short() -> Soak:
    return soak(500, seed=3)


def test_o8_no_invariant_is_broken_and_everything_settles_again(case: Case, short: Soak) -> None:
    case.equal("violations", len(short.violations), 0)
    case.equal("never settled", short.never, 0)
    case.told("ticks to settle, p50 / p99", [percentile(short.settled, ratio) for ratio in (50, 99)])
    assert short.overshoot_cores == 0.0
    assert short.faults.total() >= 8
    assert short.writes >= 5


def test_settling_takes_ticks_not_hours(short: Soak) -> None:
    # A quarantine of two minutes, and a rollout's deadline of one, taken twice.
    assert percentile(short.settled, 99) * 10.0 <= 120.0 + 2 * 60.0
    assert percentile(short.settled, 50) <= 6


def test_without_faults_nobody_is_needed_and_nothing_is_wrong() -> None:
    good = soak(300, seed=3, with_faults=False)
    assert good.violations == []
    assert good.persons == 0
    assert good.faults.total() == 0
    text = table(good, good, 1.0)
    assert "violations of invariants" in text


def test_every_random_fault_is_one_that_the_schedule_knows() -> None:
    source = random.Random(0)
    entries = [entry for _ in range(400) for entry in episode(source, 1.0)]
    assert {entry.target for entry in entries} >= {"kube", "prometheus", "hand", "pods", "store", "service"}
    for entry in entries:
        needs = EFFECTS[entry.target][entry.effect]
        assert all(getattr(entry, name) not in (None, "") for name in needs), entry


def test_slope_and_percentiles() -> None:
    grown = Soak(ticks=10_000, rss_mb=[(at, 100 + 0.002 * at) for at in range(0, 10_001, 500)])
    assert grown.slope_mb == pytest.approx(2.0)
    assert percentile([1, 2, 3, 4], 50) == 3
    assert percentile([], 50) == -1
