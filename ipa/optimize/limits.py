"""The slack of a plan to its limits, and its binding limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf, sqrt

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Goal, Pin
from ipa.model.plan import Plan, Termination
from ipa.model.resources import CORES, unit_of
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import Binding, LimitSlack, Price, differences
from ipa.optimize.problem import PlanningProblem, StageProblem
from ipa.optimize.program import EQUAL, Program, Totals
from ipa.optimize.relaxations import LOOSE_SLA_S, TINY_FLOOR
from ipa.optimize.solve import solve

UNITS = {
    "sla": ("second more of SLA", 1.0),
    "cores": ("core more in the budget", 1.0),
    "memory": ("GiB more", 1.0),
    "cost": ("core more under the cost ceiling", 1.0),
    # The multiplier is of ln PAS: a floor one percent lower is 0.01 of it.
    "accuracy": ("percent less of the accuracy floor", 0.01),
}


def limits_of(
    problem: PlanningProblem, program: Program, plan: Plan, totals: Totals
) -> tuple[LimitSlack, ...]:
    """Every limit of the plan: paths, throughput, sums, then those of each stage."""
    found = [*_paths(problem, plan), *_throughput(plan), *_sums(problem, program, totals)]
    stages = {stage.name: stage for stage in problem.stages}
    for planned in plan.stages:
        name, stage = planned.stage, stages[planned.stage]
        least, most = problem.replica_limits(stage)
        if most is not None:
            found.append(_limit("max_replicas", name, "replicas", planned.replicas, most))
        if least > 1:
            found.append(_limit("min_replicas", name, "replicas", planned.replicas, least, least=True))
        largest = _largest_batch(problem, stage)
        if largest < inf:
            found.append(_limit("batch_size", name, "items", planned.batch_size, largest))
    return tuple(found)


def _paths(problem: PlanningProblem, plan: Plan) -> Iterator[LimitSlack]:
    planned = {stage.stage: stage for stage in plan.stages}
    for path in problem.graph.paths:
        names = [problem.stages[at].name for at in path]
        known = [planned[name] for name in names if name in planned]
        latency_s = sum(stage.mean_s for stage in known) + sqrt(sum(stage.excess_s**2 for stage in known))
        yield _limit("sla", " > ".join(names), "s", latency_s, problem.sla_s)


def _throughput(plan: Plan) -> Iterator[LimitSlack]:
    for stage in plan.stages:
        yield _limit("throughput", stage.stage, "rps", stage.rate_rps, stage.capacity_rps * stage.replicas)


def _sums(problem: PlanningProblem, program: Program, totals: Totals) -> Iterator[LimitSlack]:
    if program.cores < inf:
        yield _limit("cores", "", "cores", totals.peak_cores, program.cores)
    for budget, peak in zip(program.budgets, totals.peaks, strict=True):
        yield _limit(budget.name, "", unit_of(budget.name), peak, budget.most)
    if problem.bounds.front is not None:
        left_cores = problem.bounds.front.left_cores(problem.rate_rps)
        yield _limit("front", "", "cores", totals.cost_cores, left_cores)
    if problem.objective.max_cost_cores is not None:
        yield _limit("max_cost_cores", "", "cores", totals.cost_cores, problem.objective.max_cost_cores)
    if problem.bounds.accuracy_floor is not None:
        yield _limit("accuracy_floor", "", "PAS", totals.pas, problem.bounds.accuracy_floor, least=True)


def _limit(kind: str, where: str, unit: str, used: float, limit: float, *, least: bool = False) -> LimitSlack:
    slack = used - limit if least else limit - used
    # A sum may pass its limit by rounding.
    slack = 0.0 if abs(slack) <= EQUAL * max(1.0, abs(limit)) else slack
    return LimitSlack(kind, where, unit, used, limit, slack, slack / limit if limit else 0.0)


def _largest_batch(problem: PlanningProblem, stage: StageProblem) -> float:
    listed_sizes = [max(sizes) for sizes in (problem.bounds.batch_sizes, stage.bounds.batch_sizes) if sizes]
    own = problem.objective.max_batch_size
    return min([*listed_sizes, *([own] if own is not None else [])], default=inf)


def binding_of(
    problem: PlanningProblem, plan: Plan, wider: Mapping[str, PlanningProblem], deadline: Deadline
) -> tuple[tuple[Binding, ...], tuple[str, ...]]:
    """The limits without which a better plan exists, largest gain first, and those not settled in time.

    Each is removed alone and the problem solved again. `wider` holds, by their kind, problems without a limit
    that shaped the operating points, as batch sizes do.
    """
    found, unsettled = [], []
    removed = [*_without(problem), *((kind, "", moved) for kind, moved in wider.items())]
    for kind, where, moved in removed:
        name = NAMES.get(kind, f"the limit of {kind}") + (f" of {where}" if where else "")
        try:
            better = _best(moved, deadline)
        except DeadlineError:
            unsettled.append(f"what the plan would be without {name}")
            continue
        outcome = better.summary
        if outcome is None or plan.objective is None or not _is_better(problem, better, plan):
            continue
        changes = "; ".join(differences(plan.configs, outcome.configs))
        gain = outcome.objective - plan.objective
        text = f"without {name}: objective {gain:+.4g} ({changes})"
        found.append(Binding(kind, where, gain, outcome, text))
    return tuple(sorted(found, key=lambda each: -each.gain)), tuple(unsettled)


NAMES = {
    "sla": "the SLA",
    "cores": "the core budget",
    "memory": "the memory limit",
    "front": "the cores that router and queues need",
    "max_cost_cores": "the cost ceiling",
    "accuracy_floor": "the accuracy floor",
    "max_replicas": "the most replicas",
    "min_replicas": "the least replicas",
    "pin": "the pin",
    "batch_sizes": "the limits on batch sizes",
}


def _without(problem: PlanningProblem) -> Iterator[tuple[str, str, PlanningProblem]]:
    """Each limit by kind and stage, with the problem without it."""
    bounds, objective = problem.bounds, problem.objective
    yield "sla", "", replace(problem, sla_s=LOOSE_SLA_S)
    if bounds.cores is not None:
        yield "cores", "", replace(problem, bounds=replace(bounds, cores=None))
    for name in bounds.limits:
        if name != CORES:
            yield name, "", replace(problem, bounds=bounds.limited(name, None))
    if bounds.front is not None:
        yield "front", "", replace(problem, bounds=replace(bounds, front=None))
    if objective.max_cost_cores is not None:
        yield "max_cost_cores", "", replace(problem, objective=replace(objective, max_cost_cores=None))
    if bounds.accuracy_floor is not None:
        # The cheapest plan at an accuracy needs a floor: one that every plan meets.
        floor = TINY_FLOOR if objective.goal is Goal.CHEAPEST else None
        yield "accuracy_floor", "", replace(problem, bounds=replace(bounds, accuracy_floor=floor))
    if bounds.max_replicas is not None or objective.max_replicas is not None:
        free = replace(objective, max_replicas=None)
        yield "max_replicas", "", replace(problem, bounds=replace(bounds, max_replicas=None), objective=free)
    if bounds.min_replicas > 1:
        yield "min_replicas", "", replace(problem, bounds=replace(bounds, min_replicas=1))
    for at, stage in enumerate(problem.stages):
        own = stage.bounds
        if own.max_replicas is not None:
            yield "max_replicas", stage.name, _with(problem, at, bounds=replace(own, max_replicas=None))
        if (own.min_replicas or 1) > 1:
            yield "min_replicas", stage.name, _with(problem, at, bounds=replace(own, min_replicas=None))
        if stage.pin != Pin():
            yield "pin", stage.name, _with(problem, at, pin=Pin())


def _with(problem: PlanningProblem, at: int, **changes: object) -> PlanningProblem:
    stage = replace(problem.stages[at], **changes)  # type: ignore[arg-type]
    return replace(problem, stages=(*problem.stages[:at], stage, *problem.stages[at + 1 :]))


def _best(problem: PlanningProblem, deadline: Deadline) -> Plan:
    if deadline.passed:
        raise DeadlineError("the time ran out")
    plan = solve(problem, "exact", deadline.remaining_s, explain=False)
    if plan.termination in (Termination.FEASIBLE, Termination.NO_SOLUTION_FOUND):
        raise DeadlineError("the time was too short to know the best plan")
    return plan


def _is_better(problem: PlanningProblem, one: Plan, other: Plan) -> bool:
    """True if the first is better by the goal, beyond rounding."""
    goal = problem.objective.goal
    for a, b, sign in (
        (one.objective, other.objective, 1),
        (one.cost_cores, other.cost_cores, -1 if goal is Goal.LEXICOGRAPHIC else 0),
        (one.pas, other.pas, 1 if goal is Goal.CHEAPEST else 0),
    ):
        assert a is not None and b is not None
        if abs(a - b) > 10 * EQUAL * max(1.0, abs(b)) and sign:
            return (a - b) * sign > 0
    return False


def prices_of(plan: Plan) -> tuple[Price, ...]:
    """The plan's multipliers in words, those other than 0."""
    found = []
    accelerators = {kind for stage in plan.stages for kind in stage.beside.accelerators}
    for limit, price in plan.prices:
        kind, _, path = limit.partition(" ")
        if price > 0 and (kind in UNITS or kind in accelerators):
            unit, scale = UNITS.get(kind, (f"{kind} more", 1.0))
            on = f" along {path}" if path else ""
            worth = f"{price * scale:.3g} to the objective"
            text = f"one {unit}{on} could add about {worth}, as if plans could be mixed"
            found.append(Price(limit, price, text))
    return tuple(found)
