"""Pods that start, roll, wait for room and cost; what is scraped of a simulated pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.errors import ConflictError, InputError, NotFoundError
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason
from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.pipeline import Bounds, MeasuredVariant, Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.model.rolling import DEPLOYMENT, PROCESSES, SIDE_BY_SIDE, Rolling, stage_peak
from ipa.profiling.points import under_load
from ipa.queueing.tail import sojourn
from ipa.simulate.cluster import ClusterSettings, SimCluster
from ipa.simulate.columns import Items
from ipa.simulate.ground_truth import READINESS_S, GroundTruth
from ipa.simulate.metrics import MetricsSettings, SimMetrics
from ipa.simulate.run import Foresight
from ipa.simulate.stage import StageSim
from tests.fakes.world import PIPELINE as PAGES
from tests.fakes.world import PROFILES

SMALL = StageConfig("detect", "small", 4, 1.0, 4)
BIG = StageConfig("detect", "big", 4, 2.0, 4)
STARTUP_S, DRAIN_S = 8.0, 1.0
SWITCHING = ClusterSettings(Rolling(switches=("detect",)))


def with_accuracies(**accuracies: float) -> Bounds:
    measured = {("detect", name): MeasuredVariant(accuracy) for name, accuracy in accuracies.items()}
    return Bounds(measured=measured)


def cluster(*configs: StageConfig, overhead: Overhead = NO_OVERHEAD, **settings: object) -> SimCluster:
    return SimCluster(
        configs or (SMALL,),
        ClusterSettings(**settings),  # type: ignore[arg-type]
        startup_s=lambda config: STARTUP_S,
        bounds=Bounds(overhead=overhead),
    )


def replicas(config: StageConfig, count: int) -> StageConfig:
    return StageConfig(config.stage, config.variant, config.batch_size, config.cores, count)


def serving(pods: SimCluster, stage: str = "detect") -> list[StageConfig]:
    return [config for _, config in pods.serving(stage)]


def ready(pods: SimCluster, stage: str = "detect") -> int:
    return sum(config.replicas for config in serving(pods, stage))


def settle_drains(pods: SimCluster, at_s: float, drain_s: float = DRAIN_S) -> None:
    """All that were told to stop are gone `drain_s` later."""
    for stage, template in pods.draining():
        pods.drained(stage, template, at_s + drain_s)


def played(pods: SimCluster, until_s: float) -> list[tuple[float, int, float]]:
    """(time, ready pods, cores held) after each event until then."""
    steps = []
    while pods.next_event_s() <= until_s:
        at_s = pods.next_event_s()
        pods.advance(at_s)
        settle_drains(pods, at_s)
        steps.append((at_s, ready(pods), pods.cores))
    return steps


def change(pods: SimCluster, *configs: StageConfig, at_s: float = 0.0) -> None:
    pods.change(configs, str(pods.revision), at_s)
    settle_drains(pods, at_s)


def test_first_pods_serve_at_once_and_are_paid_from_the_beginning() -> None:
    pods = cluster()
    assert serving(pods) == [SMALL]
    assert pods.settled
    assert pods.resource_seconds(10.0).cpu_cores == 40.0


def test_side_by_side_has_all_old_and_all_new_until_the_new_are_ready() -> None:
    pods = cluster()
    change(pods, BIG)
    assert pods.cores == stage_peak(SMALL, BIG, SIDE_BY_SIDE, Bounds()).cpu_cores == 12.0
    assert serving(pods) == [SMALL]
    assert not pods.settled
    assert pods.rollout(1.0).phase is RolloutPhase.PROGRESSING
    assert played(pods, 100.0) == [(STARTUP_S, 4, 12.0), (STARTUP_S + DRAIN_S, 4, 8.0)]
    assert serving(pods) == [BIG]
    assert pods.rollout(100.0).phase is RolloutPhase.READY
    # Old and new are paid while they overlap, the old ones until they have drained.
    assert pods.resource_seconds(20.0).cpu_cores == 8.0 * 20 + 4.0 * (STARTUP_S + DRAIN_S)


def test_a_deployment_never_serves_with_fewer_than_wanted_and_keeps_to_its_surge() -> None:
    pods = cluster(rolling=DEPLOYMENT, rebatch_restarts=True)
    change(pods, BIG)
    steps = [(0.0, 4, pods.cores), *played(pods, 1000.0)]
    assert min(count for _, count, _ in steps) >= 4
    # A drained pod is out of the count while it ends, so for a second there may be one more.
    peak_cores = stage_peak(SMALL, BIG, DEPLOYMENT, Bounds()).cpu_cores
    assert max(cores for _, _, cores in steps) <= peak_cores + SMALL.cores
    assert serving(pods) == [BIG]
    # One at a time: four start-ups, one after the other.
    assert steps[-1][0] == pytest.approx(4 * STARTUP_S + DRAIN_S)


def test_a_deployment_that_is_changed_and_made_smaller_takes_old_pods_away_at_once() -> None:
    pods = cluster(rolling=DEPLOYMENT, rebatch_restarts=True)
    change(pods, replicas(BIG, 2))
    assert ready(pods) == 2


@pytest.mark.parametrize("rolling", [SIDE_BY_SIDE, DEPLOYMENT])
def test_more_and_fewer_of_the_same_restart_nothing(rolling: object) -> None:
    pods = cluster(rolling=rolling)
    change(pods, replicas(SMALL, 6))
    assert (pods.cores, ready(pods)) == (6.0, 4)
    pods.advance(STARTUP_S)
    assert serving(pods) == [replicas(SMALL, 6)]
    change(pods, replicas(SMALL, 1), at_s=20.0)
    assert serving(pods) == [replicas(SMALL, 1)]
    assert played(pods, 30.0)[-1] == (20.0 + DRAIN_S, 1, 1.0)


@pytest.mark.parametrize("count", [1, 4])
def test_another_batch_size_is_told_to_the_queue_or_restarts_the_pods(count: int) -> None:
    running, rebatched = (StageConfig("detect", "small", size, 1.0, count) for size in (4, 8))
    in_place, restarted = cluster(running), cluster(running, rebatch_restarts=True)
    change(in_place, rebatched)
    change(restarted, rebatched)
    assert in_place.settled and not restarted.settled
    assert serving(in_place) == [rebatched]
    assert serving(restarted) == [running]


def test_old_pods_keep_their_batch_size_until_a_new_one_serves() -> None:
    pods = cluster()
    change(pods, StageConfig("detect", "big", 8, 2.0, 4))
    assert [config.batch_size for config in serving(pods)] == [4]
    pods.advance(STARTUP_S)
    assert [config.batch_size for config in serving(pods)] == [8]


def test_resident_variants_switch_at_once_with_no_core_more() -> None:
    heavy = replace(SMALL, variant="big")
    pods = SimCluster(
        (heavy,), SWITCHING, startup_s=lambda config: STARTUP_S, bounds=with_accuracies(small=0.6, big=0.9)
    )
    # Fewer of the lighter variant: the switch comes before old pods stop.
    few = replace(SMALL, replicas=2, batch_size=8)
    change(pods, few, at_s=1.0)
    assert serving(pods) == [few]
    assert played(pods, 100.0) == [(1.0 + DRAIN_S, 2, 2.0)]
    assert pods.settled
    change(pods, replace(heavy, replicas=2), at_s=3.0)
    assert (serving(pods), pods.cores, pods.settled) == ([replace(heavy, replicas=2)], 2.0, True)


def test_a_heavier_variant_waits_for_all_its_pods_and_a_lighter_one_for_none() -> None:
    bounds = with_accuracies(small=0.6, big=0.9)
    pods = SimCluster((replicas(SMALL, 2),), SWITCHING, startup_s=lambda config: STARTUP_S, bounds=bounds)
    change(pods, replace(SMALL, variant="big"))
    assert serving(pods) == [replicas(SMALL, 2)]
    pods.advance(pods.next_event_s())
    assert serving(pods) == [replace(SMALL, variant="big")]
    change(pods, replicas(SMALL, 6), at_s=10.0)
    assert serving(pods) == [SMALL]
    assert played(pods, 100.0) == [(10.0 + STARTUP_S, 6, 6.0)]


def test_pods_that_serve_get_other_cores_before_those_that_start() -> None:
    pods = cluster(replicas(SMALL, 1), rolling=replace(PROCESSES, switches=("detect",)))
    change(pods, replicas(SMALL, 2))
    fewer = replace(SMALL, replicas=1, cores=0.5)
    change(pods, fewer, at_s=1.0)
    assert serving(pods) == [fewer]


def test_other_cores_are_other_pods_where_variants_are_resident() -> None:
    pods = cluster(rolling=SWITCHING.rolling)
    change(pods, BIG)
    assert (serving(pods), pods.cores) == ([SMALL], 12.0)
    played(pods, 100.0)
    assert (serving(pods), pods.cores, pods.settled) == ([BIG], 8.0, True)


def test_pods_without_room_are_pending_cost_nothing_and_start_when_there_is_room() -> None:
    other = StageConfig("read", "small", 1, 1.0, 2)
    pods = cluster(SMALL, other, capacity_cores=8.0)
    change(pods, replicas(SMALL, 7), other)
    rollout = pods.rollout(1.0)
    assert (rollout.phase, rollout.lacks_room) == (RolloutPhase.PROGRESSING, True)
    assert pods.cores == 8.0
    played(pods, 50.0)
    assert [state.ready_replicas for state in pods.states()] == [6, 2]
    assert next(iter(pods.states())).config.replicas == 7
    change(pods, replicas(SMALL, 7), replicas(other, 1), at_s=60.0)
    assert played(pods, 100.0)[-1][1] == 7
    assert pods.settled
    assert pods.resource_seconds(61.0).cpu_cores <= 8.0 * 61


def test_a_pending_pod_with_other_cores_costs_nothing() -> None:
    half = StageConfig("detect", "small", 4, 0.5, 2)
    pods = cluster(half, rolling=replace(SWITCHING.rolling, resizes=True), capacity_cores=1.2)
    change(pods, replicas(half, 3))
    change(pods, StageConfig("detect", "small", 4, 0.6, 3), at_s=1.0)
    assert pods.cores == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("rolling", "broken"), [(SIDE_BY_SIDE, BIG), (SWITCHING.rolling, replace(SMALL, variant="big"))]
)
def test_a_broken_variant_never_serves_and_is_given_up_while_the_old_one_serves_on(
    rolling: Rolling, broken: StageConfig
) -> None:
    pods = cluster(rolling=rolling, broken=frozenset({("detect", "big")}), gives_up_after_s=30.0)
    change(pods, broken)
    assert (played(pods, 1000.0), pods.next_event_s(), serving(pods)) == ([], inf, [SMALL])
    assert pods.rollout(29.0).phase is RolloutPhase.PROGRESSING
    assert pods.rollout(30.0).phase is RolloutPhase.FAILED
    change(pods, SMALL, at_s=40.0)
    assert (pods.settled, pods.cores) == (True, 4.0)


def test_a_killed_pod_is_replaced() -> None:
    pods = cluster()
    assert len(pods.kill("detect", 1, 5.0)) == 1
    assert ready(pods) == 3
    assert played(pods, 50.0) == [(5.0 + STARTUP_S, 4, 4.0)]


def test_what_runs_beside_the_replicas_is_paid() -> None:
    assert cluster(overhead=Overhead(0.5, (("detect", 0.25),))).cores == 4 * 1.25 + 0.5


def test_a_change_of_an_older_revision_is_refused() -> None:
    pods = cluster()
    with pytest.raises(ConflictError, match="revision"):
        pods.change((BIG,), "0", 0.0)
    with pytest.raises(ConflictError, match="stages"):
        pods.change((), "1", 0.0)


PIPELINE = Pipeline(
    name="pages",
    stages=chain([Stage("detect", (Variant("small"),))]),
    sla=Sla(0.5, 90.0),
    objectives={"default": Objective()},
)


def metrics(
    counts: Sequence[int], now_s: float, settings: MetricsSettings | None = None, queue: int = 0
) -> SimMetrics:
    arrivals = np.array(counts, dtype=np.int64)
    made = SimMetrics(arrivals, settings or MetricsSettings(), lambda: now_s)
    # Two items a request; so many wait.
    stage = made.stages["detect"][1] = StageSim()
    offered_s = np.repeat(np.arange(len(counts)), arrivals) + 0.5
    stage.offer(offered_s, np.arange(len(offered_s)), items=np.full(len(offered_s), 2))
    stage.waiting_at = lambda second: queue  # type: ignore[method-assign]
    done_s = np.arange(len(counts), dtype=np.float64) + 0.5
    born_s = done_s - 0.1 * (1 + np.arange(len(counts)))
    made.ended.add(Items.passed(np.arange(len(counts)), born_s, done_s), 0)
    return made


def test_the_load_is_what_came_in_each_second_and_the_rate_the_mean_of_the_last_five() -> None:
    signals = metrics(range(1, 101), 60.0, queue=3).read(PIPELINE, 20.0)
    assert isinstance(signals.load, Measured) and signals.load.age_s == 0.0
    assert signals.load.value.rates_rps == tuple(float(count) for count in range(41, 61))
    assert signals.load.value.averaged_s == 0.0
    assert signals.arrival_rate_rps == Measured(58.0, 0.0)
    stage = signals.stages["detect"]
    assert stage.arrival_rate_rps == Measured(116.0, 0.0)
    assert stage.queue_length == Measured(3.0, 0.0)


def test_the_latency_is_the_slas_quantile_of_what_was_answered_in_the_window() -> None:
    signals = metrics([1] * 100, 60.0).read(PIPELINE, 20.0)
    answered = 0.1 * np.arange(46, 61)
    assert isinstance(signals.latency_s, Measured)
    assert signals.latency_s.value == pytest.approx(np.quantile(answered, 0.9))


def test_before_the_first_second_nothing_was_seen_and_earlier_seconds_are_gaps() -> None:
    start = metrics([4] * 100, 0.0).read(PIPELINE, 20.0)
    assert isinstance(start.load, Missing) and start.load.reason is MissingReason.ABSENT
    assert isinstance(start.arrival_rate_rps, Missing)
    early = metrics([4] * 100, 3.0).read(PIPELINE, 20.0)
    assert isinstance(early.load, Measured)
    assert early.load.value.rates_rps == (None,) * 17 + (4.0,) * 3


def test_what_is_known_late_has_an_age_and_nothing_newer_in_it() -> None:
    signals = metrics(range(1, 101), 60.0, MetricsSettings(delay_s=4.0)).read(PIPELINE, 20.0)
    assert isinstance(signals.load, Measured)
    assert (signals.load.age_s, signals.load.value.rates_rps[-1]) == (4.0, 56.0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (MetricsSettings(gaps=((40.0, 70.0),)), MissingReason.STALE),
        (MetricsSettings(outages=((40.0, 70.0),)), MissingReason.UNREACHABLE),
        (MetricsSettings(delay_s=100.0), MissingReason.ABSENT),
        (MetricsSettings(delay_s=20.0), MissingReason.STALE),
    ],
)
def test_what_is_not_seen_is_missing_with_its_reason(
    settings: MetricsSettings, reason: MissingReason
) -> None:
    signals = metrics([3] * 100, 60.0, settings).read(PIPELINE, 20.0)
    for value in (
        signals.load,
        signals.arrival_rate_rps,
        signals.latency_s,
        signals.stages["detect"].queue_length,
    ):
        assert isinstance(value, Missing) and value.reason is reason


@pytest.mark.parametrize(
    "settings",
    [
        MetricsSettings(),
        MetricsSettings(delay_s=4.0),
        MetricsSettings(gaps=((50.0, 55.0),)),
        MetricsSettings(gaps=((40.0, 70.0),)),
        MetricsSettings(outages=((40.0, 70.0),)),
    ],
)
def test_the_load_alone_is_that_of_all_signals(settings: MetricsSettings) -> None:
    port = metrics(range(1, 101), 60.0, settings)
    assert port.load(PIPELINE, 20.0) == port.read(PIPELINE, 20.0).load


def test_of_a_short_gap_the_mean_is_known() -> None:
    settings = MetricsSettings(gaps=((50.0, 55.0),))
    signals = metrics(range(1, 101), 60.0, settings).read(PIPELINE, 20.0)
    assert isinstance(signals.load, Measured)
    rates = dict(enumerate(signals.load.value.rates_rps, 41))
    # 50 to 54 are missing: until 55 it is the mean since 49.
    assert (rates[49], rates[50], rates[55], rates[56]) == (49.0, 52.5, 52.5, 56.0)


def test_a_slow_scrape_gives_means_of_its_intervals() -> None:
    settings = MetricsSettings(scrape_interval_s=15.0, rate_window_s=30.0)
    signals = metrics([0] * 30 + [6] * 70, 60.0, settings).read(PIPELINE, 30.0)
    assert isinstance(signals.load, Measured)
    assert signals.load.value.averaged_s == 15.0
    assert signals.load.value.rates_rps[-1] == 6.0
    assert signals.arrival_rate_rps == Measured(6.0, 0.0)
    with pytest.raises(InputError, match="whole seconds"):
        MetricsSettings(scrape_interval_s=0.5)
    with pytest.raises(InputError, match="two scrapes"):
        MetricsSettings(scrape_interval_s=15.0, rate_window_s=29.0)


def point(**changed: object) -> OperatingPoint:
    made = OperatingPoint("small", 0.9, 1, 1.0, latency_s=0.5, capacity_rps=10.0)
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate_rps", "latency_s"), [(5.0, 0.4), (19.0, 0.39), (190.0, 0.7), (27.0, 0.1)])
def test_a_latency_measured_under_load_comes_out_again_at_that_load(
    rate_rps: float, latency_s: float
) -> None:
    service = under_load(point(capacity_rps=rate_rps, latency_s=latency_s))
    assert service.spread == 0.0
    assert service.full_s < 1 / rate_rps
    predicted = sojourn(1, 1, service.full_s, service.full_s, rate_rps, timeout_s=0.0)
    assert float(predicted.quantile_s) == pytest.approx(latency_s, rel=1e-3)


def test_a_profile_with_waiting_in_its_latencies_is_told_by_its_throughput() -> None:
    (small, big) = PROFILES["detect"].variants
    loaded = tuple(replace(it, throughput_rps=3 * it.batch_size / it.latency_s) for it in small.points)
    profiles = {
        **PROFILES,
        "detect": replace(PROFILES["detect"], variants=(replace(small, points=loaded), big)),
    }
    config = StageConfig("detect", "small", 1, 1.0, 1)
    alone_s = GroundTruth(PAGES, PROFILES).service(config).full_s
    assert GroundTruth(PAGES, profiles).service(config).full_s < alone_s / 3


def test_what_pods_do_is_their_profile_without_the_margins_of_an_objective() -> None:
    margins = Objective(latency_margin_ratio=1.0, throughput_margin_ratio=-0.5, max_batch_size=1)
    careful = replace(PAGES, objectives={"default": margins})
    config = StageConfig("detect", "big", 4, 2.0, 1)
    with_margins, without = GroundTruth(careful, PROFILES), GroundTruth(PAGES, PROFILES)
    assert with_margins.service(config) == without.service(config)
    measured = next(
        it for it in PROFILES["detect"].variant("big").points if (it.cores, it.batch_size) == (2.0, 4)
    )
    assert without.service(config).full_s == pytest.approx(measured.latency_s, rel=1e-6)
    assert without.startup_s(config) == READINESS_S


def test_accuracy_while_variants_are_replaced_is_that_of_both_by_what_they_carry() -> None:
    truth = GroundTruth(PAGES, PROFILES)
    small, big = (StageConfig("detect", name, 1, 1.0, 1) for name in ("small", "big"))
    read = {"read": (("", StageConfig("read", "big", 1, 1.0, 1)),)}
    alone = [truth.pas({"detect": (("", it),), **read}) for it in (small, big)]
    assert alone == pytest.approx([0.6 * 0.95, 0.9 * 0.95])
    # The small one is three times as quick.
    both = truth.pas({"detect": (("", small), ("", big)), **read})
    assert both == pytest.approx(0.75 * alone[0] + 0.25 * alone[1])


def test_a_batch_size_that_was_not_measured_goes_on_along_the_line() -> None:
    truth = GroundTruth(PAGES, PROFILES)
    eight, sixteen = (truth.service(StageConfig("detect", "big", size, 1.0, 1)) for size in (8, 16))
    slope_s = (eight.full_s - eight.one_s) / 7
    assert sixteen.full_s == pytest.approx(eight.one_s + 15 * slope_s)
    with pytest.raises(NotFoundError, match="was not measured"):
        truth.service(StageConfig("detect", "big", 1, 3.0, 1))


@pytest.mark.parametrize(("now_s", "peak_rps"), [(0.0, 4.0), (1.5, 8.0), (9.0, 2.0)])
def test_foresight_is_the_peak_of_the_horizon_with_the_margin(now_s: float, peak_rps: float) -> None:
    foresight = Foresight((4.0, 3.0, 1.0, 8.0, 2.0), lambda: now_s, 2.0, margin_ratio=0.5)
    forecast = foresight(LoadHistory(1.0, ()))
    assert (forecast.point_rps, forecast.upper_rps) == (1.5 * peak_rps, 1.5 * peak_rps)
