"""Random graphs with everything a problem can have, and a brute force that goes by the words of the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, prod, sqrt
from random import Random

from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    CombineRule,
    Edge,
    Goal,
    Objective,
    Pin,
    StageBounds,
    StageKind,
)
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.optimize.problem import Compat, Problem, StageProblem
from ipa.optimize.timing import stage_times

# name: for each stage (kind, combine rule, parents)
MODEL, ROUTER, COMBINER = StageKind.MODEL, StageKind.ROUTER, StageKind.COMBINER
Shape = list[tuple[StageKind, CombineRule, list[int]]]
PLAIN = CombineRule.PRODUCT


def shapes() -> dict[str, Shape]:
    """The kinds of graphs that are tried."""
    return {
        "chain": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [1])],
        "fork": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0])],
        "router": [(ROUTER, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [2])],
        "mean": [
            (MODEL, PLAIN, []),
            (MODEL, PLAIN, [0]),
            (MODEL, PLAIN, [0]),
            (COMBINER, CombineRule.MEAN, [1, 2]),
        ],
        "max": [
            (MODEL, PLAIN, []),
            (MODEL, PLAIN, [0]),
            (MODEL, PLAIN, [0]),
            (COMBINER, CombineRule.MAX, [1, 2]),
        ],
        "diamond": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [1, 2])],
        "nested": [
            (MODEL, PLAIN, []),
            (ROUTER, PLAIN, [0]),
            (MODEL, PLAIN, [1]),
            (MODEL, PLAIN, [1]),
            (MODEL, PLAIN, [2, 3]),
        ],
        "skip": [(MODEL, PLAIN, []), (MODEL, PLAIN, [0]), (MODEL, PLAIN, [0, 1])],
    }


def random_graph_problem(random: Random, points: int = 3) -> Problem:
    """A small graph of any kind, with any of the limits, goals, pins and transitions."""
    shape = random.choice(list(shapes().values()))
    varying = random.random() < 0.4
    compat = random.choice([Compat.PAPER, Compat.PAPER, Compat.TAIL, Compat.TAIL, Compat.IPA_ARTIFACT])
    stages: list[StageProblem] = []
    for at, (kind, combine, parents) in enumerate(shape):
        free = kind is not MODEL and random.random() < 0.5
        stage_points = () if free else _points(random, points)
        edges = tuple(_edge(random, shape, stages, parent, varying) for parent in parents)
        if len(edges) > 1:
            # What a join gets must be equal, whichever way it comes.
            edges = tuple(replace(edge, fan_out=1.0) for edge in edges)
        stages.append(
            StageProblem(
                f"s{at}",
                stage_points,
                edges,
                random.choice([0.02, 0.1]),
                kind,
                combine,
                StageBounds(max_replicas=random.choice([None, None, 3])),
                Pin(variant=stage_points[0].variant) if stage_points and random.random() < 0.1 else Pin(),
            )
        )
    stages = _with_equal_joins(stages)
    loose_s = sum(max((p.latency_s for p in stage.points), default=0.0) for stage in stages)
    goal = random.choice([Goal.WEIGHTED, Goal.WEIGHTED, Goal.WEIGHTED, Goal.LEXICOGRAPHIC, Goal.CHEAPEST])
    floor = random.choice([None, None, random.uniform(0.2, 0.7)])
    objective = Objective(
        goal=goal,
        alpha=random.choice([0.0, 1.0, 5.0, 40.0]),
        beta=random.choice([0.0, 0.05, 0.5]),
        delta=random.choice([0.0, 1e-6, 1e-3]),
        accuracy_rule=random.choice(list(AccuracyRule)),
        rank_floor=0.05,
        max_cost_cores=random.choice([None, None, random.uniform(3, 25)]),
        transition_per_core=random.choice([0.0, 0.02]),
    )
    bounds = Bounds(
        cores=random.choice([None, None, random.uniform(4, 40)]),
        memory_gib=random.choice([None, None, random.uniform(2, 30)]),
        max_replicas=random.choice([None, 6]),
        accuracy_floor=floor if goal is not Goal.CHEAPEST else random.uniform(0.1, 0.6),
    )
    running = _running(random, stages) if random.random() < 0.4 else ()
    rate_rps = random.choice([1.0, 5.0, 12.0, random.uniform(1, 20)])
    sla_s = loose_s * random.choice([0.4, 0.8, 1.5, 4.0])
    return Problem(
        "graph",
        rate_rps,
        sla_s,
        tuple(stages),
        objective,
        bounds,
        compat,
        random.choice([90.0, 99.0]),
        running,
    )


def _points(random: Random, count: int) -> tuple[OperatingPoint, ...]:
    base_s = random.uniform(0.01, 0.1)
    found = []
    for rank in range(count):
        batch_size, cores = random.choice([1, 2, 4]), random.choice([1.0, 2.0])
        latency_s = base_s * (1 + rank) * (0.5 + 0.5 * batch_size) / cores**0.8
        mean_s = latency_s * random.uniform(0.6, 1.0)
        found.append(
            OperatingPoint(
                f"v{rank % 2}" if random.random() < 0.3 else f"v{rank}",
                0.0,
                batch_size,
                cores,
                latency_s,
                batch_size / mean_s,
                mean_s,
                random.choice([0.5, 1.0]),
            )
        )
    accuracy = {f"v{rank}": 0.4 + 0.55 * (rank + random.random()) / count for rank in range(count)}
    unique = {(p.variant, p.batch_size, p.cores): p for p in found}
    return tuple(replace(point, accuracy=accuracy[point.variant]) for point in unique.values())


def _edge(random: Random, shape: Shape, stages: list[StageProblem], parent: int, varying: bool) -> Edge:
    kind = shape[parent][0]
    share = 1.0
    if kind is ROUTER:
        branches = [at for at, (_, _, parents) in enumerate(shape) if parent in parents]
        share = 0.3 if branches[0] == len(stages) else 0.7
    names = sorted({point.variant for point in stages[parent].points})
    if varying and names:
        return Edge(f"s{parent}", {name: random.choice([1.0, 2.0, 3.0]) for name in names}, share)
    return Edge(f"s{parent}", random.choice([1.0, 1.0, 2.0]), share)


def _with_equal_joins(stages: list[StageProblem]) -> list[StageProblem]:
    """Where a stage has several parents, what leads to it brings the same items by every way."""
    if not any(len(stage.after) > 1 for stage in stages):
        return stages
    plain: list[StageProblem] = []
    shared = stages[1].after[0].fan_out if len(stages) > 1 else 1.0
    for stage in stages:
        edges = []
        for edge in stage.after:
            from_root = edge.parent == "s0" and len(stage.after) == 1
            edges.append(replace(edge, fan_out=shared if from_root and len(stages) > 3 else 1.0))
        plain.append(replace(stage, after=tuple(edges)))
    return plain


def _running(random: Random, stages: list[StageProblem]) -> tuple[StageConfig, ...]:
    configs = []
    for stage in stages:
        if stage.points:
            point = random.choice(stage.points)
            configs.append(
                StageConfig(stage.name, point.variant, point.batch_size, point.cores, random.randint(1, 4))
            )
    return tuple(configs)


@dataclass(frozen=True, slots=True)
class Tried:
    """One configuration within the limits: what the goals are about."""

    weighted: float
    term: float
    cores: float
    batch: float


def size(problem: Problem) -> int:
    """How many configurations the brute force would try."""
    return prod(len(options) for options in _choices(problem))


def brute_force_graph(problem: Problem) -> float | None:
    """The best objective over all configurations, as the goal means it; None where none is feasible."""
    tried = [one for configs in _all(problem) if (one := _try(problem, configs)) is not None]
    if not tried:
        return None
    goal = problem.objective.goal
    if goal is Goal.LEXICOGRAPHIC:
        return max(one.term for one in tried)
    return -min(one.cores for one in tried) if goal is Goal.CHEAPEST else max(one.weighted for one in tried)


Chosen = tuple[OperatingPoint, int] | None


def _all(problem: Problem) -> Iterator[tuple[Chosen, ...]]:
    return itertools.product(*_choices(problem))


def _choices(problem: Problem) -> list[list[Chosen]]:
    most = 12
    options: list[list[Chosen]] = []
    for stage in problem.stages:
        if not stage.points:
            options.append([None] if stage.kind is not MODEL else [])
            continue
        options.append(
            [(point, n) for point in stage.points if problem.allows(stage, point) for n in range(1, most + 1)]
        )
    items = [_most_items(problem, at) for at in range(len(options))]
    return [
        [one for one in stage_options if one is None or _could_matter(problem, at, one, items[at])]
        for at, stage_options in enumerate(options)
    ]


def _most_items(problem: Problem, at: int) -> tuple[float, float]:
    """The fewest and the most items of a request at the stage."""
    low, high = [1.0] * (at + 1), [1.0] * (at + 1)
    names = [stage.name for stage in problem.stages]
    for stage in range(1, at + 1):
        for edge in problem.stages[stage].after:
            parent = names.index(edge.parent)
            sent = [edge.items(p.variant) for p in problem.stages[parent].points] or [edge.items("")]
            low[stage], high[stage] = low[parent] * min(sent), high[parent] * max(sent)
    return low[at], high[at]


def _could_matter(
    problem: Problem, at: int, one: tuple[OperatingPoint, int], items: tuple[float, float]
) -> bool:
    """Not far more replicas than could ever help: so many that a request's items and the load are covered."""
    point, replicas = one
    load = problem.rate_rps * problem.graph.reach[at] * items[1] / point.capacity_rps
    enough = max(load, items[1] / point.batch_size)
    if problem.compat is Compat.TAIL:
        least = max(1, load)
        return replicas <= max(least + 3 * sqrt(least) + 4, items[1] / point.batch_size + 1)
    return replicas <= enough + 1


