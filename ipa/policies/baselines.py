"""Rivals that decide less than our policy, and the bound for any forecaster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Bounds, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import Policy, PolicyState
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.policies.rules import plan_of


@dataclass(frozen=True, slots=True)
class Static:
    """Keeps `configs`, or the running configuration if none are given."""

    profiled: Profiled
    configs: tuple[StageConfig, ...] = ()
    name: str = "static"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration as a plan for the forecast, or for as much of it as it carries.

        InputError if the configuration was not measured.
        """
        return plan_of(self.profiled, self.configs or state.running, forecast, self.name)


# RIM over-provisions statically; four of each is our choice, not a published figure.
RIM_REPLICAS = 4


def fa2(pipeline: Pipeline, profiled: Profiled, *, heavy: bool) -> Ours:
    """FA2: decides batch sizes and replicas; every stage has its least or its most accurate variant.

    Only variants with a base allocation count: without one no replica carries the threshold.
    """
    stages = tuple(_lone(stage, profiled.variants(stage.name), heavy) for stage in pipeline.stages)
    name = "fa2-high" if heavy else "fa2-low"
    return Ours(replace(pipeline, stages=stages), profiled.plan, name, profiled.offers, profiled.probe)


def _lone(stage: Stage, ranked: Sequence[str], heavy: bool) -> Stage:
    return replace(stage, variants=(stage.variant(ranked[-1 if heavy else 0]),)) if ranked else stage


def rim(pipeline: Pipeline, profiled: Profiled, replicas: int = RIM_REPLICAS) -> Ours:
    """RIM: decides variants and batch sizes; every stage has `replicas`, or the nearest allowed number."""
    stages = tuple(_fixed(stage, pipeline.bounds, replicas) for stage in pipeline.stages)
    return Ours(replace(pipeline, stages=stages), profiled.plan, "rim", profiled.offers, profiled.probe)


def _fixed(stage: Stage, bounds: Bounds, replicas: int) -> Stage:
    limits = stage.limits(bounds)
    count = max(replicas, limits.min_replicas or 1)
    count = count if limits.max_replicas is None else min(count, limits.max_replicas)
    return replace(stage, bounds=replace(stage.bounds, min_replicas=count, max_replicas=count))


# The rate at a time of the world's clock, in requests a second.
Future = Callable[[float], float]
STEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Oracle:
    """Plans with `inner` for the highest true rate within the horizon."""

    inner: Policy
    future: Future
    name: str = "oracle"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for the true peak from now to the end of the forecast's horizon, in steps of 1 s."""
        steps = max(1, round(forecast.horizon_s / STEP_S))
        peak_rps = max(max(self.future(state.now_s + STEP_S * step), 0.0) for step in range(steps + 1))
        true = replace(
            forecast, point_rps=peak_rps, upper_rps=peak_rps, quantile=1.0, rung=self.name, peak_s=STEP_S
        )
        return self.inner.decide(observation, true, state)
