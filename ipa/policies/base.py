"""What every policy answers, ours and each rival: the plan for what was seen and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What a policy may lean on beside the observation: what runs, and which variants to leave alone.

    `excluded` holds (stage, variant) pairs whose rollout failed lately; never one that runs.
    """

    running: tuple[StageConfig, ...]
    excluded: frozenset[tuple[str, str]] = frozenset()
    now_s: float = 0.0


class Policy(Protocol):
    """Pure: the same observation, forecast and state give the same plan."""

    @property
    def name(self) -> str:
        """What the policy is called on the command line and in reports."""
        ...

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for `forecast.upper_rps`.

        A plan whose `rate_rps` is lower carries only that much, its `note` says why. Nothing feasible at all
        is a plan with termination INFEASIBLE. Errors: SolverError, InputError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a configuration would do at a rate: `capacity_rps` is that of the whole pipeline, in requests."""

    rate_rps: float
    capacity_rps: float
    latency_s: float
    sla_s: float
    objective: float
    pas: float

    @property
    def carries(self) -> bool:
        """Whether every stage has the throughput the rate needs (forgiving rounding)."""
        return self.capacity_rps >= self.rate_rps * (1 - 1e-9)

    @property
    def feasible(self) -> bool:
        """Whether it carries the rate within the SLA (forgiving rounding)."""
        return self.carries and self.latency_s <= self.sla_s * (1 + 1e-9)


class Predictor(Protocol):
    """Says what a configuration would do. Pure."""

    def __call__(self, configs: Sequence[StageConfig], rate_rps: float) -> Prediction | None:
        """What it would do; None where the profiles do not know it."""
        ...


class Planner(Protocol):
    """The program of the planner with everything but pipeline and rate already chosen. Pure."""

    def __call__(self, pipeline: Pipeline, rate_rps: float) -> Plan:
        """The best plan for that rate, or one with termination INFEASIBLE."""
        ...


def without(pipeline: Pipeline, excluded: frozenset[tuple[str, str]]) -> Pipeline:
    """The pipeline without those variants; a stage that would be left with none keeps all of its own."""
    stages = []
    for stage in pipeline.stages:
        kept = tuple(variant for variant in stage.variants if (stage.name, variant.name) not in excluded)
        stages.append(replace(stage, variants=kept or stage.variants))
    return replace(pipeline, stages=tuple(stages))
