"""The question: which option of each stage is best for a rate, within an SLA and bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from ipa.model.errors import InputError
from ipa.model.errors import Problem as Fault
from ipa.model.pipeline import Bounds, Objective
from ipa.model.profile import OperatingPoint
from ipa.queueing.chain import items_per_request


class Compat(StrEnum):
    """Whose queueing term is charged.

    `paper`: the formula of the IPA paper. `ipa-artifact`: that of the authors' released program, which is
    negative (see `ipa.queueing.formation.released_wait_s`); for comparing decisions with theirs.
    """

    PAPER = "paper"
    IPA_ARTIFACT = "ipa-artifact"


@dataclass(frozen=True, slots=True)
class StageProblem:
    """A stage and everything one of its replicas can do. `batch_timeout_s` None: batches wait until full."""

    name: str
    fan_out: float
    points: tuple[OperatingPoint, ...]
    batch_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A chain of stages, the rate it must carry, and what is worth what.

    InputError lists everything that makes no sense in it.
    """

    pipeline: str
    rate_rps: float
    sla_s: float
    stages: tuple[StageProblem, ...]
    objective: Objective
    bounds: Bounds = field(default_factory=Bounds)
    compat: Compat = Compat.PAPER

    def __post_init__(self) -> None:
        faults = [*_faults_of_numbers(self), *_faults_of_stages(self)]
        if faults:
            raise InputError(f"pipeline {self.pipeline!r} cannot be planned", problems=faults)

    @property
    def items(self) -> tuple[float, ...]:
        """Items of one request at each stage."""
        return items_per_request([stage.fan_out for stage in self.stages])

    @property
    def batch_sizes(self) -> int:
        """K, the number of different batch sizes over all stages together."""
        return len({p.batch_size for stage in self.stages for p in stage.points if self.allows(p)})

    def allows(self, point: OperatingPoint) -> bool:
        """Whether the point's batch size is one that objective and bounds allow."""
        largest, listed = self.objective.max_batch_size, self.bounds.batch_sizes
        return (largest is None or point.batch_size <= largest) and (
            listed is None or point.batch_size in listed
        )

    @property
    def max_replicas(self) -> int | None:
        """The tighter of the bounds' and the objective's replica limits; None is no limit."""
        limits = [self.bounds.max_replicas, self.objective.max_replicas]
        return min((limit for limit in limits if limit is not None), default=None)


def _faults_of_numbers(problem: Problem) -> list[Fault]:
    faults = [
        Fault(f"{name} must be a finite number above 0, not {value!r}")
        for name, value in (("rate_rps", problem.rate_rps), ("sla_s", problem.sla_s))
        if not (isfinite(value) and value > 0)
    ]
    weights = {
        "alpha": problem.objective.alpha,
        "beta": problem.objective.beta,
        "delta": problem.objective.delta,
    }
    faults += [
        Fault(f"weight {name} of objective {problem.objective.name!r} must be finite and ≥ 0, not {value!r}")
        for name, value in weights.items()
        if not (isfinite(value) and value >= 0)
    ]
    return faults


def _faults_of_stages(problem: Problem) -> list[Fault]:
    if not problem.stages:
        return [Fault("it has no stages")]
    faults = [
        Fault(f"stage {stage.name!r}: fan_out must be above 0, not {stage.fan_out!r}")
        for stage in problem.stages
        if not stage.fan_out > 0
    ]
    faults += [
        Fault(
            f"stage {stage.name!r}: {point} needs a latency, capacity, batch size and cores above 0 and an "
            f"accuracy ≥ 0"
        )
        for stage in problem.stages
        for point in stage.points
        if not _makes_sense(point)
    ]
    return faults


def _makes_sense(point: OperatingPoint) -> bool:
    positive = (point.latency_s, point.capacity_rps, point.cores, point.batch_size)
    return all(isfinite(value) and value > 0 for value in positive) and point.accuracy >= 0
