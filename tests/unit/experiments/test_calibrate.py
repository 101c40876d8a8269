"""Calibration of profiles of another machine, by a bench whose time is virtual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.live.calibration import calibrate
from ipa.model.errors import UnavailableError
from ipa.model.profile import LEAST_SLOWDOWN, MOST_SLOWDOWN, Slowdown, StageProfile
from ipa.profiling.measure import BatchMeasurement, Item, foreign_to
from tests.fakes.clock import VirtualClock
from tests.fakes.policy_contract import PROFILES

HERE = "a slower machine"
ITEMS: list[Item] = [[{"name": "x", "data": [number]}] for number in range(5)]
EACH = [(stage.stage, variant.variant) for stage in PROFILES.values() for variant in stage.variants]


def mean_s(profile: StageProfile, variant: str, cores: float, batch_size: int) -> float:
    return next(
        point.latency_mean_s or point.latency_s
        for point in profile.variant(variant).points
        if (point.cores, point.batch_size) == (cores, batch_size)
    )


@dataclass
class Replica:
    clock: VirtualClock
    profile: StageProfile
    variant: str
    cores: float
    ratio: float
    readiness_s: float

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        latency_s = mean_s(self.profile, self.variant, self.cores, len(items)) * self.ratio
        self.clock.wait(latency_s)
        return BatchMeasurement(latency_s, ())

    def memory_gib(self) -> float:
        return 1.0


@dataclass
class Bench:
    """Its variants take `ratios` times their profile; servers are ready after `readiness_s`."""

    clock: VirtualClock
    ratios: dict[tuple[str, str], float]
    readiness_s: float = 0.1
    broken: frozenset[tuple[str, str]] = frozenset()
    hardware: str = HERE
    method: str = "fake"
    served: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def serve(self, stage: str, variant: str, cores: float, within_s: float = 60.0) -> Iterator[Replica]:
        self.served.append((stage, variant, cores))
        if (stage, variant) in self.broken:
            raise UnavailableError("it did not get ready")
        self.clock.wait(min(self.readiness_s, within_s))
        if self.readiness_s > within_s:
            raise UnavailableError("it did not get ready")
        ratio = self.ratios.get((stage, variant), 1.0)
        yield Replica(self.clock, PROFILES[stage], variant, cores, ratio, self.readiness_s)


ITEMS_OF = dict.fromkeys(PROFILES, ITEMS)
ALL = tuple(PROFILES.values())


def bench(ratios: Sequence[float], **faults: object) -> Bench:
    return Bench(VirtualClock(), dict(zip(EACH, ratios, strict=True)), **faults)  # type: ignore[arg-type]


def measured(on: Bench, budget_s: float = 20.0) -> dict[tuple[str, str], float]:
    known = calibrate(on, ALL, ITEMS_OF, on.clock.monotonic_s() + budget_s, on.clock.monotonic_s)
    return {(each.stage, each.variant): each.ratio for each in known.slowdowns}


def test_profiles_of_this_machine_are_told_from_others() -> None:
    mine, other = (replace(ALL[0], hardware=name) for name in (HERE, "another"))
    assert foreign_to(HERE, (mine, other)) == (other,)


@given(st.lists(st.sampled_from([0.5, 0.8, 1.3, 2.0, 4.0]), min_size=len(EACH), max_size=len(EACH)))
def test_each_variant_has_the_slowdown_that_was_measured(ratios: list[float]) -> None:
    on = bench(ratios)
    assert measured(on) == {key: pytest.approx(ratio) for key, ratio in zip(EACH, ratios, strict=True)}
    assert on.clock.monotonic_s() <= 20.0
    assert all(cores <= 1 for _, _, cores in on.served)


def test_a_variant_that_takes_its_profiled_time_is_not_listed() -> None:
    assert measured(bench([1.0] * len(EACH))) == {}


def test_a_machine_beyond_all_bounds_is_taken_at_the_bound() -> None:
    assert set(measured(bench([100.0] * len(EACH)), 10_000.0).values()) == {MOST_SLOWDOWN}
    assert set(measured(bench([0.001] * len(EACH))).values()) == {LEAST_SLOWDOWN}


@pytest.mark.parametrize("budget_s", [0.0, 1.0, 5.0, 20.0])
def test_no_measurement_begins_that_would_end_too_late(budget_s: float) -> None:
    """By the profile: what is as slow as measured ends it a little later, by one least measurement."""
    on = bench([3.0] * len(EACH))
    budgets_s = measured(on, budget_s)
    assert on.clock.monotonic_s() <= budget_s + 3.0 * 7 * max(
        mean_s(stage, variant.variant, 1.0, 1) for stage in ALL for variant in stage.variants
    )
    # Those without time take what the others do.
    assert set(budgets_s.values()) == ({3.0} if on.served else set())


def test_a_variant_that_is_not_measured_takes_the_mean_of_its_stage() -> None:
    ratios = [2.0 if stage == EACH[0][0] else 1.5 for stage, _ in EACH]
    stage, variant = EACH[0]
    on = bench(ratios, broken=frozenset({(stage, variant)}))
    known = calibrate(on, ALL, ITEMS_OF, 20.0, on.clock.monotonic_s)
    assert known.ratio(stage, variant) == 2.0
    assert f"not measured: {stage}={variant}" in known.detail
    assert "it did not get ready" in known.detail


def test_nothing_measured_changes_no_plan_and_says_why() -> None:
    on = bench([2.0] * len(EACH), readiness_s=100.0)
    known = calibrate(on, ALL, ITEMS_OF, 20.0, on.clock.monotonic_s)
    assert known.slowdowns == ()
    assert on.clock.monotonic_s() <= 20.0
    assert "not measured" in known.detail
    assert "it did not get ready" in known.detail


def test_each_factor_is_known_and_both_machines() -> None:
    known = calibrate(bench([2.0] * len(EACH)), ALL, ITEMS_OF, 20.0, lambda: 0.0)
    assert (known.profiled_on, known.machine) == ((ALL[0].hardware,), HERE)
    assert known.slowdowns == tuple(Slowdown(*key, 2.0) for key in EACH)