def _try(problem: Problem, configs: tuple[Chosen, ...]) -> Tried | None:
    objective, bounds = problem.objective, problem.bounds
    names = [stage.name for stage in problem.stages]
    items = [1.0] * len(names)
    means, spreads = [0.0] * len(names), [0.0] * len(names)
    cores = gib = peak = peak_gib = started = batch = 0.0
    before = {config.stage: config for config in problem.running}
    for at, (stage, one) in enumerate(zip(problem.stages, configs, strict=True)):
        sent = []
        for edge in stage.after:
            parent = configs[names.index(edge.parent)]
            sent.append(items[names.index(edge.parent)] * edge.items(parent[0].variant if parent else ""))
        if sent:
            items[at] = sent[0]
            assert all(abs(each - sent[0]) < 1e-9 for each in sent)
        if one is None:
            continue
        point, n = one
        rate = problem.rate_rps * _reach(problem, at) * items[at]
        if n * point.capacity_rps < rate * (1 - 1e-9) or not _within(problem, stage, n):
            return None
        _, _, means[at], spreads[at] = stage_times(problem, at, point, n, items[at])
        cores, gib, batch = cores + n * point.cores, gib + n * point.memory_gib, batch + point.batch_size
        old = before.get(stage.name)
        old_gib = next((p.memory_gib for p in stage.points if old and p.variant == old.variant), 0.0)
        if old is None:
            peak, peak_gib = peak + n * point.cores, peak_gib + n * point.memory_gib
        elif (old.variant, old.batch_size, old.cores) == (point.variant, point.batch_size, point.cores):
            peak += max(n, old.replicas) * point.cores
            peak_gib += max(n * point.memory_gib, old.replicas * old_gib)
            started += max(0, n - old.replicas) * point.cores
        else:
            peak += n * point.cores + old.replicas * old.cores
            peak_gib += n * point.memory_gib + old.replicas * old_gib
            started += n * point.cores
    now = sum(config.total_cores for config in problem.running)
    now_gib = sum(
        config.replicas * next(p.memory_gib for p in stage.points if p.variant == config.variant)
        for stage in problem.stages
        for config in problem.running
        if config.stage == stage.name
    )
    limits = (
        (cores, bounds.cores if bounds.cores is not None else inf),
        (peak, max(bounds.cores, now) if bounds.cores is not None else inf),
        (peak_gib, max(bounds.memory_gib, now_gib) if bounds.memory_gib is not None else inf),
        (cores, objective.max_cost_cores if objective.max_cost_cores is not None else inf),
    )
    if any(value > limit + 1e-9 for value, limit in limits) or _late(problem, means, spreads):
        return None
    pas = _accuracy(problem, [one[0].accuracy if one else 1.0 for one in configs])
    if bounds.accuracy_floor is not None and pas < bounds.accuracy_floor * (1 - 1e-9):
        return None
    term = _term(problem, configs)
    weighted = objective.alpha * term - objective.beta * cores - objective.delta * batch
    if problem.running:
        weighted -= objective.transition_per_core * started
    return Tried(weighted, term, cores, batch)


