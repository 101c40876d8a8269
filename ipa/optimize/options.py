"""What each stage can do at the rate: the options that a plan chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log

import numpy as np

from ipa.model.errors import InputError
from ipa.model.pipeline import AccuracyRule
from ipa.model.plan import StageConfig
from ipa.model.rolling import ROUNDING as LESS_THAN_ONE
from ipa.model.rolling import Rolling
from ipa.optimize.accuracy import PRODUCTS, variant_terms
from ipa.optimize.columns import Array, Index
from ipa.optimize.problem import Compat, Problem, StageProblem
from ipa.optimize.program import NUMBERS, Options, Program, Weights, options_of, value_of
from ipa.optimize.reduce import reduce_program
from ipa.optimize.timing import option_times
from ipa.queueing.formation import ROUNDING, ceil_up

# More numbers of items than this at one stage are not planned.
MOST_LEVELS = 512


def build_program(problem: Problem) -> Program:
    """The program of a problem, its dominated and hopeless options removed; no best plan is lost.

    A stage may be left without options: then nothing is feasible.
    """
    return reduce_program(full_program(problem))


def full_program(problem: Problem) -> Program:
    """The program of a problem with all its options."""
    objective, bounds = problem.objective, problem.bounds
    uses_product = objective.accuracy_rule in PRODUCTS
    transition = objective.transition_per_core if problem.running else 0.0
    weights = Weights(objective.alpha, objective.beta, objective.delta, transition)
    floor = bounds.accuracy_floor or 0.0
    now = [_running_use(problem, stage) for stage in problem.stages]
    levels = _levels(problem)
    return Program(
        graph=problem.graph,
        stages=tuple(
            _stage_options(problem, index, levels, weights, now[index])
            for index in range(len(problem.stages))
        ),
        weights=weights,
        uses_product=uses_product,
        sla_s=problem.sla_s,
        # What runs already may go on even where the budget has shrunk below it.
        cores=_most_cores(problem, problem.fixed_cores + sum(cores for cores, _ in now)),
        memory_gib=inf if bounds.memory_gib is None else max(bounds.memory_gib, sum(gib for _, gib in now)),
        max_cost=min(
            inf if bounds.cores is None or not problem.running else bounds.cores,
            inf if objective.max_cost_cores is None else objective.max_cost_cores,
        ),
        log_floor=log(floor) if floor > 0 else -inf,
    )


def _most_cores(problem: Problem, now_cores: float) -> float:
    """The limit of cores: of the plan where nothing runs, else of every moment of the change to it."""
    limit = problem.bounds.most_cores if problem.running else problem.bounds.cores
    return inf if limit is None else max(limit, now_cores)


@dataclass(frozen=True, slots=True)
class _Level:
    """One number of items that a request may bring to a stage, and the numbers its children get for it."""

    number: int
    items: float
    # For each child, by the stage's variant.
    onward: tuple[tuple[int, ...], ...]


def _levels(problem: Problem) -> list[list[_Level]]:
    """For each stage the numbers of items that it may see; one where no fan-out depends on a variant."""
    stages, graph = problem.stages, problem.graph
    if not any(isinstance(edge.fan_out, Mapping) for stage in stages for edge in stage.after):
        return _constant_levels(problem)
    numbers: list[dict[str, int]] = [{} for _ in stages]
    items: list[list[float]] = [[] for _ in stages]
    numbers[0], items[0] = {_key(1.0): 0}, [1.0]
    onward: list[list[list[tuple[int, ...]]]] = [[] for _ in stages]
    for at, stage in enumerate(stages):
        names = stage.columns.variants or ("",)
        for value in items[at]:
            by_child = []
            for child in graph.children[at]:
                edge = next(edge for edge in stages[child].after if edge.parent == stage.name)
                reached = [value * edge.items(name) for name in names]
                for each in reached:
                    if numbers[child].setdefault(_key(each), len(items[child])) == len(items[child]):
                        items[child].append(each)
                by_child.append(tuple(numbers[child][_key(each)] for each in reached))
            onward[at].append(by_child)
        if len(items[at]) > MOST_LEVELS:
            raise InputError(
                f"stage {stage.name!r} may see more than {MOST_LEVELS} numbers of items of a request",
                hint="Give fewer fan-outs by variant before it, or equal ones to like variants.",
            )
    return [
        [_Level(number, value, tuple(onward[at][number])) for number, value in enumerate(items[at])]
        for at in range(len(stages))
    ]


def _constant_levels(problem: Problem) -> list[list[_Level]]:
    items: dict[str, float] = {}
    levels = []
    for stage, children in zip(problem.stages, problem.graph.children, strict=True):
        items[stage.name] = items[stage.after[0].parent] * stage.after[0].items("") if stage.after else 1.0
        onward = (0,) * max(1, len(stage.columns.variants))
        levels.append([_Level(0, items[stage.name], (onward,) * len(children))])
    return levels


def _key(items: float) -> str:
    """Equal for numbers of items that differ by rounding only."""
    return f"{items:.10g}"


def _running_use(problem: Problem, stage: StageProblem) -> tuple[float, float]:
    """Cores and memory that the stage's replicas take now."""
    config = problem.running_config(stage)
    if config is None:
        return 0.0, 0.0
    gib = next((p.memory_gib for p in stage.points if p.variant == config.variant), 0.0)
    return problem.held(config).total_cores, gib * config.replicas


