"""Where variants change in place, those carry a load that jumps until other replicas are ready."""

from __future__ import annotations

from dataclasses import replace

from ipa.model.observation import Forecast, LoadHistory
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, Scenario, ours, scenario, window_max

# The best plan for 9 rps.
TWO_CORES = (StageConfig("detect", "big", 1, 2.0, 1), StageConfig("read", "big", 2, 1.0, 1))
RESIDENT = replace(PIPELINE, stages=tuple(replace(stage, resident="all") for stage in PIPELINE.stages))


def sizes(made: Scenario) -> list[list[tuple[str, float, int]]]:
    """The variant, cores and replicas of each stage in every accepted change."""
    return [
        [(config.variant, config.cores, config.replicas) for config in change.configs]
        for change in made.workload.accepted
    ]


def test_a_load_that_jumps_is_met_by_lighter_variants_until_more_replicas_are_ready() -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else 25.0, configs=TWO_CORES, pipeline=RESIDENT)
    made.ticks(20)
    assert sizes(made) == [
        [("small", 2.0, 1), ("small", 1.0, 1)],
        [("big", 1.0, 3), ("big", 1.0, 2)],
    ]


def test_a_rise_that_is_only_forecast_has_its_replicas_in_time() -> None:
    def expects_more(load: LoadHistory) -> Forecast:
        return replace(window_max(load), upper_rps=25.0)

    made = scenario(9.0, configs=TWO_CORES, pipeline=RESIDENT, forecaster=expects_more)
    made.ticks(2)
    assert sizes(made) == [[("big", 1.0, 4), ("big", 1.0, 3)]]


def test_without_resident_variants_the_best_plan_comes_at_once() -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else 25.0, configs=TWO_CORES)
    made.ticks(20)
    assert sizes(made)[0] == [("big", 1.0, 3), ("big", 1.0, 2)]


def test_beyond_every_plan_the_replicas_that_run_take_lighter_variants_and_none_is_started() -> None:
    running = tuple(StageConfig(stage, "big", 1, 1.0, 6) for stage in ("detect", "read"))
    made = scenario(240.0, configs=running, pipeline=RESIDENT)
    made.ticks(1)
    assert sizes(made) == [[("small", 1.0, 6)] * 2]


def test_a_policy_that_waits_for_nothing_is_followed_as_it_decides() -> None:
    """As rules with delays of their own: it is compared with others as it is."""
    small = tuple(replace(config, variant="small", replicas=2) for config in TWO_CORES)
    made = scenario(25.0, configs=small, pipeline=RESIDENT, policy=replace(ours(), applies_each=True))
    made.ticks(3)
    assert sizes(made) == [[("big", 1.0, 3), ("big", 1.0, 2)]]
