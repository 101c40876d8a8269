"""Rivals that decide less than our policy, and `ours-frugal`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipa.model.observation import Forecast, Observation
from ipa.model.pipeline import Bounds, Goal, Objective, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import Configs, Planner, PolicyState, SlaScaledPlanner, constrained
from ipa.policies.ours import Ours, best_plan, upper_rate_rps
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


# Floors are compared with sums of floats.
ROUNDING = 1e-9
# The weight of accuracy beside cores, relative to the objective: it decides among plans of equal cores.
TIE_RATIO = 1e-3
# The price of starting a core, relative to running one for an interval: while it loads, about 7 s of 10, the
# replaced one is paid as well, and a change holds for an interval or two.
STARTING_RATIO = 0.3
# Weight of accuracy that decides if IPA's program is indifferent between two plans.
PREFERRED_RATIO = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Frugal:
    """Takes the fewest cores at no less than the accuracy of `published`, IPA's plan for the same load.

    `planner` and `shorter` weigh cores alone (`thrifty`). If IPA has no plan, or no plan in time is as
    accurate, it decides as `inner`. Like IPA it applies each plan at once; the price of changes prevents
    oscillation.
    """

    inner: Ours
    published: Planner
    planner: Planner
    shorter: SlaScaledPlanner
    name: str = "ours-frugal"

    def at_once(self, running: Configs) -> bool:
        """Always true: the running configuration may be more accurate, and worth more, than required."""
        return True

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan with the fewest cores, or that of `inner` if there is none."""
        pipeline = constrained(self.inner.pipeline, state)
        floor = self.published(pipeline, upper_rate_rps(forecast)).pas
        if floor is not None:
            floor = max(floor * (1 - ROUNDING), pipeline.bounds.accuracy_floor or 0.0)
            asked = replace(pipeline, bounds=replace(pipeline.bounds, accuracy_floor=floor))
            plan = best_plan(self.planner, self.shorter, asked, forecast, state.running)
            if plan.stages:
                return plan
        return self.inner.decide(observation, forecast, state)


def thrifty(pipeline: Pipeline, name: str | None) -> Pipeline:
    """Return the pipeline with an objective of cores, with accuracy as the tie-breaker."""
    own = pipeline.objective(name)
    starting = max(own.transition_per_core, STARTING_RATIO * own.beta)
    return _asked(
        pipeline,
        replace(own, goal=Goal.WEIGHTED, alpha=TIE_RATIO * own.alpha, transition_per_core=starting),
    )


def accurate(pipeline: Pipeline, name: str | None) -> Pipeline:
    """Return the pipeline with an objective that prefers the more accurate of plans with equal worth."""
    own = pipeline.objective(name)
    return _asked(pipeline, replace(own, alpha=own.alpha * PREFERRED_RATIO))


def _asked(pipeline: Pipeline, objective: Objective) -> Pipeline:
    return replace(pipeline, objectives={**pipeline.objectives, objective.name: objective})
