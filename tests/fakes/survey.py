"""Explanations and frontiers in this process, as the API's own computed beside it are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.explain import explain
from ipa.optimize.explanation import Explanation
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.policies.planning import planning_problem


class HereSurvey:
    """A surveyor over the profiles of pipelines by name."""

    def __init__(self, profiles: Callable[[str], Mapping[str, StageProfile]]) -> None:
        self._profiles = profiles

    async def explain(
        self, pipeline: Pipeline, rate_rps: float, plan: Plan, *, deadline_s: float, **options: Any
    ) -> Explanation:
        """Why that is the plan."""
        problem = planning_problem(pipeline, self._profiles(pipeline.name), rate_rps, **options)
        return explain(problem, plan, deadline_s)

    async def frontier(
        self, pipeline: Pipeline, rate_rps: float, *, deadline_s: float, **options: Any
    ) -> tuple[FrontierPoint, ...]:
        """The plans that none betters."""
        problem = planning_problem(pipeline, self._profiles(pipeline.name), rate_rps, **options)
        return frontier(problem, deadline_s)
