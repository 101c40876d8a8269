"""Plans: the best configuration of every stage, and its predicted performance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from ipa.model.forms import Count, PositiveNumber
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.resources import CORES, NO_RESOURCES, Resources, total, words_of

# The share of a configuration that runs alone.
WHOLE_PERCENT = 100
# The period of Linux CFS bandwidth control: a container may use cores × 100 ms in each.
CFS_PERIOD_S = 0.1


def quota_cores(cores: float) -> float:
    """The CPU quota of a replica with less than one core, one thread at a time; 0 for larger replicas."""
    return cores if cores < 1 else 0.0


class Termination(StrEnum):
    """The end of a solve (the vocabulary of OR-Tools MathOpt)."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    NO_SOLUTION_FOUND = "no_solution_found"


def cores_of(count: float | None) -> str:
    """The number of cores with its unit."""
    return "– cores" if count is None else f"{count:g} {words_of(CORES, count)}"


@dataclass(frozen=True, slots=True)
class StageConfig:
    """The configuration of a stage: variant, batch size, cores of a replica, and number of replicas.

    If several configurations run side by side, `share_percent` of the pipeline's requests go to the one that
    contains this (`ipa.model.parts`).
    """

    stage: str
    variant: str
    batch_size: Count
    cores: PositiveNumber
    replicas: Count
    share_percent: int = WHOLE_PERCENT

    @property
    def total_cores(self) -> float:
        """Cores of all replicas together."""
        return self.cores * self.replicas

    def __str__(self) -> str:
        words = f"{self.stage}={self.variant} b{self.batch_size} {self.replicas}×{cores_of(self.cores)}"
        return words if self.share_percent == WHOLE_PERCENT else f"{words} for {self.share_percent} %"


def in_millicores(configs: Iterable[StageConfig]) -> tuple[StageConfig, ...]:
    """The configurations with their cores in whole millicores, the finest quantity of CPU in Kubernetes."""
    return tuple(replace(config, cores=round(config.cores * 1000) / 1000) for config in configs)


def in_words(configs: Iterable[StageConfig]) -> str:
    """All configurations on one line; empty if there are none."""
    return ", ".join(str(config) for config in configs)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage's configuration and its predicted performance at its arrival rate.

    `capacity_rps` is that of one replica (h), `latency_s` the service latency of all items of a request at
    the stage, `queue_delay_s` the wait before it, `utilisation_ratio` ρ = λ/(n·h). `items` are those of one
    request. The mean time at the stage is `mean_s`; its quantile at the SLA's percentile lies `excess_s`
    above: along a path means add, and so do the squares of the excesses. `slowdown_ratio` is the planned time
    of a batch over its profile's.
    """

    stage: str
    variant: str
    batch_size: int
    cores: float
    replicas: int
    rate_rps: float
    capacity_rps: float
    latency_s: float
    queue_delay_s: float
    utilisation_ratio: float
    accuracy: float
    items: float = 1.0
    mean_s: float = 0.0
    excess_s: float = 0.0
    share_percent: int = WHOLE_PERCENT
    slowdown_ratio: float = 1.0
    # The resources of one replica beside its cores.
    beside: Resources = field(default=NO_RESOURCES, metadata=UNLESS_DEFAULT)

    @property
    def config(self) -> StageConfig:
        """The configuration that is written to the workload."""
        return StageConfig(
            self.stage, self.variant, self.batch_size, self.cores, self.replicas, self.share_percent
        )


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan in short; `objective` is the value of the goal."""

    objective: float
    pas: float
    cost_cores: float
    latency_s: float
    configs: tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The best configuration found for a rate, or several that share it, or the reason for none.

    `objective` is None exactly if there is no configuration; `pas` is the product of the stages' accuracies
    whatever the objective used. `note` has remarks for the reader (which solver `auto` took and why);
    `relaxations` tells, for an infeasible plan, what would make it feasible. For a plan that lets requests
    wait while a peak lasts, `peak_rps` is that peak and `rate_rps` the sustained rate; else it is None.
    """

    pipeline: str
    rate_rps: float
    termination: Termination
    solver: str
    objective: float | None
    bound: float | None
    gap: float | None
    pas: float | None
    cost_cores: float | None
    latency_s: float | None
    sla_s: float
    solve_s: float
    stages: tuple[StagePlan, ...]
    objective_name: str = "default"
    note: str = ""
    relaxations: tuple[str, ...] = ()
    peak_rps: float | None = None
    # The price of its resources, if the pipeline has prices.
    cost_usd_per_hour: float | None = field(default=None, metadata=UNLESS_DEFAULT)
    # Of records of plans that shared the rate over parts: the best plan of one configuration.
    single: PlanSummary | None = field(default=None, metadata=UNLESS_DEFAULT)
    # Of records: the value of one unit more of each limit.
    prices: tuple[tuple[str, float], ...] = field(default=(), metadata=UNLESS_DEFAULT)

    @property
    def summary(self) -> PlanSummary | None:
        """The plan in short; None without a configuration."""
        if self.objective is None or self.pas is None or self.cost_cores is None or self.latency_s is None:
            return None
        return PlanSummary(self.objective, self.pas, self.cost_cores, self.latency_s, self.configs)

    @property
    def resources(self) -> Resources:
        """The resources of all replicas, overhead included."""
        beside = total(stage.beside * stage.replicas for stage in self.stages)
        return beside + Resources(cpu_cores=self.cost_cores or 0.0)

    @property
    def cost(self) -> float | None:
        """USD an hour; cores if the pipeline has no prices."""
        return self.cost_cores if self.cost_usd_per_hour is None else self.cost_usd_per_hour

    @property
    def carried_rps(self) -> float:
        """The highest rate that the plan is for: the peak if it lets requests of a peak wait."""
        return self.rate_rps if self.peak_rps is None else self.peak_rps

    @property
    def is_late(self) -> bool:
        """True if the plan exceeds the SLA because no plan meets it (beyond rounding)."""
        return self.latency_s is not None and self.latency_s > self.sla_s * (1 + 1e-9)

    @property
    def configs(self) -> tuple[StageConfig, ...]:
        """The configuration of every stage, in order, of each part; empty without one."""
        return tuple(stage.config for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values, with the keys of docs/reference."""
        values = {**asdict(self), "termination": self.termination.value}
        return {name: value for name, value in values.items() if value or name not in ("single", "prices")}
