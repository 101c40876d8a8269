"""Points that others disturb: noticed, waited for, measured again, and marked if it does not become quiet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ipa.model.profile import ProfilePoint
from ipa.profiling.lint import SCATTER_RATIO
from ipa.profiling.measure import QUIET_RATIO, TRIES, CpuTimes, ForeignUse, QuietWatch, foreign_use
from tests.fakes.clock import VirtualClock

POINT_S = 2.0


def times(at_s: float, *used_s: float, own_s: float = 0.0, **more: object) -> CpuTimes:
    return CpuTimes(at_s, dict(enumerate(used_s)), own_s=own_s, **more)  # type: ignore[arg-type]


def use(before: CpuTimes, after: CpuTimes, cores: float = 1.0) -> ForeignUse:
    found = foreign_use(before, after, cores)
    assert found is not None
    return found


def test_use_that_plans_do_not_tolerate_is_not_quiet() -> None:
    assert pytest.approx(SCATTER_RATIO) == QUIET_RATIO


def test_own_time_is_not_foreign() -> None:
    assert use(times(0, 5, 5), times(10, 12, 8, own_s=10)).is_quiet


def test_the_share_is_of_the_cpus_of_replica_and_client() -> None:
    found = use(times(0, 0, 0), times(10, 10, 9, own_s=9))
    assert (found.ratio, found.needed) == (pytest.approx(0.5), 2)
    assert use(times(0, 0, 0, 0, 0), times(10, 10, 10, 10, 6, own_s=10), cores=2).ratio == pytest.approx(
        (2.6 - 1) / 3
    )


def test_use_that_other_cpus_have_room_for_does_not_count() -> None:
    assert use(times(0, *[0] * 8), times(10, *[8] * 8, own_s=10)).is_quiet


def test_others_that_are_bound_to_the_replicas_cpu_count_whatever_room_there_is() -> None:
    after = times(10, *[0] * 7, 10, own_s=5, bound=frozenset({7}))
    assert use(times(0, *[0] * 8), after).ratio == pytest.approx(0.25)


def test_stolen_time_counts_whatever_room_there_is() -> None:
    found = use(times(0, *[0] * 8), times(10, 9, *[0] * 7, own_s=5, stolen_s=4.0))
    assert found.ratio == pytest.approx(0.2)
    assert str(found) == "others used 20% of the 2 CPUs that it needs (steal: 0.4 cores)"


def test_the_process_that_used_most_is_named() -> None:
    before = times(0, 0, others_s={(7, "old"): 5.0})
    found = use(before, times(10, 10, own_s=1, others_s={(7, "old"): 5.0, (9, "train"): 8.0}))
    assert str(found) == "others used 90% of the CPU that it needs (train, pid 9: 0.8 cores)"


def test_nothing_is_known_without_time_or_cpus() -> None:
    assert foreign_use(times(1, 0), times(1, 0), 1.0) is None
    assert foreign_use(times(1), times(2), 1.0) is None


@dataclass
class Machine:
    """Two CPUs: the measurement uses one of them, others `load(now)` of the second."""

    load: Callable[[float], float]
    clock: VirtualClock = field(default_factory=VirtualClock)
    used_s: float = 0.0
    measured: int = 0
    said: list[str] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Time goes by in steps of a tenth."""
        for _ in range(round(10 * seconds)):
            self.used_s += 0.1 * self.load(self.clock.monotonic_s())
            self.clock.wait(0.1)

    def cpu_times(self) -> CpuTimes | None:
        now_s = self.clock.monotonic_s()
        return times(now_s, now_s, self.used_s, own_s=now_s)

    def measure(self, tried: int = 0) -> ProfilePoint:
        self.run(POINT_S)
        self.measured += 1
        return ProfilePoint(1.0, 4, 0.1 * self.measured)

    def watch(self, wait_s: float) -> QuietWatch:
        return QuietWatch(wait_s, self.run, self.said.append)


def test_what_is_quiet_is_measured_once_and_not_marked() -> None:
    machine = Machine(lambda _: 0.1)
    watch = machine.watch(60.0)
    _point, ratio = watch.measured(machine, 1.0, "batch 4", machine.measure)
    assert (machine.measured, ratio, watch.is_seen) == (1, None, True)
    assert machine.said == []


def test_what_is_disturbed_is_measured_again_once_it_is_quiet() -> None:
    machine = Machine(lambda now_s: 1.0 if now_s < 10 else 0.0)
    watch = machine.watch(60.0)
    point, ratio = watch.measured(machine, 1.0, "batch 4", machine.measure)
    assert (machine.measured, ratio) == (2, None)
    assert point.latency_s == pytest.approx(0.2), "of the second measurement"
    assert machine.said == [
        "  1 core, batch 4: others used 50% of the 2 CPUs that it needs; waiting up to 60 s for quiet"
    ]


def test_what_stays_disturbed_is_marked_and_the_time_to_wait_is_of_all() -> None:
    machine = Machine(lambda _: 0.8)
    watch = machine.watch(5.0)
    ratios = [watch.measured(machine, 1.0, "batch 4", machine.measure)[1] for _ in range(4)]
    assert set(ratios) == {0.4}
    assert machine.measured == 4
    spent_s = machine.clock.monotonic_s() - 4 * POINT_S
    assert spent_s < 5.0 + 4 * 1.0, "one look for each point once the time is over"


def test_short_disturbances_have_the_least_disturbed_of_a_few_measurements_kept() -> None:
    # Quiet whenever it is looked for, disturbed while measured, the second time least.
    machine = Machine(lambda _: 0.0)
    shares = iter([0.9, 0.4, 0.6])

    def measure(tried: int) -> ProfilePoint:
        machine.used_s += POINT_S * next(shares)
        return machine.measure()

    point, ratio = machine.watch(60.0).measured(machine, 1.0, "batch 4", measure)
    assert machine.measured == TRIES
    assert (point.latency_s, ratio) == (pytest.approx(0.2), 0.2)


def test_a_machine_that_is_not_seen_has_all_measured_once() -> None:
    machine = Machine(lambda _: 1.0)
    machine.cpu_times = lambda: None  # type: ignore[method-assign]
    watch = machine.watch(60.0)
    _point, ratio = watch.measured(machine, 1.0, "batch 4", machine.measure)
    assert (machine.measured, ratio, watch.is_seen) == (1, None, False)
