"""Hours of virtual time under random faults; `make soak` is the whole of it."""

from __future__ import annotations

import random

import pytest

from ipa.model.decision import ReasonCode
from tests.faults.drive import Entry, drive
from tests.faults.soak import Soak, episode, percentile, soak, table
from tests.faults.table import Case
from tests.faults.world import build


@pytest.fixture(scope="module")
def short() -> Soak:
    return soak(400, seed=3)


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
    good = soak(150, seed=3, with_faults=False)
    assert good.violations == []
    assert good.persons == 0
    assert good.faults.total() == 0
    text = table(good, good, 1.0)
    assert "violations of invariants" in text


def test_random_faults_are_of_every_target() -> None:
    source = random.Random(0)
    entries = [entry for _ in range(400) for entry in episode(source, 1.0)]
    assert {entry.target for entry in entries} >= {"kube", "prometheus", "hand", "pods", "store", "service"}


def test_faults_happen_at_their_time_and_end() -> None:
    with build(rate_rps=1.0) as world:
        world.settle()
        dark = Entry(12, "kube", "status", status=500, for_s=10)
        unseen, paused = (
            Entry(42, "prometheus", "unreachable", for_s=10),
            Entry(62, "people", "pause", for_s=10),
        )
        drive(world, [dark, unseen, paused])
        reasons = [decision.reason for decision in world.ticks(16)]
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.WORKLOAD_UNKNOWN} == {3, 4}
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.METRICS_MISSING} == {9, 10}
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.PAUSED} == {13, 14}


def test_slope_and_percentiles() -> None:
    grown = Soak(ticks=10_000, rss_mb=[(at, 100 + 0.002 * at) for at in range(0, 10_001, 500)])
    assert grown.slope_mb == pytest.approx(2.0)
    assert percentile([1, 2, 3, 4], 50) == 3
    assert percentile([], 50) == -1
