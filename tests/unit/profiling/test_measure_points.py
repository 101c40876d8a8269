"""The profile that a variant's measuring makes of the answers of a replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pytest

from experiments.live.calibration import measure_point
from ipa.model.errors import InputError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant
from ipa.profiling.measure import (
    LEAST_ROUNDS,
    LEAST_STEADY,
    MIN_BATCHES,
    ROUNDS,
    WARM_UP_BATCHES,
    BatchMeasurement,
    Item,
    MeasurementEffort,
    answers,
    is_steady,
    measure_points,
    rows,
    summarise,
)
from ipa.service.measuring import measure_stage
from ipa.targets.seldon.section import SeldonRun

ITEMS: list[Item] = [[{"name": "x", "data": [number]}] for number in range(5)]


@dataclass
class FakeReplica:
    """Takes `item_s` an item, `first_s` longer for the first batches of a size."""

    item_s: float = 0.01
    first_s: float = 0.0
    batches: list[Sequence[Item]] = field(default_factory=list)

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        repeats = sum(len(batch) == len(items) for batch in self.batches)
        self.batches.append(items)
        extra_s = self.first_s if repeats < WARM_UP_BATCHES else 0.0
        outputs = tuple({"x": item[0]["data"], "fan_out": [item[0]["data"][0]]} for item in items)
        return BatchMeasurement(len(items) * self.item_s + extra_s, outputs)


class FakeServed(FakeReplica):
    readiness_s = 2.0

    def memory_gib(self) -> float:
        return 1.5


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
    grid = {name: {1.0: (1,)} for name in ("small", "large")}
    effort = MeasurementEffort(1, 0.0)
    profile = measure_stage(
        FakeBench(), pipeline, stage, FakeWorkload(), grid, effort, lambda *_: None, lambda _: None
    )
    assert [(each.memory_gib, each.accelerators) for each in profile.variants] == [(1.5, {}), (1.5, gpu)]


def test_a_point_has_the_tail_the_mean_and_the_throughput_of_its_batches() -> None:
    point = summarise([[0.1] * 99 + [0.3]], cores=0.5, batch_size=4)
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


class Scattering(FakeServed):
    """Every round has another tail than the one before."""

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        measured = super().infer(items)
        count = len(self.batches)
        return replace(measured, latency_s=measured.latency_s * (1 + count // 101 % 3 * (count % 20 == 0)))


def points_of(replica: FakeServed, effort: MeasurementEffort, **given: Any) -> Any:
    return measure_points(
        replica, ITEMS, **{"cores": 1, "batch_sizes": [1], "limit_s": 9.0, "effort": effort, **given}
    )


def test_points_whose_p99_scatters_are_measured_longer() -> None:
    def measured(replica: FakeServed, doublings: int) -> tuple[int, bool]:
        ((_, is_steady),) = points_of(replica, MeasurementEffort(500, 60, warm_up_s=0.0, doublings=doublings))
        return len(replica.batches), is_steady

    def of(rounds: int) -> int:
        return WARM_UP_BATCHES + 100 + (rounds - 1) * 101

    assert measured(FakeServed(), 2) == (of(LEAST_ROUNDS), True)
    assert [measured(Scattering(), doublings) for doublings in (0, 1, 2)] == [
        (of(ROUNDS), False),
        (of(2 * ROUNDS), False),
        (of(4 * ROUNDS), False),
    ]


def test_only_the_first_round_warms_the_replica_up() -> None:
    replica = FakeServed(item_s=0.0101)
    points_of(replica, MeasurementEffort(500, 60, warm_up_s=0.3))
    assert len(replica.batches) == 30 + 100 + (LEAST_ROUNDS - 1) * 101


@pytest.mark.parametrize(("relative", "rounds"), [(0.06, LEAST_ROUNDS + 1), (0.05, LEAST_ROUNDS)])
def test_few_rounds_have_to_agree_more(relative: float, rounds: int) -> None:
    """A p99 within its error by the normal distribution is not by Student's t of three rounds."""
    tails = [1.0 - relative, 1.0, 1.0 + relative]
    assert is_steady([[each] * 100 for each in tails]) is (rounds == LEAST_ROUNDS)