def _within(problem: Problem, stage: StageProblem, replicas: int) -> bool:
    most = [problem.bounds.max_replicas, problem.objective.max_replicas, stage.bounds.max_replicas]
    return all(limit is None or replicas <= limit for limit in most)


def _late(problem: Problem, means: list[float], spreads: list[float]) -> bool:
    names = [stage.name for stage in problem.stages]

    def ends(at: int, mean: float, spread: float) -> float:
        mean, spread = mean + means[at], spread + spreads[at] ** 2
        after = [
            child
            for child, stage in enumerate(problem.stages)
            if names[at] in {e.parent for e in stage.after}
        ]
        return max((ends(child, mean, spread) for child in after), default=mean + sqrt(spread))

    return ends(0, 0.0, 0.0) > problem.sla_s * (1 + 1e-9)


def _reach(problem: Problem, at: int) -> float:
    names = [stage.name for stage in problem.stages]
    if not problem.stages[at].after:
        return 1.0
    parts = [_reach(problem, names.index(edge.parent)) * edge.share for edge in problem.stages[at].after]
    # Branches of a router add up again; the branches of a fork are the same requests.
    merges = any(
        problem.stages[names.index(edge.parent)].kind is not ROUTER for edge in problem.stages[at].after
    )
    return sum(parts) if merges and len(parts) > 1 and _after_router(problem, at) else max(parts)


