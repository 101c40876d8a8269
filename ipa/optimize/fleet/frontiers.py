"""The plans that each pipeline of a fleet may get: lanes that are searched together, or a whole frontier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.model.plan import StageConfig
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.batches import LaneBatch, lane_stage, lanes_of
from ipa.optimize.fleet.flattened import FlattenedOptions, is_plain, plain_lanes
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
    """The plans of the problems; worth is objective times weight. DeadlineError if the time is up."""
    made = _Made(len(problems))
    plain: dict[int, list[int]] = {}
    shaped: dict[tuple[object, ...], list[tuple[int, Program]]] = {}
    for who, problem in enumerate(problems):
        if is_plain(problem):
            plain.setdefault(len(problem.stages), []).append(who)
            continue
        program = worth_program(problem)
        if not all(len(stage) for stage in program.stages):
            continue
        if _is_lane(program):
            shaped.setdefault(_shape(program), []).append((who, program))
        else:
            made.add_known(who, problem, program, weights[who], deadline)
    for at in plain.values():
        made.add_plain(np.array(at), [problems[who] for who in at], weights[at])
    for group in shaped.values():
        numbers, programs = zip(*group, strict=True)
        made.add_programs(
            np.array(numbers), [problems[at] for at in numbers], programs, weights[list(numbers)]
        )
    return made.offers()


class _Made:
    def __init__(self, count: int) -> None:
        self._count = count
        self._blocks: list[LaneBlock] = []
        self._known: list[FoundPlans] = []
        self._readers: dict[int, Reader] = {}

    def add_plain(self, who: Index, problems: list[PlanningProblem], weights: Array) -> None:
        lanes, alive, options = plain_lanes(problems, weights)
        if lanes is None:
            return
        self._blocks += blocks_of(lanes, who[alive])
        for at in alive.tolist():
            self._readers[int(who[at])] = _plain_reader(problems[at], options)

    def add_programs(
        self, who: Index, problems: list[PlanningProblem], programs: Sequence[Program], weights: Array
    ) -> None:
        self._blocks += blocks_of(_program_lanes(programs, weights), who)
        for number, problem, program in zip(who.tolist(), problems, programs, strict=True):
            self._readers[number] = _program_reader(problem, program)

    def add_known(
        self, who: int, problem: PlanningProblem, program: Program, weight: float, deadline: Deadline
    ) -> None:
        points = worth_frontier(program, deadline)
        if not points:
            return
        cost, worth, plans = zip(*points, strict=True)
        read = _program_reader(problem, program)
        none = np.zeros(len(points), dtype=np.intp)
        self._known.append(
            FoundPlans(none + who, np.array(cost), weight * np.array(worth), none, np.arange(len(points)))
        )
        self._readers[who] = lambda at: read(plans[at[0]])

    def offers(self) -> FleetFrontiers:
        hopeless = tuple(who for who in range(self._count) if who not in self._readers)
        return FleetFrontiers(PlanPool(self._count, self._blocks, self._known), self._readers, hopeless)


def _plain_reader(problem: PlanningProblem, options: FlattenedOptions) -> Reader:
    def read(chosen: tuple[int, ...]) -> tuple[StageConfig, ...]:
        configs = []
        for stage, at in zip(problem.stages, chosen, strict=True):
            point = stage.points[options.point[at]]
            configs.append(
                StageConfig(
                    stage.name, point.variant, point.batch_size, point.cores, int(options.replicas[at])
                )
            )
        return tuple(configs)

    return read


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
