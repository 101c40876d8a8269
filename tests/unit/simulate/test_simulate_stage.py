"""The behaviour of a simulated stage: batches and their reports, groups of pods, drains, admission."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ipa.model.errors import InputError
from ipa.model.observation import Batches, Measured, Missing, MissingReason
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.profile import OperatingPoint
from ipa.model.serving import Batching, ServingSemantics
from ipa.queueing.service import ServiceTime, service_of
from ipa.simulate.columns import KEPT_S, Items, served
from ipa.simulate.graph import Admission, PipelineSim, StageCapacity
from ipa.simulate.kernel import KernelDriver, drive_compiled, drive_plain
from ipa.simulate.metrics import MetricsSettings, SimMetrics
from ipa.simulate.queue import SPREAD, DrainedPod, Pods
from ipa.simulate.stage import StageSim
from ipa.simulate.world import queue_kind
from tests.unit.simulate.test_simulate_kernel import needs_numba
from tests.unit.simulate.test_simulate_world import PIPELINE

FLAT = ServiceTime(1.0, 1.0)


def by_second(count_before: Callable[[int], int], seconds: int) -> list[int]:
    return [count_before(second + 1) - count_before(second) for second in range(seconds)]


def stage_of(
    pods: list[Pods], times: list[float], items: list[int] | None = None, **rules: object
) -> StageSim:
    stage = StageSim(**rules)  # type: ignore[arg-type]
    stage.set_replicas(0.0, pods)
    stage.offer(times, range(len(times)), items=items)
    return stage


def test_a_batch_waits_for_its_size_or_its_timeout_and_fills_until_a_replica_is_free() -> None:
    stage = stage_of([Pods(1, 2, ServiceTime(1.0, 0.5))], [0.0, 0.2, 0.3, 4.0], batch_timeout_s=0.5)
    served = stage.run(100.0)
    # 0 and 1 go at 0.2; 2 is due at 0.8 and goes alone at 1.2; 3 at 4.5.
    assert served.ids.tolist() == [0, 1, 2, 3]
    assert served.done_s == pytest.approx([1.2, 1.2, 1.7, 5.0])


def test_what_is_not_done_stays_inside() -> None:
    stage = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2])
    assert stage.run(1.0).ids.tolist() == []  # it ends at 1.0, which is not before 1.0
    assert stage.queue.waiting == 2
    assert stage.run(2.5).ids.tolist() == [0, 1]
    assert stage.queue.waiting == 0
    assert stage.run(9.0).done_s.tolist() == [3.0]


def test_requests_too_old_are_dropped_one_by_one_or_with_their_batch() -> None:
    one = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2, 1.8], drop_after_s=1.5).run(9.0)
    # 2 while it waits; 1 while it is served, which is reported with its batch.
    assert one.ids.tolist() == [0, 2, 1, 3]
    assert one.lost.tolist() == [False, True, True, False]
    assert one.done_s.tolist() == [1.0, 1.7, 2.0, 3.0]
    times = [0.0, 0.1, 0.9, 1.0]
    batch = stage_of([Pods(1, 2, FLAT)], times, batch_timeout_s=0.0, drop_after_s=0.5, queue="batch").run(9.0)
    assert batch.ids[batch.lost].tolist() == [1, 2]
    assert batch.done_s.tolist() == [1.0, 1.0, 1.0, 2.0]


def test_those_taken_away_finish_what_they_do_the_idle_first() -> None:
    old, new = Pods(2, 1, FLAT, "old", "v"), Pods(1, 1, ServiceTime(0.125, 0.125), "new", "w")
    stage = stage_of([old], [0.5, 3.0, 3.125])
    stage.set_replicas(1.0, [replace(old, count=1), new])
    stage.set_replicas(3.2, [replace(new, service=ServiceTime(0.1, 0.1))])
    served = stage.run(9.0)
    # The new pod has been idle for longer than the old one.
    assert served.done_s.tolist() == [1.5, 3.125, 4.125]
    assert stage.drained() == [DrainedPod("old", 1.0), DrainedPod("old", 4.125)]
    assert stage.drained() == []
    assert [stage.queue.variants[number] for number in served.server] == ["v", "w", "v"]


def test_a_change_is_felt_at_once_by_those_who_wait() -> None:
    stage = stage_of([Pods(1, 8, FLAT)], [0.0, 0.0])
    stage.set_replicas(4.0, [Pods(1, 2, FLAT)])
    assert stage.run(9.0).done_s.tolist() == [5.0, 5.0]


def test_what_a_failed_replica_had_is_done_again_first() -> None:
    stage = stage_of([Pods(2, 1, FLAT)], [0.0, 0.1, 0.2])
    stage.fail(0.5, count=1)
    served = stage.run(9.0)
    assert served.ids.tolist() == [1, 0, 2]
    assert served.done_s == pytest.approx([1.1, 2.1, 3.1])
    assert [stage.waiting_at(second) for second in (1, 2, 3)] == [2, 1, 0]


def lanes_of(count: int, requests: int, seed: int) -> list[list[int]]:
    """The requests that each of the replicas is given."""
    lanes = (np.random.default_rng((seed, SPREAD)).random(requests) * count).astype(np.int64)
    return [np.flatnonzero(lanes == lane).tolist() for lane in range(count)]


def test_a_failed_replica_loses_its_own_queue() -> None:
    first, second = lanes_of(2, 5, 0)
    stage = stage_of([Pods(2, 1, FLAT)], [0.0, 0.1, 0.2, 0.3, 0.4], queue="replica")
    stage.fail(0.5, count=1)
    served = stage.run(9.0)
    assert served.ids[served.lost].tolist() == first
    assert served.done_s[served.lost].tolist() == [0.5] * len(first)
    assert served.server[served.lost].tolist() == [-1] * len(first)
    assert served.ids[~served.lost].tolist() == second


def test_a_batch_in_a_replica_has_what_came_before_it_was_due_and_leavers_finish() -> None:
    times = [0.0, 0.4, 0.8, 1.2, 1.4, 2.0]
    sealed = stage_of([Pods(1, 4, FLAT)], times, queue="replica", batch_timeout_s=0.5)
    # Each half second's requests by themselves, though the replica is busy for a second with each batch.
    assert sealed.run(99.0).done_s.tolist() == [1.5, 1.5, 2.5, 2.5, 3.5, 4.5]
    central = stage_of([Pods(1, 4, FLAT)], times, batch_timeout_s=0.5)
    assert central.run(99.0).done_s.tolist() == [1.5, 1.5, 2.5, 2.5, 2.5, 3.5]
    stage = stage_of([Pods(1, 2, FLAT)], [0.0, 1.0, 2.0], queue="replica")
    assert stage.run(50.0).done_s.tolist() == [2.0, 2.0]
    assert stage.waiting_at(50) == 1
    stage.set_replicas(100.0, [])
    assert stage.run(200.0).done_s.tolist() == [101.0]
    assert stage.drained() == [DrainedPod("", 101.0)]


def test_requests_wait_where_there_is_no_replica_and_are_dropped_in_time() -> None:
    stage = StageSim(drop_after_s=3.0)
    stage.offer([0.0, 2.0], [7, 8])
    stage.set_replicas(4.0, [Pods(1, 1, FLAT)])
    served = stage.run(9.0)
    assert served.ids.tolist() == [7, 8]
    assert served.lost.tolist() == [True, False]
    assert served.done_s.tolist() == [3.0, 5.0]
    own = StageSim(queue="replica")
    own.offer([0.0, 2.0], [7, 8])
    own.set_replicas(4.0, [Pods(1, 1, FLAT)])
    assert own.run(9.0).done_s.tolist() == [5.0, 6.0]


def test_a_request_is_done_with_its_last_item_and_without_items_at_once() -> None:
    stage = stage_of([Pods(1, 2, FLAT)], [0.0, 0.5, 0.6], [3, 0, 1])
    served = stage.run(9.0)
    assert served.ids.tolist() == [1, 0, 2]
    assert served.done_s.tolist() == [0.5, 2.0, 2.0]
    stage = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1], [1, 2])
    stage.offer([0.2], [2], items=[2])
    served = stage.run(9.0)
    assert served.ids.tolist() == [0, 1, 2]
    assert served.done_s.tolist() == [1.0, 3.0, 5.0]


def test_items_are_counted_by_the_second() -> None:
    stage = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2, 3.5])
    stage.run(9.0)
    assert by_second(stage.items_before, 5) == [3, 0, 0, 1, 0]
    assert [stage.waiting_at(second) for second in range(6)] == [0, 2, 1, 0, 0, 0]
    assert (stage.items_before(1000), stage.waiting_at(1000)) == (4, 0)
    times, items = [0.0, 0.4, 1.2, 1.3, 3.0], [1, 3, 0, 1, 2]
    counted = stage_of([Pods(1, 1, FLAT)], times, items)
    assert by_second(counted.items_before, 4) == [4, 1, 0, 2]
    assert by_second(stage_of([Pods(1, 1, FLAT)], times).items_before, 4) == [2, 2, 0, 1]
    none = stage_of([Pods(1, 1, FLAT)], [0.5, 2.5], [1, 0])
    assert by_second(none.items_before, 3) == [1, 0, 0]
    # By when it came to the stage, not to the pipeline.
    late = StageSim()
    late.offer([1.5], [0], [0.5])
    assert by_second(late.items_before, 2) == [0, 1]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: StageSim(queue="two"), "'two'"),
        (lambda: StageSim(batch_timeout_s=-1.0), "batch_timeout_s"),
        (lambda: ServiceTime(0.0, 1.0), "full_s"),
        (lambda: StageSim().set_replicas(0.0, [Pods(1, 1, FLAT), Pods(1, 2, FLAT)]), "distinct names"),
        (lambda: StageSim().offer([1.0, 0.5], [0, 1]), "must rise"),
        (lambda: stage_of([], [1.0]).offer([0.5], [1]), r"must rise from 1\.0 on"),
    ],
)
def test_what_makes_no_sense_is_refused(act: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        act()  # type: ignore[operator]


def test_time_goes_one_way() -> None:
    stage = StageSim()
    stage.run(5.0)
    with pytest.raises(InputError, match=r"until 5\.0.*not 4\.0"):
        stage.run(4.0)
    with pytest.raises(InputError, match=r"until 5\.0.*not 4\.0"):
        stage.set_replicas(4.0, [])


def test_the_service_of_an_operating_point() -> None:
    point = OperatingPoint("v", 0.9, 8, 2.0, latency_s=0.12, capacity_rps=80.0, latency_mean_s=0.08)
    single = OperatingPoint("v", 0.9, 1, 2.0, latency_s=0.03, capacity_rps=50.0, latency_mean_s=0.02)
    service = service_of(point, single)
    assert (service.full_s, service.one_s) == (0.1, 0.02)  # 8 items at 80 a second keep it for 0.1 s
    draws = np.random.default_rng(0).gamma(1 / service.spread, service.spread, 200_000)
    assert np.percentile(draws, 99) == pytest.approx(1.2, rel=0.01)
    plain = service_of(OperatingPoint("v", 0.9, 4, 1.0, latency_s=0.2, capacity_rps=20.0))
    assert (plain.full_s, plain.one_s, plain.spread) == (0.2, 0.125, 0.0)


PAIRS = ServiceTime(1.0, 0.5)


def played(times: list[float], until_s: float, step_s: float, **rules: object) -> StageSim:
    """A stage of one replica that takes two at once, run in steps."""
    stage = StageSim(batch_timeout_s=0.25, **rules)  # type: ignore[arg-type]
    stage.set_replicas(0.0, [Pods(1, 2, PAIRS)])
    stage.offer(times, range(len(times)))
    for at_s in np.arange(step_s, until_s + step_s / 2, step_s):
        stage.run(float(at_s))
    return stage


@pytest.mark.parametrize("step_s", [0.5, 10.0])
@pytest.mark.parametrize("kernel", [drive_plain, pytest.param(drive_compiled, marks=needs_numba)])
def test_batches_count_where_they_end_with_their_items(step_s: float, kernel: KernelDriver) -> None:
    # A pair at 0.1 that ends at 1.1; one alone that is due at 2.25 and ends at 2.75; a pair 4.0 to 5.0.
    stage = played([0.0, 0.1, 2.0, 3.9, 4.0], 10.0, step_s, kernel=kernel)
    assert served([stage.batches], 0.0, 10.0) == Batches(3.0, pytest.approx(2.5 / 3), 5 / 3, 10.0)
    assert served([stage.batches], 1.1, 2.75) == Batches(1.0, pytest.approx(0.5), 1.0, pytest.approx(1.65))
    assert served([stage.batches], 1.0, 1.1) == Batches(1.0, pytest.approx(1.0), 2.0, pytest.approx(0.1))
    assert served([stage.batches], 5.0, 10.0) is None
    both = served([stage.batches, stage.batches], 0.0, 10.0)
    assert both is not None and (both.count, both.items) == (6.0, 5 / 3)
    assert served([], 0.0, 10.0) is None


def test_what_is_dropped_is_in_no_batch() -> None:
    # While the first is served the others wait too long.
    stage = played([0.0, 0.01, 0.02, 0.03, 5.0], 20.0, 20.0, drop_after_s=0.5)
    assert served([stage.batches], 0.0, 20.0) == Batches(2.0, pytest.approx(0.75), 1.5, 20.0)
    whole = played([0.0, 0.01, 0.02, 0.03, 5.0], 20.0, 20.0, drop_after_s=0.5, queue="batch")
    assert served([whole.batches], 0.0, 20.0) == Batches(2.0, pytest.approx(0.75), 1.5, 20.0)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    stage = StageSim()
    stage.set_replicas(0.0, [Pods(1, 1, ServiceTime(0.1, 0.1))])
    for at_s in range(0, int(3 * KEPT_S), 10):
        stage.offer([float(at_s)], [at_s])
        stage.run(at_s + 10.0)
    assert len(stage.batches._pieces) <= KEPT_S / 10 + 2
    batches = served([stage.batches], 2 * KEPT_S, 3 * KEPT_S)
    assert batches is not None and batches.count == KEPT_S / 10


def metrics(stage: StageSim, now_s: float, settings: MetricsSettings | None = None) -> SimMetrics:
    made = SimMetrics(np.ones(100, dtype=np.int64), settings or MetricsSettings(), lambda: now_s)
    made.stages["detect"][1] = stage
    return made


def test_the_port_has_those_of_its_window_up_to_the_newest_sample() -> None:
    stage = played([float(second) for second in range(60)], 80.0, 1.0)
    batches = metrics(stage, 40.0).read(PIPELINE, 20.0).stages["detect"].batches
    assert batches == Measured(Batches(10.0, pytest.approx(0.5), 1.0, 10.0), 0.0)
    late = metrics(stage, 42.0, MetricsSettings(delay_s=2.0)).read(PIPELINE, 20.0).stages["detect"].batches
    assert late == Measured(batches.value, 2.0)
    idle = metrics(stage, 90.0).read(PIPELINE, 20.0).stages["detect"].batches
    gone = metrics(stage, 60.0, MetricsSettings(outages=((50.0, 70.0),))).read(PIPELINE, 20.0)
    for value, reason in (
        (idle, MissingReason.ABSENT),
        (gone.stages["detect"].batches, MissingReason.UNREACHABLE),
    ):
        assert isinstance(value, Missing) and value.reason is reason


STAGES = ("first", "middle", "last")
SLOW, QUICK = ServiceTime(0.1, 0.04, 0.04), ServiceTime(0.025, 0.01, 0.04)
CAPACITY_RPS, DEADLINE_S, SECONDS = 80.0, 0.4, 30.0


def ended(place: str, load_ratio: float, queue: str, cuts: tuple[float, ...] = ()) -> list[Items]:
    """Those that end, with that stage slow."""
    stages = [Stage(name, (Variant("v"),), batch_timeout_s=0.005) for name in STAGES]
    pipeline = Pipeline(
        "p", chain(stages), Sla(DEADLINE_S), {"default": Objective()}, drop_after_s=DEADLINE_S
    )
    sim = PipelineSim(pipeline, queue=queue, seed=1)
    for name in STAGES:
        sim.set_replicas(name, 0.0, [Pods(2, 4, SLOW if name == place else QUICK)])
    sent = int(load_ratio * CAPACITY_RPS * SECONDS)
    sim.offer(np.sort(np.random.default_rng(1).uniform(0, SECONDS, sent)))
    return [sim.run(cut) for cut in (*cuts, SECONDS + 10)]


def goodput_ratio(done: Items) -> float:
    in_time = ~done.lost & (done.latency_s <= DEADLINE_S)
    return float(in_time.sum()) / SECONDS / CAPACITY_RPS


@pytest.mark.parametrize("load_ratio", [1.6, 5.0])
@pytest.mark.parametrize("place", STAGES)
def test_goodput_is_near_the_capacity(place: str, load_ratio: float) -> None:
    (before,) = ended(place, load_ratio, "central")
    (now,) = ended(place, load_ratio, "deadline")
    assert goodput_ratio(before) < 0.1
    assert goodput_ratio(now) > 0.95
    assert len(now.ids) == len(before.ids)
    (below,) = ended(place, 0.8, "deadline")
    assert below.lost.mean() < 0.005


def test_a_run_may_be_cut_anywhere() -> None:
    (whole,) = ended("middle", 2.0, "deadline")
    parts = ended("middle", 2.0, "deadline", cuts=(0.05, 3.0, 3.001, 17.3))
    for name in ("ids", "born_s", "done_s", "lost"):
        column = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(column, getattr(whole, name))


def test_without_replicas_requests_wait() -> None:
    admission = Admission(1.0)
    admission.set_stages({"a": StageCapacity(0.0, 0.0, 0.0)})
    assert not admission.refused(np.arange(0.0, 9.0, 0.01)).any()
    # Those that come once there are some do not wait for them.
    admission.set_stages({"a": StageCapacity(100.0, 1.0, 0.2)})
    assert not admission.refused(np.arange(9.0, 18.0, 0.01)).any()


def test_a_larger_capacity_admits_more_from_its_moment_on() -> None:
    admission = Admission(1.0)
    times_s = np.arange(0.0, 10.0, 0.01)
    parts = []
    for rate_rps, part in zip((10.0, 100.0), np.split(times_s, 2), strict=True):
        admission.set_stages({"a": StageCapacity(rate_rps, 1.0, 0.2)})
        parts.append(admission.refused(part))
    refused = np.concatenate(parts)
    admitted_rps = [np.count_nonzero(~refused[(times_s >= at) & (times_s < at + 2)]) / 2 for at in (2, 7)]
    assert admitted_rps == pytest.approx([10, 100], rel=0.05)


@pytest.mark.parametrize(("batching", "lost"), [(Batching.CENTRAL, 1), (Batching.IN_REPLICA, 0)])
def test_a_target_drops_late_requests_from_its_central_queue_only(batching: Batching, lost: int) -> None:
    queue = queue_kind(ServingSemantics(batching=batching))
    stage = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2], drop_after_s=2.5, queue=queue)
    assert stage.run(9.0).lost.sum() == lost
