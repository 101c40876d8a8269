"""Requests for what-if plans, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Bounds, Goal, Objective, Pipeline
from ipa.model.plan import Plan
from ipa.optimize.problem import Compat
from ipa.policies.planning import PlanQuestion
from ipa.profiling.points import Allocation
from ipa.service.service import Service
from ipa.service.status import live_of


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A what-if. Without `rate_rps` it is for the forecast's upper quantile, else for the observed rate.

    `bounds` and `weights` (α, β and δ of the objective) replace those of their names.
    """

    rate_rps: float | None = None
    objective: str | None = None
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE
    solver: str = "auto"
    sla_s: float | None = None
    bounds: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    def varied(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the replaced SLA, bounds and weights.

        NotFoundError for an unknown objective; InputError for a contradiction.
        """
        name = self.objective or pipeline.default_objective
        objective = pipeline.objective(name)
        if self.sla_s is not None:
            objective = replace(objective, sla_s=self.sla_s)
        # What is not replaced stays the same object, which a planner that has it need not be sent again.
        objective, bounds = _weighed(objective, self.weights), pipeline.bounds
        if self.bounds:
            bounds = replace(bounds, **self.bounds)
            _check_transition(bounds)
        return replace(pipeline, bounds=bounds, objectives={**pipeline.objectives, name: objective})


def what_if(service: Service, pipeline: Pipeline, request: PlanRequest) -> PlanQuestion:
    """The question of the request. InputError if there is no rate; others as of `PlanRequest.varied`."""
    rate_rps = request.rate_rps or known_rate(service, pipeline)
    if not rate_rps:
        problem = Problem("no load was seen yet, so a rate must be given", pointer="/rate_rps")
        raise InputError("there is no rate to plan for", problems=[problem])
    objective = request.objective or pipeline.default_objective
    varied, profiles = request.varied(pipeline), service.profiles(pipeline.name)
    return PlanQuestion(varied, profiles, rate_rps, objective, request.compat, request.allocation)


def known_rate(service: Service, pipeline: Pipeline) -> float | None:
    """The forecast's upper quantile, else the observed rate; None if neither is known."""
    live = live_of(service, pipeline.name)
    return live.forecast.upper_rps if live.forecast else live.rate_rps


async def plan_for(service: Service, question: PlanQuestion, solver: str) -> Plan:
    """The plan that answers the question; infeasible is a termination, not an error."""
    return await service.planner.plan(question, solver, service.settings.solver_deadline_s)


def _weighed(objective: Objective, weights: Mapping[str, Any]) -> Objective:
    """The objective with those weights; InputError if its goal is an order and has no weights."""
    if weights and objective.goal is not Goal.WEIGHTED:
        message = f"objective {objective.name!r} has the goal {objective.goal.value}, which has no weights"
        raise InputError("there is nothing to weigh", problems=[Problem(message, pointer="/weights")])
    return replace(objective, **weights) if weights else objective


def _check_transition(bounds: Bounds) -> None:
    """InputError if fewer cores are allowed during a change than at rest."""
    most, rest = bounds.transition_cores, bounds.cores or 0.0
    if most is not None and most < rest:
        message = f"{most:g} cores during a change are below the {rest:g} at rest"
        problem = Problem(message, pointer="/bounds/transition_cores")
        raise InputError("the bounds contradict each other", problems=[problem])
