"""The plans of a fleet with their members' names and performance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ipa.model.errors import SolverError
from ipa.model.plan import Plan
from ipa.optimize.describe import describe
from ipa.optimize.fleet.plan import FleetPlan, Member, plan_fleet


@dataclass(frozen=True, slots=True)
class Fleet:
    """The members and their plans, in the order asked, and the fleet's sums."""

    members: tuple[Member, ...]
    plans: tuple[Plan, ...]
    found: FleetPlan

    def to_json(self) -> dict[str, Any]:
        """The fleet as plain JSON values."""
        found = self.found
        return {
            "budget_cores": found.budget_cores,
            "cost_cores": found.cost_cores,
            "worth": found.worth,
            "termination": found.termination.value,
            "solve_s": found.solve_s,
            "classes": [
                {
                    "class": each.priority,
                    "budget_cores": each.budget_cores,
                    "cost_cores": each.cost_cores,
                    "worth": each.worth,
                    # Infinite if the time was up before a bound was known; JSON has no infinity.
                    "bound": each.bound if isfinite(each.bound) else None,
                    "gap": each.gap if isfinite(each.gap) else None,
                    "price_per_core": each.price,
                    "termination": each.termination.value,
                }
                for each in found.classes
            ],
            "pipelines": [
                {
                    "weight": member.weight,
                    "class": member.priority,
                    "worth": each.worth,
                    "plan": plan.to_json(),
                }
                for member, each, plan in zip(self.members, found.members, self.plans, strict=True)
            ],
        }


def plan_together(members: Sequence[Member], budget_cores: float, deadline_s: float) -> Fleet:
    """Plan the members together. Errors: those of `plan_fleet`; SolverError if a plan is invalid."""
    found = plan_fleet(members, budget_cores, deadline_s)
    plans = []
    for member, each in zip(members, found.members, strict=True):
        plan = describe(member.problem, each.configs)
        if plan is None:
            raise SolverError(f"the fleet's plan for pipeline {each.pipeline!r} was not measured")
        plans.append(plan)
    return Fleet(tuple(members), tuple(plans), found)
