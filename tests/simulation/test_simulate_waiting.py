"""Plans that let peaks wait keep the SLA in the simulator, request by request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.forecast.arrivals import request_times
from ipa.model.observation import Forecast
from ipa.model.pipeline import Sla
from ipa.policies.ours import waiting_plan
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.simulate.graph import PipelineSim
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.stage import Pods
from tests.fakes.world import PIPELINE, PROFILES

SECONDS, EVERY_S, PEAK_S = 1200, 60, 5
LONG = replace(
    PIPELINE, sla=Sla(6.0), drop_after_s=60.0, bounds=replace(PIPELINE.bounds, cores=None, max_replicas=50)
)


def late_ratio(point_rps: float, upper_rps: float, times: float = 1.0) -> float:
    """The share of late requests where each minute has a peak, `times` as high as planned."""
    profiled = Profiled(PlannerInputs(LONG, PROFILES, solver="exact"))
    forecast = Forecast(point_rps, upper_rps, 0.95, 20.0, "given", 1.0, peak_s=float(PEAK_S))
    plan = waiting_plan(profiled.probe, LONG, forecast, (), LONG.sla.latency_s)
    assert plan is not None and plan.rate_rps < upper_rps
    sim, truth = PipelineSim(LONG, seed=1), GroundTruth(LONG, PROFILES)
    for config in plan.configs:
        pods = Pods(config.replicas, config.batch_size, truth.service(config), config.stage, config.variant)
        sim.set_replicas(config.stage, 0.0, [pods])
    rates = [upper_rps * times if second % EVERY_S < PEAK_S else 0.9 * point_rps for second in range(SECONDS)]
    sim.offer(request_times(rates, "poisson", seed=1))
    done = sim.run(SECONDS + 120.0)
    return float(np.mean(~(done.latency_s <= LONG.sla.latency_s)))


@pytest.mark.parametrize(("point_rps", "upper_rps"), [(10.0, 16.0), (4.0, 8.0), (20.0, 40.0)])
def test_peaks_that_wait_are_within_the_sla(point_rps: float, upper_rps: float) -> None:
    assert late_ratio(point_rps, upper_rps) <= 0.01


def test_peaks_three_times_as_high_are_not() -> None:
    assert late_ratio(10.0, 16.0, times=3.0) > 0.05