def _stage_options(
    problem: Problem, index: int, levels: list[list[_Level]], weights: Weights, now: tuple[float, float]
) -> Options:
    stage = problem.stages[index]
    parts = [_level_options(problem, index, level, weights, now) for level in levels[index]]
    joined = parts[0] if len(parts) == 1 else _joined(parts)
    if len(parts) == 1 or stage.is_free:
        # Made in the order of names already; the pipeline's own router has none.
        return joined
    rank = np.argsort(stage.columns.order)
    return joined.take(np.lexsort((joined.enter, joined.replicas, rank[joined.point])))


def _joined(parts: list[Options]) -> Options:
    return Options(
        np.concatenate([part.counts for part in parts], axis=1),
        np.concatenate([part.numbers for part in parts], axis=1),
    )


def _level_options(
    problem: Problem, index: int, level: _Level, weights: Weights, now: tuple[float, float]
) -> Options:
    stage = problem.stages[index]
    if stage.is_free:
        return _free_option(level)
    columns = stage.columns
    allowed = columns.order[problem.allowed(stage)[columns.order]]
    rate_rps = problem.rate_rps * problem.graph.reach[index] * level.items
    point, replicas = _replica_counts(problem, stage, allowed, rate_rps, level.items)
    service_s, wait_s, mean_s, spread_s2 = option_times(
        problem, stage, point, replicas, level.items, rate_rps
    )
    factor, gain = _worth(problem, stage, index, point)
    started, changes, (peak_cores, peak_gib) = _change(problem, stage, point, replicas, now)
    fixed_cores = _fixed_cores(problem, index)
    options = options_of(
        point,
        replicas,
        level.number,
        _onward(level, len(columns.variants))[:, columns.variant[point]],
        items=level.items,
        service_s=service_s,
        wait_s=wait_s,
        mean_s=mean_s,
        spread_s2=spread_s2,
        accuracy=columns.accuracy[point],
        factor=factor,
        gain=gain,
        value=0.0,
        batch_size=columns.batch_size[point],
        cost_cores=replicas * _held(problem, stage)[point] + fixed_cores,
        memory_gib=replicas * columns.memory_gib[point],
        peak_cores=peak_cores + fixed_cores,
        peak_gib=peak_gib,
        started_cores=started,
        changes=changes,
    )
    options.value[:] = value_of(weights, options, problem.objective.accuracy_rule in PRODUCTS)
    return options


def _onward(level: _Level, variants: int) -> Index:
    """(children × variants), one column where a stage has no variants left: it has no options then."""
    return np.array(level.onward, dtype=np.intp).reshape(len(level.onward), max(1, variants))


def _held(problem: Problem, stage: StageProblem) -> Array:
    """Cores of one replica at each point, with what runs beside it."""
    return stage.columns.cores + problem.bounds.overhead.each(stage.name)


def _fixed_cores(problem: Problem, index: int) -> float:
    """Cores that are there once: counted with the first stage, of which every plan has one option."""
    first = next((at for at, stage in enumerate(problem.stages) if not stage.is_free), -1)
    return problem.fixed_cores if index == first else 0.0


def _free_option(level: _Level) -> Options:
    """What the pipeline's own router does, at no cost."""
    numbers = dict.fromkeys(NUMBERS, 0.0) | {"items": level.items, "accuracy": 1.0, "factor": 1.0}
    none = np.zeros(1, dtype=np.intp)
    return options_of(none - 1, none, level.number, _onward(level, 1), **numbers)


