"""The behaviour of a stage: batches, groups of pods, drains, faults, queues a replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ipa.model.errors import InputError
from ipa.model.profile import OperatingPoint
from ipa.queueing.service import ServiceTime, service_of
from ipa.simulate.queue import SPREAD, DrainedPod, Pods
from ipa.simulate.stage import StageSim

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
    assert stage.waiting == 2
    assert stage.run(2.5).ids.tolist() == [0, 1]
    assert stage.waiting == 0
    assert stage.run(9.0).done_s.tolist() == [3.0]


def test_requests_too_old_are_dropped_one_by_one_or_with_their_batch() -> None:
    one = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2, 1.8], drop_after_s=1.5, drop="request").run(9.0)
    # 2 while it waits; 1 while it is served, which is reported with its batch.
    assert one.ids.tolist() == [0, 2, 1, 3]
    assert one.lost.tolist() == [False, True, True, False]
    assert one.done_s.tolist() == [1.0, 1.7, 2.0, 3.0]
    times = [0.0, 0.1, 0.9, 1.0]
    batch = stage_of([Pods(1, 2, FLAT)], times, batch_timeout_s=0.0, drop_after_s=0.5, drop="batch").run(9.0)
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
    assert [stage.variants[number] for number in served.server] == ["v", "w", "v"]


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
    assert stage.waiting == 1
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
    with pytest.raises(InputError, match="drops no request"):
        StageSim(drop_after_s=3.0, queue="replica")
    own = StageSim(queue="replica")
    own.offer([0.0, 2.0], [7, 8])
    own.set_replicas(4.0, [Pods(1, 1, FLAT)])
    assert own.run(9.0).done_s.tolist() == [5.0, 6.0]


def test_a_request_is_done_with_its_last_item_and_without_items_at_once() -> None:
    stage = stage_of([Pods(1, 2, FLAT)], [0.0, 0.5, 0.6], [3, 0, 1])
    served = stage.run(9.0)
    assert served.ids.tolist() == [1, 0, 2]
    assert served.done_s.tolist() == [0.5, 2.0, 2.0]


def test_counts_by_the_second() -> None:
    stage = stage_of([Pods(1, 1, FLAT)], [0.0, 0.1, 0.2, 3.5])
    stage.run(9.0)
    assert by_second(stage.items_before, 5) == [3, 0, 0, 1, 0]
    assert [stage.waiting_at(second) for second in range(6)] == [0, 2, 1, 0, 0, 0]
    assert (stage.items_before(1000), stage.waiting_at(1000)) == (4, 0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: StageSim(drop="all"), "'all'"),
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


def test_items_are_counted_by_the_second() -> None:
    times, items = [0.0, 0.4, 1.2, 1.3, 3.0], [1, 3, 0, 1, 2]
    counted = stage_of([Pods(1, 1, FLAT)], times, items)
    assert by_second(counted.items_before, 4) == [4, 1, 0, 2]
    assert by_second(stage_of([Pods(1, 1, FLAT)], times).items_before, 4) == [2, 2, 0, 1]
    none = stage_of([Pods(1, 1, FLAT)], [0.5, 2.5], [1, 0])
    assert by_second(none.items_before, 3) == [1, 0, 0]
