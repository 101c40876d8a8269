"""While time matters, the replicas that run are kept: new ones take seconds, and cores of the others."""

from __future__ import annotations

from dataclasses import replace

from ipa.model.observation import Forecast, LoadHistory
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, ours, scenario, window_max

# Within 2 % of the best plan at every rate that they carry.
TWO_CORES = (StageConfig("detect", "big", 1, 2.0, 1), StageConfig("read", "big", 1, 1.0, 1))


RESIDENT = replace(PIPELINE, stages=tuple(replace(stage, resident="all") for stage in PIPELINE.stages))


def test_a_load_that_jumps_is_met_with_more_of_the_replicas_that_run() -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else 25.0, configs=TWO_CORES, pipeline=RESIDENT)
    made.ticks(6)
    (first,) = made.workload.accepted
    assert [(config.cores, config.replicas) for config in first.configs] == [(2.0, 2), (1.0, 2)]
    # The best plan starts others, for little: it waits for as long as any.
    made.ticks(50)
    assert len(made.workload.accepted) == 1
    made.ticks(20)
    assert [(config.cores, config.replicas) for config in made.workload.desired] == [(1.0, 3), (1.0, 2)]
    assert len(made.workload.accepted) == 2


def test_a_rise_that_is_only_forecast_starts_no_other_replicas_either() -> None:
    """New ones would start just while the load rises."""

    def expects_more(load: LoadHistory) -> Forecast:
        return replace(window_max(load), upper_rps=25.0)

    made = scenario(9.0, configs=TWO_CORES, pipeline=RESIDENT, forecaster=expects_more)
    made.ticks(2)
    (first,) = made.workload.accepted
    assert [(config.cores, config.replicas) for config in first.configs] == [(2.0, 2), (1.0, 2)]


def test_without_resident_variants_the_best_plan_comes_at_once() -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else 25.0, configs=TWO_CORES)
    made.ticks(6)
    (first,) = made.workload.accepted
    assert [(config.cores, config.replicas) for config in first.configs] == [(1.0, 3), (1.0, 2)]


def test_beyond_every_plan_the_replicas_that_run_take_lighter_variants_and_none_is_started() -> None:
    """The largest plan has another replica at the first stage, and carries a little more once it is ready."""
    running = tuple(StageConfig(stage, "big", 1, 1.0, 6) for stage in ("detect", "read"))
    made = scenario(lambda t_s: 9.0 if t_s < 4 else 240.0, configs=running, pipeline=RESIDENT)
    made.ticks(3)
    (first,) = made.workload.accepted
    assert [(config.variant, config.cores, config.replicas) for config in first.configs] == [
        ("small", 1.0, 6)
    ] * 2


def test_without_need_what_can_be_had_in_place_comes_first() -> None:
    """The best plan starts a replica, for little more than what the running ones gain by a better variant."""
    small = tuple(replace(config, variant="small", replicas=2) for config in TWO_CORES)
    made = scenario(25.0, configs=small, pipeline=RESIDENT)
    made.ticks(20)
    configs = [(config.variant, config.cores, config.replicas) for config in made.workload.desired]
    assert configs == [("big", 2.0, 2), ("big", 1.0, 2)]


def test_a_policy_that_waits_for_nothing_is_followed_as_it_decides() -> None:
    """As rules with delays of their own: it is compared with others as it is."""
    small = tuple(replace(config, variant="small", replicas=2) for config in TWO_CORES)
    at_once = replace(ours(), applies_each=True)
    made = scenario(25.0, configs=small, pipeline=RESIDENT, policy=at_once)
    made.ticks(3)
    (only,) = made.workload.accepted
    assert [(config.cores, config.replicas) for config in only.configs] == [(1.0, 3), (1.0, 2)]
