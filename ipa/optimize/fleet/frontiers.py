"""The plans that each pipeline of a fleet may get: lanes that are searched together, or a whole frontier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.model.plan import StageConfig
from ipa.optimize.columns import Array
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.batches import LaneBatch, lane_stage, lanes_of
from ipa.optimize.fleet.plan_pool import FoundPlans, LaneBlock, PlanPool, blocks_of
from ipa.optimize.frontier import worth_frontier, worth_program
from ipa.optimize.plans import stage_plans
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import LinearLimit, Options, Program

# The configuration of every stage from a plan's options.
Reader = Callable[[tuple[int, ...]], tuple[StageConfig, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class FleetFrontiers:
    """The pool of plans, readers of each pipeline's plans, and the pipelines that certainly have none."""

    pool: PlanPool
    readers: dict[int, Reader]
    hopeless: tuple[int, ...]


def offers_of(problems: Sequence[PlanningProblem], weights: Array, deadline: Deadline) -> FleetFrontiers:
    """The plans of the problems; worth is objective times weight. DeadlineError if the time runs out."""
    blocks: list[LaneBlock] = []
    known: list[FoundPlans] = []
    readers: dict[int, Reader] = {}
    shaped: dict[tuple[object, ...], list[tuple[int, Program]]] = {}
    for who, problem in enumerate(problems):
        program = worth_program(problem)
        if not all(len(stage) for stage in program.stages):
            continue
        if _is_lane(program):
            shaped.setdefault(_shape(program), []).append((who, program))
            readers[who] = _program_reader(problem, program)
            continue
        points = worth_frontier(program, deadline)
        if points:
            cost, worth, plans = zip(*points, strict=True)
            none, places = np.zeros(len(points), dtype=np.intp), np.arange(len(points))
            known.append(FoundPlans(none + who, np.array(cost), weights[who] * np.array(worth), none, places))
            readers[who] = _frontier_reader(_program_reader(problem, program), plans)
    for group in shaped.values():
        numbers, programs = zip(*group, strict=True)
        lanes = _program_lanes(programs, weights[list(numbers)])
        blocks += blocks_of(lanes, np.array(numbers))
    hopeless = tuple(who for who in range(len(problems)) if who not in readers)
    return FleetFrontiers(PlanPool(len(problems), blocks, known), readers, hopeless)


def _frontier_reader(read: Reader, plans: Sequence[tuple[int, ...]]) -> Reader:
    return lambda at: read(plans[at[0]])


def _program_reader(problem: PlanningProblem, program: Program) -> Reader:
    return lambda chosen: tuple(stage.config for stage in stage_plans(problem, program, chosen))


def _is_lane(program: Program) -> bool:
    """True if a plan's worth is α · Π factor + Σ value, and its limits are paths and sums."""
    return (
        (program.graph.is_product or (not program.alpha and program.log_floor == -np.inf))
        and program.term_floor == -np.inf
        and all(not (stage.enter != stage.enter[0]).any() for stage in program.stages)
    )


def _shape(program: Program) -> tuple[object, ...]:
    names = tuple(limit.name for limit in program.limits())
    return len(program.stages), len(program.graph.paths), names, program.has_spread


def _program_lanes(programs: Sequence[Program], weights: Array) -> LaneBatch:
    first = programs[0]
    paths = len(first.graph.paths)
    limits = [program.limits() for program in programs]
    count = len(programs)
    stages = []
    for at in range(len(first.stages)):
        options = [program.stages[at] for program in programs]
        lane = np.repeat(np.arange(count), [len(each) for each in options])
        uses = [
            _uses(program, limit, at, first.has_spread)
            for program, limit in zip(programs, limits, strict=True)
        ]
        stages.append(
            lane_stage(
                lane,
                count,
                np.concatenate([np.arange(len(each)) for each in options]),
                np.concatenate(
                    [
                        each.factor if p.alpha else np.ones(len(each))
                        for p, each in zip(programs, options, strict=True)
                    ]
                ),
                np.concatenate([each.value for each in options]) * weights[lane],
                np.concatenate([each.cost_cores for each in options]),
                np.concatenate(uses, axis=1),
            )
        )
    most = np.array(
        [[p.sla_s] * paths + [each.most for each in limit] for p, limit in zip(programs, limits, strict=True)]
    )
    return lanes_of(stages, np.array([p.alpha for p in programs]) * weights, most.T.copy(), paths)


def _uses(program: Program, limits: Sequence[LinearLimit], at: int, spread: bool) -> Array:
    stage: Options = program.stages[at]
    none = np.zeros(len(stage))
    on = [at in path for path in program.graph.paths]
    rows = [stage.mean_s if there else none for there in on] + [limit.use[at] for limit in limits]
    if spread:
        rows += [stage.spread_s2 if there else none for there in on]
    return np.array(rows)
