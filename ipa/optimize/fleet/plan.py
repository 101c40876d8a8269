"""Plan a fleet: one plan for each pipeline, within one budget of resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from ipa.model.errors import InfeasibleError, InputError, SolverError
from ipa.model.errors import Problem as Fault
from ipa.model.plan import Plan, StageConfig, Termination, cores_of
from ipa.model.resources import BY_NAME, CORES, Resources, by_field, total
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.fleet.frontiers import FleetFrontiers, offers_of
from ipa.optimize.fleet.joint import plan_jointly, refuse
from ipa.optimize.fleet.knapsack import Selection
from ipa.optimize.fleet.pricing import NoPlan, TooFewCores, best_plans
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import tolerance
from ipa.optimize.solve import solve

# Pipelines without a plan that the error explains; each takes a solve.
EXPLAINED = 5


@dataclass(frozen=True, slots=True)
class Member:
    """A pipeline of the fleet: its problem, and the weight of its objective.

    A higher `priority` is served before a lower one, whatever the weights; weights count within one priority.
    """

    problem: PlanningProblem
    weight: float = 1.0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """The configuration of one pipeline; `worth` is the objective times the weight."""

    pipeline: str
    configs: tuple[StageConfig, ...]
    cost_cores: float
    objective: float
    worth: float


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """The sums of the pipelines of one priority.

    `price` is the worth of one more core (the Lagrange multiplier of the budget), `gap` the distance of the
    bound to the worth, relative above 1. `limits` and `prices` are the budget and the worth of one unit more
    of each resource beside cores that the fleet's budget limits.
    """

    priority: int
    budget_cores: float
    cost_cores: float
    worth: float
    bound: float
    gap: float
    price: float
    termination: Termination
    limits: Mapping[str, float] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """One plan for each member, in the order given; classes by falling priority.

    `limits` are the budgets of resources beside cores, by name.
    """

    members: tuple[MemberPlan, ...]
    classes: tuple[ClassPlan, ...]
    budget_cores: float
    solve_s: float
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def cost_cores(self) -> float:
        """Cores of all pipelines together."""
        return sum(each.cost_cores for each in self.classes)

    @property
    def worth(self) -> float:
        """Worth of all pipelines together."""
        return sum(each.worth for each in self.classes)

    @property
    def termination(self) -> Termination:
        """OPTIMAL if every class is proved best."""
        proved = all(each.termination is Termination.OPTIMAL for each in self.classes)
        return Termination.OPTIMAL if proved else Termination.FEASIBLE


def plan_fleet(
    members: Sequence[Member],
    budget_cores: float,
    deadline_s: float = 5.0,
    limits: Mapping[str, float] | None = None,
) -> FleetPlan:
    """The plans of most worth together within the budget, proved to 1e-9 if time allows.

    `limits` are the budgets of memory and kinds of accelerators, by name; what is not named is unlimited.
    Priorities go in order: the highest gets the most worth that leaves plans to every other pipeline; the
    next gets the most of the rest. Of equally good selections one of fewer cores is taken. The resources are
    those of the plans, not of a change from the running configuration.

    Errors: InputError (weights, budget, names), InfeasibleError (names every pipeline without a plan and why,
    or the missing resources), DeadlineError (no selection was found in time).
    """
    deadline, limits = Deadline(deadline_s), limits or {}
    _check(members, budget_cores, limits)
    order = sorted({member.priority for member in members}, reverse=True)
    groups = [[at for at, member in enumerate(members) if member.priority == each] for each in order]
    plans, classes = _planned(members, order, groups, budget_cores, limits, deadline)
    return FleetPlan(tuple(plans), tuple(classes), budget_cores, deadline.elapsed_s, limits)


Planned = tuple[list[MemberPlan], list[ClassPlan]]


def _planned(
    members: Sequence[Member],
    order: list[int],
    groups: list[list[int]],
    budget_cores: float,
    limits: Mapping[str, float],
    deadline: Deadline,
) -> Planned:
    """The plans within the cores, if they are within the other limits too; else the plans within all."""
    most = {CORES: budget_cores, **limits}
    try:
        found = _by_cores(members, order, groups, budget_cores, deadline)
    except TooFewCores as few:
        if limits:
            refuse([member.problem for member in members], most, deadline)
        raise _too_few(few.cores, budget_cores, len(members)) from few
    held = (each.problem.resources(plan.configs) for each, plan in zip(members, found[0], strict=True))
    if not limits or not total(held).exceeded(limits):
        return found
    return _jointly(members, order, groups, most, deadline)


def _by_cores(
    members: Sequence[Member],
    order: list[int],
    groups: list[list[int]],
    budget_cores: float,
    deadline: Deadline,
) -> Planned:
    """The best plans within the cores alone. Errors: TooFewCores, InfeasibleError, DeadlineError."""
    offers = [_offers(members, group, deadline) for group in groups]
    _refuse_hopeless(members, groups, [each.hopeless for each in offers])
    reserved = _reserved(members, groups, offers, budget_cores, deadline)
    left = budget_cores
    plans: dict[int, MemberPlan] = {}
    classes = []
    for priority, group, offer, kept in zip(order, groups, offers, reserved, strict=True):
        chosen = _best(members, group, offer, left - kept, deadline)
        classes.append(_class_plan(priority, left - kept, chosen))
        plans.update(_member_plans(members, group, offer, chosen))
        left -= chosen.cost_cores
    return [plans[at] for at in range(len(members))], classes


def _jointly(
    members: Sequence[Member],
    order: list[int],
    groups: list[list[int]],
    most: Mapping[str, float],
    deadline: Deadline,
) -> Planned:
    """The best plans within all resources."""
    weights = np.array([member.weight for member in members])
    found = plan_jointly([member.problem for member in members], weights, groups, most, deadline)
    plans = [
        MemberPlan(member.problem.pipeline, configs, cores, worth / member.weight, worth)
        for member, configs, cores, worth in zip(
            members, found.configs, found.cores.tolist(), found.worth.tolist(), strict=True
        )
    ]
    classes = []
    for priority, each in zip(order, found.classes, strict=True):
        (price, *prices), (budget_cores, *limits) = each.prices.tolist(), each.most.tolist()
        classes.append(
            ClassPlan(
                priority=priority,
                budget_cores=budget_cores,
                cost_cores=float(each.use[0]),
                worth=each.worth,
                bound=each.bound,
                gap=(each.bound - each.worth) / max(1.0, abs(each.worth)),
                price=price,
                termination=each.termination,
                limits=dict(zip(list(most)[1:], limits, strict=True)),
                prices=dict(zip(list(most)[1:], prices, strict=True)),
            )
        )
    return plans, classes


def _check(members: Sequence[Member], budget_cores: float, limits: Mapping[str, float]) -> None:
    faults = [
        Fault(
            f"pipeline {member.problem.pipeline!r}: weight must be finite and above 0, not {member.weight!r}"
        )
        for member in members
        if not (isfinite(member.weight) and member.weight > 0)
    ]
    if not budget_cores >= 0:
        faults.append(Fault(f"budget_cores must be at least 0, not {budget_cores!r}"))
    faults += [
        Fault(f"the budget of {name} must be at least 0, not {most!r}")
        for name, most in limits.items()
        if not most >= 0
    ]
    # A kind that no variant has would be a budget of nothing, and another kind unlimited.
    kinds = sorted(_beside(members) - BY_NAME.keys()) if limits else []
    faults += [
        Fault(
            f"no variant of the pipelines has {name!r}; there are: {', '.join(kinds)}",
            pointer=f"/accelerators/{name.replace('/', '~1')}",
        )
        for name in limits
        if kinds and name not in (*kinds, *BY_NAME)
    ]
    names = [member.problem.pipeline for member in members]
    faults += [
        Fault(f"pipeline {name!r} appears twice")
        for name in sorted(name for name, count in Counter(names).items() if count > 1)
    ]
    if not members:
        faults.append(Fault("there are no pipelines"))
    if faults:
        raise InputError("the fleet cannot be planned", problems=faults)


def _beside(members: Sequence[Member]) -> set[str]:
    """The resources beside cores that any variant has."""
    return {name for member in members for stage in member.problem.stages for name in stage.columns.beside}


def _offers(members: Sequence[Member], group: list[int], deadline: Deadline) -> FleetFrontiers:
    weights = np.array([members[at].weight for at in group])
    return offers_of([members[at].problem for at in group], weights, deadline)


def _reserved(
    members: Sequence[Member],
    groups: list[list[int]],
    offers: list[FleetFrontiers],
    budget_cores: float,
    deadline: Deadline,
) -> list[float]:
    """The cores reserved for the classes after each one: the sum of their cheapest plans."""
    if len(groups) == 1:
        return [0.0]
    least = []
    for offer in offers:
        offer.pool.cheapest(deadline)
        least.append(offer.pool.least_cores)
    missing = [tuple(np.flatnonzero(~np.isfinite(each)).tolist()) for each in least]
    _refuse_hopeless(members, groups, missing)
    sums = [float(each.sum()) for each in least]
    if sum(sums) > budget_cores + tolerance(budget_cores):
        raise TooFewCores(sum(sums))
    return [sum(sums[at + 1 :]) for at in range(len(sums))]


def _best(
    members: Sequence[Member],
    group: list[int],
    offer: FleetFrontiers,
    budget_cores: float,
    deadline: Deadline,
) -> Selection:
    try:
        return best_plans(offer.pool, budget_cores, deadline)
    except NoPlan as none:
        _refuse_hopeless(members, [group], [none.who])
        raise


def _too_few(least_cores: float, budget_cores: float, count: int) -> InfeasibleError:
    return InfeasibleError(
        f"{cores_of(budget_cores)} do not hold the cheapest plans of {count} pipelines, which need "
        f"{least_cores:g}: {least_cores - budget_cores:g} cores are missing",
        hint=f"Raise the budget to {cores_of(least_cores)}, take pipelines out, or loosen their limits.",
    )


def _refuse_hopeless(
    members: Sequence[Member], groups: list[list[int]], hopeless: Sequence[Sequence[int]]
) -> None:
    """InfeasibleError if a pipeline has no plan, whatever the budget."""
    none = sorted(group[at] for group, each in zip(groups, hopeless, strict=True) for at in each)
    if none:
        raise InfeasibleError(
            f"{len(none)} of the {len(members)} pipelines have no plan within their own limits",
            problems=[Fault(_why(members[at].problem, said < EXPLAINED)) for said, at in enumerate(none)],
            hint="Loosen the limits named, or take these pipelines out of the fleet.",
        )


def _why(problem: PlanningProblem, explain: bool) -> str:
    text = f"pipeline {problem.pipeline!r} at {problem.rate_rps:g} rps within {problem.sla_s:g} s"
    if not explain:
        return text
    plan = solve(problem, "exact", 1.0)
    moves = " or ".join(plan.relaxations)
    return f"{text}: {'it would need ' + moves if moves else 'no single limit moved alone makes it feasible'}"


def _class_plan(priority: int, budget_cores: float, chosen: Selection) -> ClassPlan:
    return ClassPlan(
        priority=priority,
        budget_cores=budget_cores,
        cost_cores=chosen.cost_cores,
        worth=chosen.worth,
        bound=chosen.bound,
        gap=(chosen.bound - chosen.worth) / max(1.0, abs(chosen.worth)),
        price=chosen.price,
        termination=chosen.termination,
    )


def _member_plans(
    members: Sequence[Member], group: list[int], offer: FleetFrontiers, chosen: Selection
) -> dict[int, MemberPlan]:
    found, plans = offer.pool.found, offer.pool.options(chosen.chosen)
    cost, worth = found.cost[chosen.chosen].tolist(), found.worth[chosen.chosen].tolist()
    return {
        at: MemberPlan(
            pipeline=members[at].problem.pipeline,
            configs=offer.readers[who](plans[who]),
            cost_cores=cost[who],
            objective=worth[who] / members[at].weight,
            worth=worth[who],
        )
        for who, at in enumerate(group)
    }


@dataclass(frozen=True, slots=True)
class Fleet:
    """The members and their plans, in the order asked, and the fleet's sums."""

    members: tuple[Member, ...]
    plans: tuple[Plan, ...]
    found: FleetPlan

    def held(self, priority: int | None = None) -> Resources:
        """The resources of all plans, or of those of one priority."""
        pairs = zip(self.members, self.plans, strict=True)
        return total(plan.resources for member, plan in pairs if priority in (None, member.priority))

    def to_json(self) -> dict[str, Any]:
        """The fleet as plain JSON values; `budget`, `held` and `prices` by resource with its unit."""
        found = self.found
        held = {each.priority: self.held(each.priority) for each in found.classes}
        return {
            "budget_cores": found.budget_cores,
            "cost_cores": found.cost_cores,
            **_resources(found, total(held.values())),
            "worth": found.worth,
            "termination": found.termination.value,
            "solve_s": found.solve_s,
            "classes": [
                {
                    "class": each.priority,
                    "budget_cores": each.budget_cores,
                    "cost_cores": each.cost_cores,
                    **_resources(each, held[each.priority]),
                    "worth": each.worth,
                    # Infinite if the time runs out before a bound was known; JSON has no infinity.
                    "bound": each.bound if isfinite(each.bound) else None,
                    "gap": each.gap if isfinite(each.gap) else None,
                    "price_per_core": each.price,
                    "prices": by_field({CORES: each.price, **each.prices}),
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


def _resources(found: FleetPlan | ClassPlan, held: Resources) -> dict[str, Any]:
    """The budget and the use of each resource; a budget of which nothing is used has its zero."""
    budget = {CORES: found.budget_cores, **found.limits}
    return {"budget": by_field(budget), "held": by_field(dict.fromkeys(budget, 0.0) | held.amounts)}


def plan_together(
    members: Sequence[Member],
    budget_cores: float,
    deadline_s: float,
    limits: Mapping[str, float] | None = None,
) -> Fleet:
    """Plan the members together. Errors: those of `plan_fleet`; SolverError if a plan is invalid."""
    found = plan_fleet(members, budget_cores, deadline_s, limits)
    plans = []
    for member, each in zip(members, found.members, strict=True):
        plan = describe(member.problem, each.configs)
        if plan is None:
            raise SolverError(f"the fleet's plan for pipeline {each.pipeline!r} was not measured")
        plans.append(plan)
    return Fleet(tuple(members), tuple(plans), found)
