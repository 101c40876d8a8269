"""A load that rises in steps while replicas start: what adding to the change in flight is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.model.decision import ReasonCode
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.simulate.arrivals import steps
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import SimResult, SimSetup, simulate
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST
from tests.property.test_control_replay import GUARDS

RATES = tuple(float(rate) for rate in steps((4.0, 60), (12.0, 8), (24.0, 8), (36.0, 120)))


def run(seed: int, *, amends: bool) -> SimResult:
    setup = SimSetup(
        PIPELINE,
        PROFILES,
        RATES,
        seed=seed,
        guards=GUARDS,
        start=SMALLEST,
        readiness_s=15.0,
        metrics=MetricsSettings(),
        cluster=ClusterSettings(replace(SIDE_BY_SIDE, amends=amends)),
    )
    return simulate(setup)


def late_ratio(result: SimResult) -> float:
    return float(np.mean(~(result.latencies_s <= result.sla_s)))


@pytest.mark.parametrize("seed", [7, 8])
def test_a_change_that_is_added_to_is_in_time_for_more_requests(seed: int) -> None:
    without, added = run(seed, amends=False), run(seed, amends=True)
    assert late_ratio(added) < 0.92 * late_ratio(without)
    counts = [[one.reason for one in each.decisions].count(ReasonCode.AMENDED) for each in (without, added)]
    assert counts[0] == 0 < counts[1]
