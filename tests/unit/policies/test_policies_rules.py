"""The rules of autoscalers, each by figures that its own documentation gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.compass import CompassMemory, compass
from experiments.infaas import infaas, stage_slas_s
from ipa.control.engine.guards import GuardSettings
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.observation import (
    Forecast,
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.policies.autoscalers import Hpa, HpaMemory, Kpa, VpaPlus, decayed, percentile_cores, with_sample
from ipa.policies.base import Policy, PolicyState, is_stateful
from ipa.policies.planning import planning_problem
from ipa.policies.rules import RulePlanner, fit
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, profiled, scenario

# No stage but detect has anything to do; nothing is bounded but by the profiles.
WIDE = replace(PIPELINE, bounds=Bounds(cores=400.0))
EXPECTED = Forecast(1.0, 1.0, 0.95, 20.0, "given", 1.0)
UNSEEN = Missing(MissingReason.ABSENT)


def ruled() -> RulePlanner:
    return RulePlanner(WIDE, profiled())


def observed(
    rates_rps: list[float], running: tuple[StageConfig, ...], ready: int | None = None
) -> Observation:
    """The view of a rule of detect under these rates of the last seconds; read has no load."""
    stages = tuple(
        StageObservation(
            config.stage,
            Measured(config),
            Measured(config.replicas if ready is None else ready),
            Measured(rates_rps[-1] if config.stage == "detect" else 0.0),
            UNSEEN,
            Measured(0.0),
        )
        for config in running
    )
    load = Measured(LoadHistory(1.0, tuple(rates_rps)))
    return Observation("pages", 0.0, Measured(rates_rps[-1]), load, UNSEEN, stages)


def blind(running: tuple[StageConfig, ...]) -> Observation:
    """The view of a rule that sees no load."""
    seen = replace(observed([0.0], running), arrival_rate_rps=UNSEEN)
    return replace(seen, stages=tuple(replace(it, arrival_rate_rps=UNSEEN) for it in seen.stages))


def replicas(count: int) -> tuple[StageConfig, ...]:
    return (replace(SMALLEST[0], replicas=count), SMALLEST[1])


def story(
    policy: Policy,
    rate_rps: Callable[[float], float],
    until_s: int,
    *,
    start: tuple[StageConfig, ...] = SMALLEST,
    tick_s: int = 5,
    of: Callable[[StageConfig], float] = lambda config: config.replicas,
) -> dict[int, float]:
    """The configuration of detect after each tick, where every plan is carried out at once."""
    assert is_stateful(policy)
    running, memory, by_time = start, None, {}
    for t_s in range(0, until_s + 1, tick_s):
        rates = [rate_rps(second) for second in range(t_s - 119, t_s + 1)]
        observation = observed(rates, running)
        state = PolicyState(running, now_s=float(t_s))
        memory = policy.remember(observation, replace(state, memory=memory))
        running = policy.decide(observation, EXPECTED, replace(state, memory=memory)).configs
        by_time[t_s] = of(running[0])
    return by_time


@pytest.mark.parametrize(
    ("rate_rps", "count", "ready", "wanted"),
    [
        # u = 0.75 is within a tenth of 0.8, 0.95 is not: ⌈2 · 0.95 / 0.8⌉.
        (30.0, 2, 2, 2),
        (38.0, 2, 2, 3),
        # No more than all of the time can be used: a stage that is overrun grows by a quarter.
        (2000.0, 2, 2, 3),
        (2000.0, 8, 8, 10),
        # Two of the four are starting: they count as idle, so nothing is added yet.
        (2000.0, 4, 2, 4),
        (2000.0, 4, 4, 5),
    ],
)
def test_hpa_adds_replicas_by_utilisation(rate_rps: float, count: int, ready: int, wanted: int) -> None:
    running = replicas(count)
    plan = Hpa(ruled()).decide(observed([rate_rps], running, ready), EXPECTED, PolicyState(running))
    assert plan.configs[0].replicas == wanted
    assert replace(plan.configs[0], replicas=1) == SMALLEST[0]


@pytest.mark.parametrize(
    ("rate_rps", "count", "ready", "recommended"),
    [
        # Within a tenth of the target, where ⌈n·u/target⌉ is another number: u = 0.87 and u = 0.73.
        (348.0, 20, 20, 20),
        (292.0, 20, 20, 20),
        # Beyond it, either way: ⌈20 · 0.9 / 0.8⌉ and ⌈20 · 0.7 / 0.8⌉.
        (360.0, 20, 20, 23),
        (280.0, 20, 20, 18),
        # One of twenty starts and counts as idle: 0.95 is above 0.8 all the same, ⌈19 / 0.8⌉.
        (2000.0, 20, 19, 24),
        # As idle ones, those that start make up for the load: it stays as it is, and takes none of them away.
        (2000.0, 4, 2, 4),
        (300.0, 20, 10, 20),
        # With little load those that start go as well.
        (10.0, 4, 2, 1),
        (10.0, 4, 4, 1),
    ],
)
def test_hpa_recommends_what_brings_utilisation_to_its_target(
    rate_rps: float, count: int, ready: int, recommended: int
) -> None:
    running = replicas(count)
    memory = Hpa(ruled()).remember(observed([rate_rps], running, ready), PolicyState(running))
    assert memory.recommended[-1] == (0.0, (recommended, 1))


def test_hpa_acts_once_in_15_seconds_and_takes_away_by_the_most_of_300() -> None:
    replicas_at = story(Hpa(ruled()), lambda t_s: 60.0 if 100 <= t_s < 200 else 10.0, 700)
    changes = [t_s for t_s in replicas_at if t_s and replicas_at[t_s] != replicas_at[t_s - 5]]
    # From 1 to ⌈1 / 0.8⌉ and so on up to ⌈3 / 0.8⌉ = 4 replicas, each step in the next period.
    assert [(t_s, replicas_at[t_s]) for t_s in changes[:3]] == [(105, 2), (120, 3), (135, 4)]
    # The last recommendation of four is that of 195 s; the first tick of a period in which it is 300 s old:
    assert [(t_s, replicas_at[t_s]) for t_s in changes[3:]] == [(495, 1)]


def test_hpa_decides_in_the_first_tick_of_a_period_alone() -> None:
    """Another view of that tick is still due; one later in the period leaves what runs by then."""
    policy, seen = Hpa(ruled()), observed([60.0], SMALLEST)
    memory = None
    replicas_at = []
    for now_s in (0.0, 5.0, 15.0, 15.0, 20.0):
        memory = policy.remember(seen, PolicyState(SMALLEST, now_s=now_s, memory=memory))
        plan = policy.decide(seen, EXPECTED, PolicyState(SMALLEST, now_s=now_s, memory=memory))
        replicas_at.append(plan.configs[0].replicas)
    assert replicas_at == [2, 1, 2, 2, 1]


def test_hpa_takes_nothing_away_for_300_seconds_after_it_starts() -> None:
    replicas_at = story(Hpa(ruled()), lambda t_s: 10.0, 320, start=replicas(6))
    assert min(t_s for t_s in replicas_at if replicas_at[t_s] < 6) == 300


def test_hpa_leaves_a_stage_that_it_does_not_see() -> None:
    running = replicas(3)
    assert Hpa(ruled()).decide(blind(running), EXPECTED, PolicyState(running)).configs == running


@pytest.mark.parametrize("queue", [UNSEEN, Measured(float("nan")), Measured(-3.0)])
def test_a_queue_that_is_not_known_counts_as_empty(queue: Measured[float] | Missing) -> None:
    running = replicas(2)
    seen = observed([30.0], running)
    blind = replace(seen, stages=tuple(replace(it, queue_length=queue) for it in seen.stages))
    assert [load.queued for load in ruled().loads(blind, PolicyState(running))] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rate_rps", "seen_rps"), [(-0.5, None), (float("nan"), None), (0.0, 0.0), (0.5, 0.5)]
)
def test_a_rate_that_cannot_be_is_missing(rate_rps: float, seen_rps: float | None) -> None:
    (load, _) = ruled().loads(observed([rate_rps], SMALLEST), PolicyState(SMALLEST))
    assert load.rate_rps == seen_rps


UPSTREAM = yaml.safe_load((Path(__file__).parent / "upstream.yaml").read_text("utf-8"))


def upstream(kind: str) -> list[Any]:
    """The cases of that kind, named as upstream."""
    return [pytest.param(*values, id=name) for name, *values in UPSTREAM[kind]]


@pytest.mark.parametrize(("count", "ready", "total", "target", "wanted"), upstream("hpa_recommends"))
def test_hpa_recommends_as_upstream(
    count: int, ready: int, total: float | None, target: float, wanted: int
) -> None:
    running = replicas(count)
    target_ratio = min(1.0, ready * target / (total or 1.0))
    rates_rps = [20.0 * target_ratio * (total or 0.0) / target]
    seen = observed(rates_rps, running, ready) if total is not None else blind(running)
    memory = Hpa(ruled(), target_ratio).remember(seen, PolicyState(running))
    assert memory.recommended[-1][1][0] == wanted


@pytest.mark.parametrize(("before", "count", "new", "bounds", "wanted"), upstream("hpa_decides"))
def test_hpa_decides_as_upstream(
    before: list[tuple[int, float]], count: int, new: int, bounds: tuple[int, int], wanted: int
) -> None:
    running, (least, most) = replicas(count), bounds
    old = HpaMemory(985.0, True, tuple((1000.0 - age_s, (n, 1)) for n, age_s in before))
    target_ratio = min(1.0, count / max(new, 1))
    seen = observed([20.0 * target_ratio * new], running) if new else blind(running)
    bounded = replace(WIDE, bounds=Bounds(cores=400.0, min_replicas=least, max_replicas=most))
    policy = Hpa(replace(ruled(), pipeline=bounded), target_ratio)
    state = PolicyState(running, now_s=1000.0, memory=old)
    assert policy.decide(seen, EXPECTED, state).configs[0].replicas == wanted


@pytest.mark.parametrize(("target", "begins_with", "rate", "steps"), upstream("kpa"))
def test_kpa_decides_as_upstream(
    target: float, begins_with: int, rate: float, steps: list[list[float]]
) -> None:
    policy = Kpa(ruled(), target / 20.0, max_up=rate, max_down=rate)
    running = replicas(begins_with or 1)
    memory = policy.remember(
        replace(observed([0.0], running, begins_with), load=UNSEEN), PolicyState(running, now_s=-2.0)
    )
    for now_s, ready, stable, panic, wanted in steps:
        running = replicas(int(ready) or 1)
        seen = replace(observed([0.0], running, int(ready)), load=UNSEEN)
        if stable is not None:
            rates_rps = [(60 * stable - 6 * panic) / 54] * 54 + [panic] * 6
            seen = observed(rates_rps, running, int(ready))
        memory = policy.remember(seen, PolicyState(running, now_s=now_s, memory=memory))
        assert memory.stages[0].replicas == wanted


@pytest.mark.parametrize(("values", "wanted"), upstream("kpa_window"))
def test_the_mean_of_a_window_is_as_upstream(values: list[float | None], wanted: float | None) -> None:
    assert LoadHistory(1.0, tuple(values)).mean_rps(5.0) == wanted


def test_kpa_follows_the_mean_of_a_minute() -> None:
    replicas_at = story(Kpa(ruled()), lambda t_s: 21.0 if t_s < 100 else 35.0, 200)
    # 70 % of 20 rps a replica: ⌈21 / 14⌉ at once, ⌈35 / 14⌉ once the mean is above 28 rps.
    assert replicas_at[0] == 2 and replicas_at[100] == 2
    assert min(t_s for t_s in replicas_at if replicas_at[t_s] == 3) == 130
    assert replicas_at[200] == 3


def test_kpa_panics_at_twice_the_replicas_and_takes_none_away_until_a_minute_after() -> None:
    burst = story(Kpa(ruled()), lambda t_s: 140.0 if 100 <= t_s < 110 else 10.0, 300)
    # The mean of the 6 s to 100 is 31.7 rps, three replicas for one that is ready; to 105 it is 140, ten.
    assert burst[95] == 1 and burst[100] == 3 and burst[105] == 10
    # Over the threshold no more after 105; the panic ends 60 s later, when the burst has left the minute.
    assert burst[165] == 10
    # Then at most a half goes in a tick.
    assert [burst[t_s] for t_s in (170, 175, 180, 185)] == [5, 2, 1, 1]


@pytest.mark.parametrize(("burst_rps", "most"), [(42.0, 2), (43.0, 4)])
def test_kpa_does_not_panic_below_twice_the_replicas(burst_rps: float, most: int) -> None:
    """Two replicas are ready: 42 rps ask for three, 43 for four."""
    replicas_at = story(
        Kpa(ruled()), lambda t_s: burst_rps if 100 <= t_s < 110 else 20.0, 140, start=replicas(2)
    )
    assert max(replicas_at.values()) == most


def test_kpa_panics_by_a_burst_between_two_ticks() -> None:
    burst = story(Kpa(ruled()), lambda t_s: 140.0 if 91 <= t_s < 95 else 10.0, 170, tick_s=10)
    # At 96 s the mean of 6 s is 96.7 rps; at 100 it is 10 again.
    assert [burst[t_s] for t_s in (90, 100, 150, 160, 170)] == [1, 7, 7, 3, 1]


def test_the_mean_of_a_window_is_over_what_was_seen() -> None:
    load = LoadHistory(1.0, (99.0, 4.0, None, float("nan"), -0.5, 0.0, 5.0))
    assert load.mean_rps(6.0) == 3.0
    assert LoadHistory(1.0, (1.0, None, None)).mean_rps(2.0) is None


def test_the_histogram_is_that_of_the_recommender() -> None:
    # 0.01 cores wide at first, each bucket 5 % wider than the one before.
    one = with_sample((), 0.005, 1.0)
    assert one == ((0, 1.0),) and percentile_cores(one) == pytest.approx(0.01)
    second = with_sample((), 0.015, 1.0)
    assert second == ((1, 1.0),) and percentile_cores(second) == pytest.approx(0.0205)
    # Nine tenths of the weight are small samples: the next one decides.
    samples = ()
    for _ in range(89):
        samples = with_sample(samples, 0.5, 1.0)
    assert percentile_cores(with_sample(samples, 3.0, 9.0)) < 0.53
    assert percentile_cores(with_sample(samples, 3.0, 11.0)) > 3.0
    assert decayed(((3, 8.0),), 86_400.0) == ((3, 4.0),)


def cores_of(config: StageConfig) -> float:
    return config.cores


def test_vpa_takes_the_next_size_at_once_and_goes_back_after_four_intervals() -> None:
    """Profiles know 1 and 2 cores. What it uses of one core is at most one, and with 15 % above that two."""
    cores_at = story(VpaPlus(ruled()), lambda t_s: 2.0 if t_s < 100 else 60.0, 200, of=cores_of)
    assert cores_at[95] == 1.0
    first = min(t_s for t_s in cores_at if cores_at[t_s] == 2.0)
    # Of the samples so far more than a tenth must be high: 3 of 23.
    assert first == 110
    # The histogram remembers the day: it stays.
    assert cores_at[200] == 2.0


def test_vpa_takes_away_after_four_intervals_only() -> None:
    start = (replace(SMALLEST[0], cores=2.0), SMALLEST[1])
    cores_at = story(VpaPlus(ruled()), lambda t_s: 2.0, 200, start=start, of=cores_of)
    assert min(t_s for t_s in cores_at if cores_at[t_s] == 1.0) == 120


def test_vpa_uses_no_more_than_it_has() -> None:
    running = (replace(SMALLEST[0], cores=2.0), SMALLEST[1])
    memory = VpaPlus(ruled()).remember(observed([1e6], running), PolicyState(running))
    assert percentile_cores(memory.stages[0].histogram) == pytest.approx(2.0, rel=0.05)
    # A sample weighs as much as the cores of its replica.
    assert [sum(weight for _, weight in stage.histogram) for stage in memory.stages] == [2.0, 1.0]


def test_vpa_grows_as_far_as_old_and_new_have_room_together() -> None:
    running = (replace(SMALLEST[0], replicas=2), replace(SMALLEST[1], replicas=2))
    policy = VpaPlus(replace(ruled(), pipeline=replace(PIPELINE, bounds=Bounds(cores=8.0))))
    busy = replace(observed([500.0], running), stages=())
    plan = policy.decide(busy, EXPECTED, PolicyState(running))
    assert [config.cores for config in plan.configs] == [2.0, 2.0]
    near = policy.decide(busy, EXPECTED, PolicyState(running, reachable=True))
    assert [config.cores for config in near.configs] == [1.0, 2.0]
    # Too large already, and not by growth: it stays.
    policy = VpaPlus(replace(ruled(), pipeline=replace(PIPELINE, bounds=Bounds(cores=3.0))))
    plan = policy.decide(busy, EXPECTED, PolicyState(running))
    assert [config.cores for config in plan.configs] == [1.0, 1.0]


INFAAS = infaas(PolicyInputs(WIDE, PROFILES))


@pytest.mark.parametrize(
    ("rate_rps", "count", "wanted", "batch_size"),
    [
        # A replica carries 20 rps, 19 with the headroom.
        (18.0, 1, 1, 1),
        (38.0, 1, 2, 1),
        (38.1, 2, 3, 1),
        # One replica with larger batches carries 25 rps, and two cost more than 1.5 times that.
        (19.5, 1, 1, 2),
        # Fewer would do, for the first time.
        (10.0, 2, 2, 1),
    ],
)
def test_infaas_adds_replicas_at_once_with_headroom(
    rate_rps: float, count: int, wanted: int, batch_size: int
) -> None:
    running = replicas(count)
    plan = INFAAS.decide(observed([rate_rps], running), EXPECTED, PolicyState(running))
    assert plan.configs == (replace(SMALLEST[0], replicas=wanted, batch_size=batch_size), SMALLEST[1])


def test_infaas_takes_one_replica_away_after_ten_seconds_of_need_for_fewer() -> None:
    replicas_at = story(INFAAS, lambda t_s: 56.0 if t_s < 20 else 10.0, 60)
    assert [replicas_at[t_s] for t_s in (0, 15, 20, 25, 30, 35, 40, 60)] == [3, 3, 3, 3, 2, 2, 1, 1]


def test_infaas_serves_with_the_cheapest_variant_that_is_as_accurate_as_the_first_and_in_time() -> None:
    slas_s = stage_slas_s(planning_problem(WIDE, PROFILES, 1.0))
    assert sum(slas_s.values()) == pytest.approx(WIDE.sla.latency_s)
    # A batch of eight takes 0.78 s on a core: too long, so another size serves at once.
    slow = (StageConfig("detect", "big", 8, 1.0, 1), SMALLEST[1])
    state = PolicyState(slow)
    (config, _) = INFAAS.decide(observed([5.0], slow), EXPECTED, state).configs
    assert (config.variant, config.cores, config.replicas) == ("big", 1.0, 1)
    assert profiled().describe((config, SMALLEST[1]), 5.0).stages[0].latency_s <= slas_s["detect"]  # type: ignore[union-attr]
    # 8 replicas of two cores cost more than 1.5 times what others would: ten seconds later those serve.
    memory = INFAAS.remember(observed([60.0], SMALLEST), PolicyState(SMALLEST))
    large = (StageConfig("detect", "big", 1, 2.0, 8), SMALLEST[1])
    for now_s, variant in ((1.0, "big"), (6.0, "big"), (11.0, "small")):
        state = PolicyState(large, now_s=now_s, memory=memory)
        memory = INFAAS.remember(observed([60.0], large), state)
        (config, _) = INFAAS.decide(observed([60.0], large), EXPECTED, replace(state, memory=memory)).configs
        assert config.variant == variant


COMPASS = compass(PolicyInputs(WIDE, PROFILES))
RUNGS = [rung.configs for rung in COMPASS.ladder(SMALLEST)]


def with_queue(running: tuple[StageConfig, ...], waiting: float | None) -> Observation:
    """The view of a rule with that many requests in detect's queue; None: not known."""
    seen = observed([5.0], running)
    queue = UNSEEN if waiting is None else Measured(waiting)
    return replace(seen, stages=(replace(seen.stages[0], queue_length=queue), seen.stages[1]))


