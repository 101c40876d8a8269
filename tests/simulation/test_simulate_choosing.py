"""A stage whose variants stay loaded: its simulated queue beside the data plane, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.forecast.arrivals import request_times
from ipa.model.measured import with_profiles
from ipa.model.plan import StageConfig
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.world import SimWorld
from tests.fakes.chain_loop import ToyStage, overload
from tests.fakes.policy_contract import ONE_STAGE, PROFILES

SLA_S, SECONDS = ONE_STAGE.sla.latency_s, 160.0
STAGE = replace(ONE_STAGE.stages[0], resident="all", batch_timeout_s=0.005)
PIPELINE = with_profiles(replace(ONE_STAGE, stages=(STAGE,), drop_after_s=SLA_S), PROFILES)
BIG = StageConfig(STAGE.name, "big", 2, 1.0, 2)
# What the profiles say of one core.
BIG_TOY = ToyStage(STAGE.name, 0.15, 0.09, 2, 2, 0.01, {"small": 1 / 3}, {}, 8, is_profiled=True)
SMALL_TOY = replace(BIG_TOY, one_s=0.05, more_s=0.03, lighter={}, heavier={"big": 3.0})


@pytest.mark.parametrize(
    ("config", "toy", "top_rps"),
    [
        (BIG, BIG_TOY, 28.0),
        (replace(BIG, variant="small"), SMALL_TOY, 28.0),
        (BIG, BIG_TOY, 60.0),
        (replace(BIG, replicas=1), replace(BIG_TOY, replicas=1), 60.0),
    ],
)
def test_variants_serve_the_shares_that_the_data_plane_gives_them(
    config: StageConfig, toy: ToyStage, top_rps: float
) -> None:
    times_s = request_times(1 + top_rps * np.sin(np.pi * np.arange(SECONDS) / 80) ** 2, seed=1)
    load = overload([toy], 0.0, sla_s=SLA_S, seconds=SECONDS, warm_up_s=0.0, times_s=times_s.tolist())
    answered, by_other = load.served(STAGE.name, "lighter" if toy.lighter else "heavier")
    world = SimWorld(
        PIPELINE,
        GroundTruth(PIPELINE, PROFILES),
        (config,),
        times_s,
        cluster=ClusterSettings(),
        metrics=MetricsSettings(batches_window_s=SECONDS),
    )
    world.clock.wait(SECONDS)
    served = world.metrics.read(PIPELINE, 1.0).stages[STAGE.name].served
    world.finish()
    shares = {name: items_rps / sum(served.values()) for name, items_rps in served.items()}
    assert np.mean(world.done_s - times_s <= SLA_S) == pytest.approx(load.in_time / load.sent, abs=0.03)
    other = "small" if toy.lighter else "big"
    assert shares[other] == pytest.approx(by_other / answered, abs=0.03)
    assert 0.05 < shares["big"] < 0.95
    # The accuracies of the variants that answered.
    assert world.accuracy_mean() == pytest.approx(0.6 + 0.3 * shares["big"], abs=0.01)
