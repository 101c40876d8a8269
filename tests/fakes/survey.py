"""Plans, explanations and frontiers in this process, as the service has them computed beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.explain import explain
from ipa.optimize.explanation import Explanation
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.policies.planning import plan_pipeline, planning_problem

Profiles = Mapping[str, StageProfile]


async def plan_here(pipeline: Pipeline, profiles: Profiles, rate_rps: float, **options: Any) -> Plan:
    """The best plan for the rate."""
    return plan_pipeline(pipeline, profiles, rate_rps, **options)


async def explain_here(
    pipeline: Pipeline, profiles: Profiles, rate_rps: float, plan: Plan, *, deadline_s: float, **options: Any
) -> Explanation:
    """Why that is the plan."""
    return explain(planning_problem(pipeline, profiles, rate_rps, **options), plan, deadline_s)


async def frontier_here(
    pipeline: Pipeline, profiles: Profiles, rate_rps: float, *, deadline_s: float, **options: Any
) -> tuple[FrontierPoint, ...]:
    """The plans that none betters."""
    return frontier(planning_problem(pipeline, profiles, rate_rps, **options), deadline_s)


@dataclass(frozen=True)
class FakePlanner:
    """A planner of these functions; by default they compute here."""

    plan: Callable[..., Awaitable[Plan]] = plan_here
    explain: Callable[..., Awaitable[Explanation]] = explain_here
    frontier: Callable[..., Awaitable[tuple[FrontierPoint, ...]]] = frontier_here
