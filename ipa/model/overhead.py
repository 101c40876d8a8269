"""Overhead of a target beside a pipeline's replicas, such as an orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipa.model.parts import parts_of
from ipa.model.plan import StageConfig


@dataclass(frozen=True, slots=True)
class Overhead:
    """Cores beside each part (`fixed_cores`), and those beside each replica of some stages, by name.

    One configuration alone is one part; of several side by side each has an orchestrator of its own.
    """

    fixed_cores: float = 0.0
    each_cores: tuple[tuple[str, float], ...] = ()

    def each(self, stage: str) -> float:
        """Overhead cores of each replica of the stage."""
        return next((cores for name, cores in self.each_cores if name == stage), 0.0)

    def held(self, config: StageConfig) -> StageConfig:
        """Return the configuration with a replica's cores including its overhead."""
        beside = self.each(config.stage)
        return replace(config, cores=config.cores + beside) if beside else config

    def cores(self, configs: Sequence[StageConfig]) -> float:
        """Cores of all replicas of all stages, overhead included."""
        parts = max(1, len(parts_of(configs)))
        return parts * self.fixed_cores + sum(self.held(config).total_cores for config in configs)


NO_OVERHEAD = Overhead()


@dataclass(frozen=True, slots=True)
class FrontCores:
    """Router and queues that share a machine with the replicas: `request_s` is their CPU time a request.

    `machine_cores` are those that all of them have together.
    """

    machine_cores: float
    request_s: float

    def left_cores(self, rate_rps: float) -> float:
        """The cores that are left to the replicas at that rate."""
        return max(0.0, self.machine_cores - self.request_s * rate_rps)