def test_compass_has_the_pareto_optimal_variants_of_the_same_machines() -> None:
    rungs = COMPASS.ladder(SMALLEST)
    assert len(rungs) > 2 and SMALLEST in RUNGS and COMPASS.ladder(RUNGS[-1]) is rungs
    assert {tuple((it.cores, it.replicas, it.batch_size) for it in each) for each in RUNGS} == {
        ((1.0, 1, 1),) * 2
    }
    for faster, slower in pairwise(rungs):
        assert faster.latency_s < slower.latency_s < WIDE.sla.latency_s and faster.accuracy < slower.accuracy
    slack_s, busiest_rps = rungs[0].slack_s, 1 / rungs[0].request_s
    plan = profiled().describe(RUNGS[0], busiest_rps)
    assert plan is not None and max(it.utilisation_ratio for it in plan.stages) == pytest.approx(1.0)
    # Without slack nothing but the fastest is left.
    short = replace(WIDE, sla=replace(WIDE.sla, latency_s=WIDE.sla.latency_s - slack_s - 0.01))
    assert [rung.configs for rung in compass(PolicyInputs(short, PROFILES)).ladder(SMALLEST)] == RUNGS[:1]


@pytest.mark.parametrize(
    ("at", "waiting_s", "ago_s", "wanted"),
    [
        # Above the slack of what runs: as many rungs as it takes to be within it, at most to the first.
        (1, 0.001, None, 0),
        (-1, 1e3, None, 0),
        (0, 1e3, None, 0),
        # Within it and above the slack of the slower one, or below that by less than 50 ms: it stays.
        (1, -0.001, None, 1),
        # An empty queue: the next slower one, once in five seconds; the most accurate has none.
        (0, None, None, 1),
        (0, None, 5.0, 1),
        (0, None, 4.9, 0),
        (-1, None, None, -1),
    ],
)
def test_compass_switches_by_the_depth_of_the_queue(
    at: int, waiting_s: float | None, ago_s: float | None, wanted: int
) -> None:
    rung = COMPASS.ladder(SMALLEST)[at]
    waiting = 0.0 if waiting_s is None else (rung.slack_s + waiting_s) / rung.request_s
    memory = CompassMemory(95.0, RUNGS[at], None if ago_s is None else 100.0 - ago_s)
    state = PolicyState(RUNGS[at], now_s=100.0, memory=memory)
    assert COMPASS.decide(with_queue(RUNGS[at], waiting), EXPECTED, state).configs == RUNGS[wanted]


