"""Sets of variants in the simulated world: requests by share, create before remove, roll back as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.control.ports import RolloutPhase
from ipa.model.decision import ReasonCode
from ipa.model.parts import NO_OVERHEAD, Overhead, in_order, is_shared, with_share
from ipa.model.pipeline import Bounds, Pipeline
from ipa.model.plan import StageConfig
from ipa.simulate.cluster import KUBERNETES, ClusterSettings, SimCluster
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import ForecastSettings, SimResult, SimSetup, simulate
from ipa.simulate.world import SimWorld
from tests.fakes.images import IMAGES, PROFILES

HIGH = StageConfig("classify", "high", 1, 8.0, 1)
LOW = StageConfig("classify", "low", 1, 2.0, 1)
BOTH = in_order([with_share((HIGH,), 70), with_share((LOW,), 30)])
# Pods of these are ready after six seconds.
WIDE = replace(IMAGES, bounds=replace(IMAGES.bounds, transition_cores=24.0))


def world(configs: Sequence[StageConfig], rate_rps: float, seconds: int, **settings: object) -> SimWorld:
    return SimWorld(
        WIDE,
        GroundTruth(WIDE, PROFILES),
        configs,
        np.arange(0, seconds, 1 / rate_rps),
        cluster=ClusterSettings(**settings),  # type: ignore[arg-type]
        metrics=MetricsSettings(),
    )


def test_each_part_is_sent_its_percent_of_the_requests_and_answers_with_its_accuracy() -> None:
    made = world(BOTH, 20.0, 200)
    made.advance(200.0)
    made.finish()
    lanes = {next(iter(lane.serving.values()))[0][1].variant: lane for lane in made._lanes.values()}
    sent = {name: lane.sim.stage("classify").items_before(1000) for name, lane in lanes.items()}
    assert sum(sent.values()) == 4000 and not np.isnan(made.done_s).any()
    # Three standard deviations of 4 000 draws.
    assert sent["high"] / 4000 == pytest.approx(0.7, abs=3 * (0.7 * 0.3 / 4000) ** 0.5)
    mean = (0.8 * sent["high"] + 0.7 * sent["low"]) / 4000
    assert made.accuracy_mean() == pytest.approx(mean) and made.pas_mean(200.0) == pytest.approx(0.77)
    assert made.cluster.resource_seconds(200.0).cpu_cores == pytest.approx(200 * 10.0)


def test_requests_go_where_they_went_until_all_of_the_new_set_serves() -> None:
    made = world((LOW,), 10.0, 60)
    made.advance(10.0)
    made.workload.write(WIDE, _change(made, BOTH))
    assert made.cluster.shares() == {1: 100, 2: 0} and made.cluster.cores == 10.0
    made.advance(15.9)
    assert made.cluster.shares() == {1: 100, 2: 0}
    made.advance(16.1)
    assert made.cluster.shares() == {1: 30, 2: 70} and made.cluster.settled
    made.workload.write(WIDE, _change(made, (HIGH,)))
    made.advance(20.0)
    # What waited at the part that went was served by it.
    assert made.cluster.shares() == {2: 100} and made.cluster.cores == 8.0
    made.advance(60.0)
    made.finish()
    assert not np.isnan(made.done_s).any()


def _change(made: SimWorld, configs: Sequence[StageConfig]):  # type: ignore[no-untyped-def]
    from ipa.model.decision import Change

    state = made.workload.read(WIDE)
    previous = tuple(stage.config for stage in state.stages)
    return Change("d", WIDE.name, state.revision, previous, tuple(configs), 60.0)


def cluster(
    configs: Sequence[StageConfig], overhead: Overhead = NO_OVERHEAD, **settings: object
) -> SimCluster:
    return SimCluster(
        configs,
        ClusterSettings(**settings),  # type: ignore[arg-type]
        startup_s=lambda config: 6.0,
        bounds=Bounds(overhead=overhead),
    )


def test_predictors_are_sent_their_share_at_once_and_each_has_its_orchestrator() -> None:
    pods = cluster((LOW,), Overhead(0.5), rolling=KUBERNETES.rolling)
    assert pods.cores == 2.5
    pods.change(BOTH, "1", 0.0)
    assert pods.shares() == {1: 30, 2: 70} and pods.cores == 11.0
    pods.advance(6.0)
    assert pods.settled and [state.ready_replicas for state in pods.states()] == [1, 1]
    assert tuple(it.config for it in pods.states()) == BOTH
    pods.change((HIGH,), "2", 7.0)
    pods.drained("classify", "low 2.0", 8.0, 1)
    pods.advance(8.0)
    assert pods.shares() == {2: 100} and pods.cores == 8.5


def test_a_part_that_is_to_come_back_takes_its_slot_again() -> None:
    pods = cluster(BOTH)
    other = (replace(HIGH, cores=4.0),)
    pods.change(other, "1", 0.0)
    # Until the other size serves, both go on with their shares.
    assert pods.shares() == {1: 70, 2: 30} and pods.rollout(1.0).phase is RolloutPhase.PROGRESSING
    pods.change(BOTH, "2", 1.0)
    assert pods.shares() == {1: 70, 2: 30} and pods.settled and pods.cores == 10.0


def run(pipeline: Pipeline = WIDE, *, rates_rps: Sequence[float], **more: object) -> SimResult:
    setup = SimSetup(
        pipeline,
        PROFILES,
        tuple(rates_rps),
        policy="infadapter",
        start=(HIGH,),
        forecast=ForecastSettings("foresight"),
        guards=GuardSettings(tick_s=10.0),
        seed=3,
    )
    return simulate(replace(setup, **more))  # type: ignore[arg-type]


RISE = [20.0] * 120 + [36.0] * 180


@pytest.mark.parametrize("target", [ClusterSettings(), KUBERNETES])
def test_a_load_that_rises_brings_a_second_variant_and_loses_no_request(target: ClusterSettings) -> None:
    result = run(rates_rps=RISE, cluster=target)
    applied = [it for it in result.decisions if it.reason.value.startswith("apply.")]
    last = result.decisions[-1].configs
    assert {config.variant for config in last} == {"high", "low"}
    shares = {config.variant: config.share_percent for config in last}
    # high carries 32 rps of what is planned for, which is a tenth more than 36 at the least.
    assert shares["high"] * 36 * 1.1 / 100 <= 32.0 and sum(shares.values()) == 100
    assert not np.isnan(result.done_s).any()
    sets = [it.configs for it in applied if is_shared(it.configs)]
    if target is KUBERNETES:
        # A predictor first runs without requests, then has its share.
        assert [config.share_percent for config in sets[0]] == [100, 0] and sets[1] == last
    else:
        assert sets[0] == last


def test_a_part_that_does_not_start_takes_the_whole_set_back() -> None:
    broken = ClusterSettings(broken=frozenset({("classify", "low")}), gives_up_after_s=15.0)
    result = run(rates_rps=RISE, cluster=broken)
    reasons = [it.reason for it in result.decisions]
    first = reasons.index(ReasonCode.ROLLBACK)
    assert is_shared(result.decisions[first].previous) and not is_shared(result.decisions[first].configs)
    # It was never sent a request, and is left alone after that.
    assert not np.isnan(result.done_s).any()
    after = [it for it in result.decisions[first:] if it.reason is not ReasonCode.ROLLBACK]
    assert all({config.variant for config in it.configs} == {"high"} for it in after)


def test_equal_seeds_are_equal_runs() -> None:
    one, two = (run(rates_rps=RISE) for _ in range(2))
    assert np.array_equal(one.done_s, two.done_s) and one.summary() == two.summary()
