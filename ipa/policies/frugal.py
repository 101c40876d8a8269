"""The policy `frugal`: the accuracy of IPA's plan with the fewest cores that carry the load."""

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