@pytest.mark.parametrize(("below_s", "wanted"), [(0.049, 0), (0.051, 1)])
def test_compass_goes_back_50_ms_below_the_slack_of_the_slower_one(below_s: float, wanted: int) -> None:
    slower = COMPASS.ladder(SMALLEST)[1]
    seen = with_queue(RUNGS[0], (slower.slack_s - below_s) / slower.request_s)
    assert COMPASS.remember(seen, PolicyState(RUNGS[0])).configs == RUNGS[wanted]


def test_compass_stays_where_the_queue_is_not_known_and_leaves_what_is_excluded() -> None:
    assert COMPASS.remember(with_queue(RUNGS[1], None), PolicyState(RUNGS[1])).configs == RUNGS[1]
    top = RUNGS[-1][0]
    state = PolicyState(RUNGS[-1], excluded=frozenset({(top.stage, top.variant)}))
    allowed = [each for each in RUNGS if each[0].variant != top.variant]
    assert COMPASS.remember(with_queue(RUNGS[-1], 0.0), state).configs == allowed[-1]


def test_growth_that_has_no_room_is_left_out_most_first() -> None:
    tight = replace(PIPELINE, bounds=Bounds(cores=7.0))
    wanted = (replace(SMALLEST[0], replicas=9), replace(SMALLEST[1], replicas=3))
    fitted = fit(tight, wanted, PolicyState(SMALLEST))
    assert [config.replicas for config in fitted] == [4, 3]
    # What runs keeps its place before what would be added.
    running = (SMALLEST[0], replace(SMALLEST[1], replicas=5))
    fitted = fit(tight, (replace(SMALLEST[0], replicas=9), running[1]), PolicyState(running))
    assert [config.replicas for config in fitted] == [2, 5]