def _after_router(problem: Problem, at: int) -> bool:
    names = [stage.name for stage in problem.stages]
    parents = [names.index(edge.parent) for edge in problem.stages[at].after]
    return any(problem.stages[parent].kind is ROUTER or _after_router(problem, parent) for parent in parents)


def _accuracy(problem: Problem, own: list[float]) -> float:
    """The accuracy of each kind of graph, written out."""
    shape = next(
        name
        for name, nodes in shapes().items()
        if [(stage.kind, stage.combine, [int(e.parent[1:]) for e in stage.after]) for stage in problem.stages]
        == nodes
    )
    match shape:
        case "router":
            return own[0] * (0.3 * own[1] + 0.7 * own[2] * own[3])
        case "mean":
            return own[0] * (own[1] + own[2]) / 2 * own[3]
        case "max":
            return own[0] * max(own[1], own[2]) * own[3]
        case "nested":
            return own[0] * own[1] * (0.3 * own[2] + 0.7 * own[3]) * own[4]
        case _:
            return prod(own)


def _term(problem: Problem, configs: tuple[Chosen, ...]) -> float:
    rule = problem.objective.accuracy_rule
    own = []
    for stage, one in zip(problem.stages, configs, strict=True):
        if one is None:
            own.append(1.0)
        elif rule in (AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT):
            rising = sorted({p.accuracy for p in stage.points})
            place = rising.index(one[0].accuracy)
            rank = 1.0 if len(rising) == 1 else place / (len(rising) - 1)
            own.append(max(rank, problem.objective.rank_floor or 0.0) if len(rising) > 1 else 1.0)
        else:
            own.append(one[0].accuracy)
    if rule in (AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT):
        return _accuracy(problem, own)
    shares = [_reach(problem, at) if one else 0.0 for at, one in enumerate(configs)]
    total = sum(share * each for share, each in zip(shares, own, strict=True))
    return total / sum(shares) if rule is AccuracyRule.MEAN else total
