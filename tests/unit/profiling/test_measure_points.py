"""What the measuring of a variant makes of the answers of a replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from ipa.model.errors import InputError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant
from ipa.profiling.measure import (
    MIN_BATCHES,
    WARM_UP_BATCHES,
    BatchMeasurement,
    Item,
    MeasurementEffort,
    answers,
    measure_point,
    measure_points,
    rows,
    summarise,
)
from ipa.profiling.quiet import QuietWatch
from ipa.service.measuring import MeasureRequest, measure_stage
from ipa.targets.seldon.section import SeldonRun

QUIET = QuietWatch(0.0, lambda _: None, lambda _: None)
ITEMS: list[Item] = [[{"name": "x", "data": [number]}] for number in range(5)]


@dataclass
class FakeReplica:
    """Takes `item_s` an item, `first_s` longer for the first batches of a size."""

    item_s: float = 0.01
    first_s: float = 0.0
    batches: list[Sequence[Item]] = field(default_factory=list)

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        seen = sum(len(batch) == len(items) for batch in self.batches)
        self.batches.append(items)
        extra_s = self.first_s if seen < WARM_UP_BATCHES else 0.0
        outputs = tuple({"x": item[0]["data"], "fan_out": [item[0]["data"][0]]} for item in items)
        return BatchMeasurement(len(items) * self.item_s + extra_s, outputs)


class FakeServed(FakeReplica):
    readiness_s = 2.0

    def memory_gib(self) -> float:
        return 1.5

    def cpu_times(self) -> None:
        return None


class FakeBench:
    hardware, method = "none", "fake"

    @contextmanager
    def serve(self, stage: str, variant: str, cores: float) -> Iterator[FakeServed]:
        yield FakeServed()


class FakeWorkload:
    items = ITEMS

    def accuracy(self, answers: Sequence[object]) -> float:
        return 0.5


def test_a_profile_has_the_accelerators_that_the_variant_asks_for() -> None:
    gpu = {"nvidia.com/gpu": 2}
    stage = Stage("detect", (Variant("small"), Variant("large", {"seldon": SeldonRun(accelerators=gpu)})))
    pipeline = Pipeline("text", (stage,), Sla(1.0), {"default": Objective()})
    request = MeasureRequest((1.0,), (1,), MeasurementEffort(1, 0.0), 1.0, QUIET)
    profile = measure_stage(
        FakeBench(), pipeline, stage, stage.variants, FakeWorkload(), request, lambda _: None, lambda _: None
    )
    assert [(each.memory_gib, each.accelerators) for each in profile.variants] == [(1.5, {}), (1.5, gpu)]


def test_a_point_has_the_tail_the_mean_and_the_throughput_of_its_batches() -> None:
    point = summarise([0.1] * 99 + [0.3], cores=0.5, batch_size=4)
    assert (point.cores, point.batch_size) == (0.5, 4)
    assert 0.1 < point.latency_s < 0.3
    assert point.latency_mean_s == pytest.approx(0.102)
    assert point.throughput_rps == pytest.approx(4 / 0.102)


def test_the_first_batches_of_a_size_do_not_count() -> None:
    replica = FakeReplica(first_s=9.0)
    point = measure_point(
        replica, ITEMS, cores=1, batch_size=2, effort=MeasurementEffort(10, 60, warm_up_s=0.0)
    )
    assert point.latency_s == pytest.approx(0.02)
    assert len(replica.batches) == WARM_UP_BATCHES + 10


@pytest.mark.parametrize(
    ("effort", "measured"),
    [
        (MeasurementEffort(40, 0.1, warm_up_s=0.0), 10),
        (MeasurementEffort(7, 60, warm_up_s=0.0), 7),
        (MeasurementEffort(1, 0.0, warm_up_s=0.0), MIN_BATCHES),
    ],
)
def test_a_point_ends_with_its_batches_or_its_seconds_but_not_before_the_least(
    effort: MeasurementEffort, measured: int
) -> None:
    replica = FakeReplica(item_s=0.0101)
    measure_point(replica, ITEMS, cores=1, batch_size=1, effort=effort)
    assert len(replica.batches) == WARM_UP_BATCHES + measured


def test_a_point_begins_once_the_quota_that_was_saved_is_spent() -> None:
    replica = FakeReplica(item_s=0.0101)
    measure_point(replica, ITEMS, cores=0.5, batch_size=1, effort=MeasurementEffort(7, 60, warm_up_s=0.1))
    assert len(replica.batches) == 10 + 7


def test_a_point_whose_p99_scatters_is_measured_longer() -> None:
    class Scattering(FakeReplica):
        def infer(self, items: Sequence[Item]) -> BatchMeasurement:
            found = super().infer(items)
            slower = 1 + 4 * (len(self.batches) % 50 == 49) * len(self.batches) / 100
            return replace(found, latency_s=found.latency_s * slower)

    def measured(replica: FakeReplica, doublings: int) -> int:
        effort = MeasurementEffort(100, 60, warm_up_s=0.0, doublings=doublings)
        measure_point(replica, ITEMS, cores=1, batch_size=1, effort=effort)
        return len(replica.batches) - WARM_UP_BATCHES

    assert measured(FakeReplica(), 2) == 100
    assert [measured(Scattering(), doublings) for doublings in (0, 1, 2)] == [100, 200, 400]


def test_batches_go_round_the_items_and_are_always_full() -> None:
    replica = FakeReplica()
    measure_point(replica, ITEMS, cores=1, batch_size=8, effort=MeasurementEffort())
    assert {len(batch) for batch in replica.batches} == {8}
    assert list(replica.batches[0]) == [*ITEMS, *ITEMS[:3]]


def test_sizes_that_would_take_longer_than_the_limit_are_not_tried() -> None:
    points = measure_points(
        FakeServed(item_s=0.1),
        ITEMS,
        cores=1,
        batch_sizes=[8, 1, 4, 2],
        limit_s=0.5,
        effort=MeasurementEffort(5, 0.1),
        watch=QUIET,
    )
    assert [point.batch_size for point in points] == [1, 2, 4]


def test_every_item_is_answered_once_in_order_and_the_fan_out_is_counted() -> None:
    outputs = answers(FakeReplica(), ITEMS, 2)
    assert [list(output["x"]) for output in outputs] == [[0], [1], [2], [3], [4]]
    assert sum(rows(outputs, "fan_out")) == 2 * len(outputs)
    assert set(rows(outputs, "absent")) == {1}


def test_a_workload_without_items_is_refused() -> None:
    with pytest.raises(InputError, match="no items"):
        measure_point(FakeReplica(), [], cores=1, batch_size=1, effort=MeasurementEffort())
