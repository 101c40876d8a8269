"""One instance planned by every engine: whether they agree with each other and with enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random
from unittest.mock import patch

from hypothesis import strategies as st

from ipa.model.errors import InfeasibleError, SolverError
from ipa.model.pipeline import Pin
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.model.resources import IN_CORES
from ipa.optimize.backends import label_setting
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.registry import BACKENDS
from ipa.optimize.set_solve import solve_set
from ipa.optimize.solve import solve
from tests.fakes.fleets import best_by_enumeration
from tests.fakes.planner_brute import Tried, brute_force, every_configuration, shape_of, size
from tests.fakes.planner_graphs import random_graph_problem, random_resource_problem
from tests.fakes.planner_instances import random_problem
from tests.fakes.set_instances import enumerate_sets, random_set

DEADLINE_S = 60.0
# Objectives this close (relative above 1) are the same.
AGREE = 1e-9
SEARCHED = (("highs", 0), ("exact", 0))
# Configurations of one pipeline of a fleet.
FLEET_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of one instance: its kinds, the largest relative difference, and what did not agree."""

    instance: str
    kinds: tuple[str, ...]
    feasible: bool
    enumerated: bool
    difference: float
    faults: tuple[str, ...]


def apart(one: float | None, other: float | None) -> float:
    """The distance of two objectives, relative above 1; infinite where only one is there."""
    if one is None or other is None:
        return 0.0 if one is other else inf
    return abs(one - other) / max(1.0, abs(one))


class _Compared:
    def __init__(self) -> None:
        self.difference = 0.0
        self.faults: list[str] = []

    def objectives(self, name: str, expected: float | None, given: float | None) -> None:
        difference = apart(expected, given)
        self.difference = max(self.difference, difference)
        if difference > AGREE:
            self.faults.append(f"{name}: {given!r}, not {expected!r}")

    def equal(self, name: str, expected: object, given: object) -> None:
        if expected != given:
            self.faults.append(f"{name}: {given!r}, not {expected!r}")


def planned(problem: PlanningProblem, most: int) -> Agreement:
    """All engines on one problem; every configuration too where there are no more than `most`.

    Label setting tries all where there are few plans, so it is asked twice: once it has to search. HiGHS's
    ties are broken by a search as well.
    """
    compared = _Compared()
    first: Plan | None = None
    for engine, few in (*((name, label_setting.FEW) for name in BACKENDS if name != "highs"), *SEARCHED):
        try:
            with patch.object(label_setting, "FEW", few):
                plan = solve(problem, engine, DEADLINE_S, explain=False)
        except SolverError as error:
            compared.faults.append(f"{engine}: {error}")
            continue
        first = first or plan
        if plan.termination not in (Termination.OPTIMAL, Termination.INFEASIBLE):
            compared.faults.append(f"{engine}: {plan.termination}")
        names = f"{engine} (all tried up to {few}) against {first.solver}"
        compared.equal(f"{names}, termination", first.termination, plan.termination)
        compared.objectives(f"{names}, objective", first.objective, plan.objective)
        compared.equal(f"{names}, configuration", first.configs, plan.configs)
    enumerated = size(problem) <= most
    if enumerated and first is not None:
        compared.objectives("engines against enumeration", brute_force(problem), first.objective)
    feasible = first is not None and bool(first.configs)
    return _agreement(problem, kinds_of(problem), feasible, enumerated, compared)


def _agreement(
    instance: object, kinds: Sequence[str], feasible: bool, enumerated: bool, compared: _Compared
) -> Agreement:
    return Agreement(
        repr(instance), tuple(kinds), feasible, enumerated, compared.difference, tuple(compared.faults)
    )


def kinds_of(problem: PlanningProblem) -> list[str]:
    """All that is special about the problem, for counting."""
    objective, bounds = problem.objective, problem.bounds
    kinds = [f"graph: {shape_of(problem)}", f"latency: {problem.compat.value}"]
    kinds.append(f"accuracy: {objective.accuracy_rule.value}")
    edges = [edge for stage in problem.stages for edge in stage.after]
    limits = {
        "limit: accuracy floor": bounds.accuracy_floor is not None,
        "limit: cores": bounds.cores is not None,
        "limit: memory": bounds.memory_gib is not None,
        "limit: accelerators": bool(bounds.accelerators),
        "priced": problem.prices != IN_CORES,
        "limit: cost ceiling": objective.max_cost_cores is not None,
        "limit: replicas of a stage": any(stage.bounds.max_replicas for stage in problem.stages),
        "pin": any(stage.pin != Pin() for stage in problem.stages),
        "fan-out": any(not isinstance(edge.fan_out, float) or edge.fan_out != 1.0 for edge in edges),
        "fan-out by variant": any(not isinstance(edge.fan_out, float | int) for edge in edges),
        "router or combiner of the pipeline's own": any(stage.is_free for stage in problem.stages),
        "running, a change is free": bool(problem.running) and not objective.transition_per_core,
        "running, a change costs": bool(problem.running) and objective.transition_per_core > 0,
    }
    return [*kinds, *(kind for kind, there in limits.items() if there)]


