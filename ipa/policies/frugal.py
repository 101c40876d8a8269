"""The accuracy that IPA would have now, with the fewest cores that carry the load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Goal, Objective, Pipeline
from ipa.model.plan import Plan
from ipa.policies.base import Configs, Planner, PolicyState, SlaScaledPlanner, constrained
from ipa.policies.ours import Ours, best_plan, upper_rate_rps

# Floors are compared with sums of floats.
ROUNDING = 1e-9
# What accuracy is worth beside cores, relative to the objective: it chooses among plans of as many cores.
TIE_RATIO = 1e-3
# A core that starts costs so much of a core that runs for an interval: while it loads, what it replaces is
# paid as well, some 7 s of 10, and the change holds for an interval or two.
STARTING_RATIO = 0.3
# So much more is accuracy worth where IPA's program is indifferent between two plans.
PREFERRED_RATIO = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Frugal:
    """Takes the fewest cores at no less than the accuracy of `published`, IPA's plan for the same load.

    `planner` and `shorter` weigh cores alone (`thrifty`). Where IPA has no plan, or nothing is as accurate in
    time, it decides as `inner`. As IPA it takes each plan at once; that changes have a price keeps it calm.
    """

    inner: Ours
    published: Planner
    planner: Planner
    shorter: SlaScaledPlanner
    name: str = "ours-frugal"

    def at_once(self, running: Configs) -> bool:
        """Always: what runs may be worth more by the objective, as it may be more accurate than is asked."""
        return True

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan with the fewest cores; that of `inner` where there is none."""
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
    """The pipeline with an objective that weighs cores, and accuracy only where cores are equal."""
    own = pipeline.objective(name)
    starting = max(own.transition_per_core, STARTING_RATIO * own.beta)
    return _asked(
        pipeline,
        replace(own, goal=Goal.WEIGHTED, alpha=TIE_RATIO * own.alpha, transition_per_core=starting),
    )


def accurate(pipeline: Pipeline, name: str | None) -> Pipeline:
    """The pipeline with an objective that prefers the more accurate of plans that are worth the same."""
    own = pipeline.objective(name)
    return _asked(pipeline, replace(own, alpha=own.alpha * PREFERRED_RATIO))


def _asked(pipeline: Pipeline, objective: Objective) -> Pipeline:
    return replace(pipeline, objectives={**pipeline.objectives, objective.name: objective})