def _replica_counts(
    problem: Problem, stage: StageProblem, at: Index, rate_rps: float, items: float
) -> tuple[Index, Index]:
    """Points and the replicas each may run with: (point, replicas) pairs.

    Formulas of the papers: the least n that carries the rate, and each larger n that takes one batch less in
    sequence; between those n nothing but the cost changes. Under random arrivals every n from the least on
    shortens the wait, until by the square-root rule of staffing none is left: n ≤ least + 3·√least + 3.
    """
    columns = stage.columns
    fewest, most = problem.replica_limits(stage)
    least = ceil_up(np.maximum(rate_rps / columns.capacity_rps[at], 1.0))
    batches = ceil_up(items / columns.batch_size[at])
    if problem.compat is Compat.TAIL:
        # A replica busy to the last moment would let its queue grow for ever.
        least += rate_rps / columns.capacity_rps[at] > least - ROUNDING
    least = np.maximum(least, fewest)
    limit = np.full(len(at), inf if most is None else float(most))
    if problem.bounds.cores is not None and not problem.running:
        room = max(0.0, problem.bounds.cores - problem.fixed_cores)
        limit = np.minimum(limit, room / _held(problem, stage)[at] + ROUNDING)
    extra = _extra_replicas(problem.compat, least, batches)
    if stage.pin.replicas is not None:
        extra = np.zeros((len(at), 1))
    counts = least[:, None] + extra
    fresh = np.ones(counts.shape, dtype=bool)
    fresh[:, 1:] = counts[:, 1:] > counts[:, :-1]
    row, column = np.nonzero(fresh & (counts <= limit[:, None]))
    return at[row], counts[row, column].astype(np.intp)


def _extra_replicas(compat: Compat, least: Array, batches: Array) -> Array:
    """What may be added to the least replicas: (points × choices), ascending, repeated where fewer."""
    if not len(least):
        return np.zeros((0, 1))
    if compat is Compat.TAIL:
        most = np.maximum(np.ceil(3 * np.sqrt(least)) + 3, batches - least)
        counts: Array = np.minimum(np.arange(most.max() + 1)[None, :], most[:, None])
        return counts
    sequence = np.maximum(1, ceil_up(batches / least))
    shorter = np.arange(sequence.max(), 0, -1)[None, :]
    enough = ceil_up(batches[:, None] / np.minimum(shorter, sequence[:, None]))
    extra: Array = np.maximum(enough - least[:, None], 0)
    return extra


def _worth(problem: Problem, stage: StageProblem, index: int, point: Index) -> tuple[Array, Array]:
    """Each option's factor and gain: the accuracy is in the factor under a product, else in the gain."""
    terms = variant_terms(stage, problem.objective)
    columns = stage.columns
    term = np.array([terms[name] for name in columns.variants])[columns.variant[point]]
    rule = problem.objective.accuracy_rule
    if rule in PRODUCTS:
        return term, np.zeros(len(point))
    shares = problem.shares
    whole = sum(shares) if rule is AccuracyRule.MEAN else 1.0
    return np.ones(len(point)), shares[index] * term / whole


def _change(
    problem: Problem, stage: StageProblem, point: Index, replicas: Index, now: tuple[float, float]
) -> tuple[Array, Array, tuple[Array, Array]]:
    """Cores that a change to each option starts, how much it changes, and the peak of cores and memory.

    New replicas start before old ones stop: both are paid and held for a while, as many of each as the
    problem's rolling says. Where only the number of replicas changes the larger number is.
    """
    columns = stage.columns
    each = _held(problem, stage)[point]
    cores, gib = replicas * each, replicas * columns.memory_gib[point]
    config: StageConfig | None = problem.running_config(stage)
    if config is None:
        return np.zeros(len(point)), np.zeros(len(point)), (cores, gib)
    variant = columns.variants.index(config.variant) if config.variant in columns.variants else -1
    same = (
        (columns.variant == variant)
        & (columns.batch_size == config.batch_size)
        & (columns.cores == config.cores)
    )[point]
    more = np.maximum(replicas - config.replicas, 0)
    started = np.where(same, more * each, cores)
    changes = np.where(same, (replicas != config.replicas).astype(np.float64), 2.0)
    both_cores = _both(problem.rolling, config.replicas, now[0], replicas, cores)
    both_gib = _both(problem.rolling, config.replicas, now[1], replicas, gib)
    peak_cores = np.where(same, np.maximum(cores, now[0]), both_cores)
    peak_gib = np.where(same, np.maximum(gib, now[1]), both_gib)
    return started, changes, (peak_cores, peak_gib)


def _both(rolling: Rolling, old_replicas: int, old: float, replicas: Index, new: Array) -> Array:
    """The peak of old and new replicas together, each with its total; as `ipa.model.rolling.peak_amount`."""
    if not rolling.shrinks_first:
        both: Array = new + old
        return both
    most = np.maximum(replicas, old_replicas)
    surge = np.ceil(rolling.surge_ratio * most - LESS_THAN_ONE)
    old_each, new_each = old / max(old_replicas, 1), new / np.maximum(replicas, 1)
    peak: Array = np.maximum(most * old_each + surge * new_each, most * new_each + surge * old_each)
    return peak