def set_agreement(random: Random, most: int) -> Agreement:
    """The search of sets on one task, in fractions or whole percents."""
    problem, percents = random_set(random, variants=4), random.random() < 0.5
    compared = _Compared()
    plan = solve_set(problem, DEADLINE_S, whole_percents=percents)
    best, _ = enumerate_sets(problem, percents)
    compared.objectives("set against enumeration", best, plan.objective)
    expected = Termination.INFEASIBLE if best is None else Termination.OPTIMAL
    compared.equal("set, termination", expected, plan.termination)
    kinds = ["set: whole percents" if percents else "set: fractions"]
    return _agreement((problem, percents), kinds, best is not None, True, compared)


def fleet_agreement(random: Random, most: int) -> Agreement:
    """The plan of a fleet against every plan of every pipeline."""
    members, tried = enumerated_fleet(random)
    plans = [[(one.cores, one.weighted) for one in each.values()] for each in tried]
    cheapest = sum(min((cores for cores, _ in each), default=5.0) for each in plans)
    budget_cores = cheapest * random.choice([0.8, 1.0, 1.1, 1.5, 3.0])
    best = best_by_enumeration(plans, [member.weight for member in members], budget_cores)
    compared = _Compared()
    try:
        plan = plan_fleet(members, budget_cores, DEADLINE_S)
    except InfeasibleError:
        compared.objectives("fleet against enumeration", best, None)
        return _agreement((members, budget_cores), ["fleet"], False, True, compared)
    compared.objectives("fleet against enumeration", best, plan.worth)
    compared.equal("fleet, termination", Termination.OPTIMAL, plan.termination)
    for each, one in zip(tried, plan.members, strict=True):
        known = each.get(one.plan.configs)
        if known is None:
            compared.faults.append(f"{one.plan.pipeline}: {one.plan.configs} is not within the limits")
        else:
            compared.objectives(f"{one.plan.pipeline}, objective", known.weighted, one.worth / one.weight)
            compared.objectives(f"{one.plan.pipeline}, cores", known.cores, one.plan.cost_cores)
    return _agreement((members, budget_cores), ["fleet"], True, True, compared)


def enumerated_fleet(random: Random) -> tuple[list[Member], list[dict[tuple[StageConfig, ...], Tried]]]:
    """Two to four pipelines of any kind, mostly feasible ones, and all that each may run."""
    members: list[Member] = []
    tried: list[dict[tuple[StageConfig, ...], Tried]] = []
    hopeless = random.random() < 0.1
    for at in range(random.randint(2, 4)):
        for _ in range(20):
            problem = random_graph_problem(random)
            problem = replace(problem, pipeline=f"p{at}", sla_s=problem.sla_s * random.choice([1.0, 3.0]))
            if size(problem) > FLEET_SIZE:
                continue
            choices = {one.configs(problem): one for one in every_configuration(problem)}
            if choices or hopeless:
                members.append(Member(problem, random.choice([0.5, 1.0, 1.0, 3.0])))
                tried.append(choices)
                break
    return members, tried


def small_chain(random: Random) -> PlanningProblem:
    """A chain so short that it can be enumerated."""
    return random_problem(random, stages=(1, 3), variants=(1, 3), batches=2)


def _checked(make: Callable[[Random], PlanningProblem]) -> Callable[[Random, int], Agreement]:
    return lambda random, most: planned(make(random), most)


# Every kind of question, and how many of a hundred instances are such.
KINDS: dict[str, tuple[int, Callable[[Random, int], Agreement]]] = {
    "graphs": (50, _checked(random_graph_problem)),
    "three resources": (20, _checked(random_resource_problem)),
    "larger graphs": (15, _checked(lambda random: random_graph_problem(random, points=5))),
    "small chains": (8, _checked(small_chain)),
    "long chains": (7, _checked(random_problem)),
    "sets": (10, set_agreement),
    "fleets": (5, fleet_agreement),
}

# Half of the random numbers are drawn by Hypothesis, which likes the ends of ranges and equal numbers, and
# makes an instance that fails smaller.
randoms = st.one_of(st.integers(0, 2**32 - 1).map(Random), st.randoms(use_true_random=False))


def examples(kind: str, total: int) -> int:
    """The number of instances of that kind among so many."""
    return -(-total * KINDS[kind][0] // sum(times for times, _ in KINDS.values()))


def with_variant(problem: PlanningProblem, at: int, random: Random) -> PlanningProblem:
    """The problem with one variant more at the stage, the worst there, and as fast as any other.

    A variant below all others raises every rank or leaves it as it is.
    """
    stage = problem.stages[at]
    like = random.choice(stage.points)
    least = min(point.accuracy for point in stage.points)
    more = replace(like, variant="more", accuracy=least * random.uniform(0.5, 0.99))
    stages = list(problem.stages)
    stages[at] = replace(stage, points=(*stage.points, more))
    for child, each in enumerate(problem.stages):
        edges = tuple(
            replace(edge, fan_out={**edge.fan_out, "more": 1.0})
            if edge.parent == stage.name and not isinstance(edge.fan_out, float | int)
            else edge
            for edge in each.after
        )
        stages[child] = replace(stages[child], after=edges)
    return replace(problem, stages=tuple(stages))