def test_what_cannot_be_reached_is_not_planned_where_that_is_asked() -> None:
    tight = replace(PIPELINE, bounds=Bounds(cores=5.0))
    wanted = (replace(SMALLEST[0], cores=2.0, replicas=2), SMALLEST[1])
    running = replicas(2)
    assert fit(tight, wanted, PolicyState(running)) == wanted
    assert fit(tight, wanted, PolicyState(running, reachable=True)) == running
    # Without a budget everything can be reached.
    free = replace(PIPELINE, bounds=Bounds())
    assert fit(free, wanted, PolicyState(running, reachable=True)) == wanted


@pytest.mark.parametrize("name", ["hpa", "kpa"])
def test_the_engine_carries_out_a_rule_as_it_is(name: str) -> None:
    """At 19 rps what runs carries the load; a planner would leave it, the rule asks for a second replica."""
    policy = make_policy(name, PolicyInputs(PIPELINE, PROFILES, solver="exact"))
    settings = GuardSettings(tick_s=15.0, rollout_deadline_s=30.0)
    case = scenario(19.0, policy=policy, settings=settings)
    decisions = case.ticks(5)
    changed = [it for it in decisions if it.action is Action.APPLY]
    assert changed and all(it.reason in (ReasonCode.FIRST_PLAN, ReasonCode.SCALE_UP) for it in changed)
    assert case.workload.desired[0].replicas == 2
    # Ten minutes later it has taken nothing away.
    assert {it.action for it in case.ticks(20)} == {Action.HOLD}


def test_a_variant_that_is_pinned_replaces_another_at_once() -> None:
    """The running plan is worth more by the objective, and is still none of what fa2-high may choose."""
    case = scenario(3.0, policy=make_policy("fa2-high", PolicyInputs(PIPELINE, PROFILES, solver="exact")))
    case.ticks(4)
    assert [config.variant for config in case.workload.desired] == ["big", "big"]


def test_in_shadow_mode_a_rule_goes_on_from_what_it_would_have_done() -> None:
    policy = make_policy("hpa", PolicyInputs(PIPELINE, PROFILES, solver="exact"))
    settings = GuardSettings(tick_s=15.0)
    case = scenario(38.0, policy=policy, settings=settings, mode=Mode.SHADOW)
    words = [it.detail for it in case.ticks(2)]
    assert "detect=small b1 2×1 core" in words[0] and "detect=small b1 3×1 core" in words[1]
    assert not case.workload.writes
