"""A bench of the pipeline of the contracts whose time is virtual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ipa.model.errors import UnavailableError
from ipa.model.profile import StageProfile
from ipa.profiling.measure import BatchMeasurement, Item
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
