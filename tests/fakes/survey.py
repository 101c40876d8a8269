"""Plans, explanations and frontiers in this process, as the service has them computed beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ipa.model.plan import Plan
from ipa.optimize.explain import Explanation
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion, explain_plan


async def plan_here(question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
    """The best plan for the rate."""
    return solve(question.problem(), solver, deadline_s)


async def explain_here(question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
    """The reasons of that plan."""
    return explain_plan(question, plan, deadline_s)


async def frontier_here(question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
    """The plans that none betters."""
    return frontier(question.problem(), deadline_s)


@dataclass(frozen=True)
class FakePlanner:
    """A planner of these functions; by default they compute here."""

    plan: Callable[..., Awaitable[Plan]] = plan_here
    explain: Callable[..., Awaitable[Explanation]] = explain_here
    frontier: Callable[..., Awaitable[tuple[FrontierPoint, ...]]] = frontier_here