def test_only_the_sizes_that_scatter_are_measured_longer() -> None:
    class OneScatters(Scattering):
        def infer(self, items: Sequence[Item]) -> BatchMeasurement:
            measured = super().infer(items)
            return replace(measured, latency_s=0.01) if len(items) == 1 else measured

    replica = OneScatters()
    effort = MeasurementEffort(500, 60, warm_up_s=0.0, doublings=1)
    points_of(replica, effort, batch_sizes=[1, 2])
    sizes = [len(batch) for batch in replica.batches]
    assert sizes.count(1) == WARM_UP_BATCHES + 100 + (LEAST_ROUNDS - 1) * 101
    assert sizes.count(2) == WARM_UP_BATCHES + 100 + (2 * ROUNDS - 1) * 101


def test_sizes_are_measured_in_turn_and_a_slow_moment_counts_for_none() -> None:
    """A tenth of the time, in one round, all batches take three times as long."""

    class Slowed(FakeServed):
        def infer(self, items: Sequence[Item]) -> BatchMeasurement:
            measured = super().infer(items)
            is_slow = 1000 < len(self.batches) <= 1300
            return replace(measured, latency_s=measured.latency_s * (3 if is_slow else 1))

    replica = Slowed()
    effort = MeasurementEffort(5 * 300, 3600, warm_up_s=0.0, doublings=0)
    points = points_of(replica, effort, batch_sizes=[2, 1, 4])
    assert [(point.batch_size, point.latency_s) for point, _ in points] == [
        (1, pytest.approx(0.01)),
        (2, pytest.approx(0.02)),
        (4, pytest.approx(0.04)),
    ]
    order = [size for size, _ in groupby(map(len, replica.batches))]
    # Those that the moment slowed are measured longer.
    assert order == [1, 2, 4] * LEAST_ROUNDS + [1, 2] * (ROUNDS - LEAST_ROUNDS)


def test_a_p99_of_rounds_that_are_too_short_to_have_one_is_that_of_all_batches() -> None:
    rounds = [[0.1] * 20, [0.1] * 19 + [0.5], [0.1] * 20]
    assert summarise(rounds, cores=1, batch_size=1).latency_s > 0.2
    long = [5 * each for each in rounds]
    assert summarise(long, cores=1, batch_size=1).latency_s == pytest.approx(0.1)


def test_batches_go_round_the_items_and_are_always_full() -> None:
    replica = FakeReplica()
    measure_point(replica, ITEMS, cores=1, batch_size=8, effort=MeasurementEffort())
    assert {len(batch) for batch in replica.batches} == {8}
    first = [item[0]["data"][0] for item in replica.batches[0]]
    assert sorted(first[:5]) == [0, 1, 2, 3, 4]


def test_sizes_that_would_take_longer_than_the_limit_are_not_tried() -> None:
    effort = MeasurementEffort(5, 0.1)
    points = points_of(FakeServed(item_s=0.1), effort, batch_sizes=[8, 1, 4, 2], limit_s=0.5)
    assert [point.batch_size for point, _ in points] == [1, 2, 4]


def test_every_item_is_answered_once_in_order_and_the_fan_out_is_counted() -> None:
    outputs = answers(FakeReplica(), ITEMS, 2)
    assert [list(output["x"]) for output in outputs] == [[0], [1], [2], [3], [4]]
    assert sum(rows(outputs, "fan_out")) == 2 * len(outputs)
    assert set(rows(outputs, "absent")) == {1}


def test_a_workload_without_items_is_refused() -> None:
    with pytest.raises(InputError, match="no items"):
        measure_point(FakeReplica(), [], cores=1, batch_size=1, effort=MeasurementEffort())


@pytest.mark.parametrize("batches", [LEAST_STEADY - 1, LEAST_STEADY])
def test_a_few_batches_that_agree_are_not_steady(batches: int) -> None:
    """Long batches make few in a round: the slowest of a dozen is no p99, however well they agree."""
    assert is_steady([[0.1] * (batches - 4), [0.1] * 2, [0.1] * 2]) is (batches >= LEAST_STEADY)


def test_batches_mix_the_kinds_that_a_workload_lists_one_after_another() -> None:
    kinds: list[Item] = [[{"name": "x", "data": [number // 8]}] for number in range(64)]
    replica = FakeReplica()
    effort = MeasurementEffort(repeats=80, budget_s=100.0, warm_up_s=0.0)
    measure_points(replica, kinds, cores=1.0, batch_sizes=[8], limit_s=10.0, effort=effort)
    mixed = [len({item[0]["data"][0] for item in batch}) for batch in replica.batches]
    # Eight of eight kinds at random are of five or six; in the workload's order each batch is of one.
    assert 4.5 < sum(mixed) / len(mixed) < 6.0
    served = [item[0]["data"][0] for batch in replica.batches[:8] for item in batch]
    assert sorted(served) == sorted(item[0]["data"][0] for item in kinds)
