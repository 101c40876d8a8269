"""Hours of virtual time under random faults; `make soak` is the whole of it."""

from __future__ import annotations

import pytest

from tests.faults.soak import DEADLINE_S, TICK_S, Soak, percentile, soak, table
from tests.faults.table import Case


@pytest.fixture(scope="module")
def short() -> Soak:
    return soak(400, seed=3)


def test_o8_no_invariant_is_broken_and_everything_settles_again(case: Case, short: Soak) -> None:
    case.equal("violations", len(short.violations), 0)
    case.equal("never settled", short.never, 0)
    case.note("ticks to settle, p50 / p99", [percentile(short.settled, ratio) for ratio in (50, 99)])
    assert short.overshoot_cores == 0.0
    assert short.faults.total() >= 8
    assert short.writes >= 3
    # A quarantine of two minutes, and a rollout's deadline.
    assert percentile(short.settled, 99) * TICK_S <= 120.0 + DEADLINE_S
    assert percentile(short.settled, 50) <= 6


def test_without_faults_nobody_is_needed_and_nothing_is_wrong() -> None:
    good = soak(150, seed=3, with_faults=False)
    assert good.violations == []
    assert good.persons == 0
    assert good.faults.total() == 0
    text = table(good, good, 1.0)
    assert "violations of invariants" in text
