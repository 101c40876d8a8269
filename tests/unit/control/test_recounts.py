"""The load while what counts it is replaced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.loop.recounts import Recounts
from ipa.model.observation import LoadHistory, Measured
from tests.unit.control.test_feedback import observed

# Means over 30 s, scraped every 5 s: the last five seconds had 25 rps, those before 8.
STEADY, RISEN_RPS = (7.9,) * 36, 25.0
MEANS = (*STEADY, *(8.0 for _ in range(5)), 8.0 + (RISEN_RPS - 8.0) * 5 / 30)


@pytest.mark.parametrize("lasts", [True, False])
def test_a_rise_that_was_seen_before_is_known_until_the_successor_is_read(lasts: bool) -> None:
    recounts = Recounts()
    load = LoadHistory(1.0, MEANS, averaged_s=30.0, end_s=1000.0)
    before = replace(observed(1.0), load=Measured(load), arrival_rate_rps=Measured(MEANS[-1]))
    recounts.see("a", 1000.0)
    assert recounts.bridged(before, 1000.0).load == before.load
    recounts.see("b", 1005.0)
    ends_s = 1010.0 if lasts else 1060.0
    low = replace(load, rates_rps=(*MEANS, *(3.0 for _ in range(int(ends_s) - 1000))), end_s=ends_s)
    after = recounts.bridged(replace(before, load=Measured(low), arrival_rate_rps=Measured(3.0)), ends_s)
    assert isinstance(after.load, Measured) and isinstance(after.arrival_rate_rps, Measured)
    # Once its window is full, the mean that was read then fills the gap.
    filled_rps = RISEN_RPS if lasts else MEANS[-1]
    assert after.load.value.rates_rps[len(MEANS)] == pytest.approx(filled_rps, rel=0.05)
    assert after.arrival_rate_rps.value == pytest.approx(filled_rps if lasts else 3.0, rel=0.05)
    assert bool(after.bridged_s) is lasts
