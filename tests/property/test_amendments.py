"""A load that rises in steps while replicas start: what adding to the change in flight is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ipa.forecast.arrivals import steps
from ipa.model.decision import ReasonCode
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import SimResult, SimSetup, simulate
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST
from tests.property.test_control_replay import GUARDS

# With room for old and new replicas beside one another.
ROOMY = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=40.0, transition_cores=80.0, max_replicas=30))
RATES = tuple(float(rate) for rate in steps((4.0, 60), (12.0, 8), (24.0, 8), (36.0, 120)))


def run(seed: int, *, amends: bool) -> SimResult:
    setup = SimSetup(
        ROOMY,
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


def test_a_change_that_is_added_to_is_in_time_for_more_requests() -> None:
    without, added = ([run(seed, amends=amends) for seed in range(1, 9)] for amends in (False, True))
    assert sum(map(late_ratio, added)) < 0.96 * sum(map(late_ratio, without))
    counts = [
        sum(it.reason is ReasonCode.AMENDED for each in runs for it in each.decisions)
        for runs in (without, added)
    ]
    assert counts[0] == 0 < counts[1]
