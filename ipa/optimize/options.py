"""The options of each stage at the rate; a plan chooses one per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, log

import numpy as np

from ipa.model.resources import CORES, IN_CORES, NO_RESOURCES
from ipa.model.rolling import ROUNDING, Rolling
from ipa.optimize.candidates import (
    PRODUCTS,
    CandidateBlock,
    Candidates,
    ItemCount,
    candidates_of,
    levels_of,
)
from ipa.optimize.problem import Array, Index, PlanningProblem, StageProblem
from ipa.optimize.program import (
    NUMBERS,
    PLACE,
    Options,
    Program,
    ResourceBudget,
    Weights,
    options_of,
    value_of,
)
from ipa.optimize.timing import option_times

TIMES = slice(PLACE["service_s"], PLACE["spread_s2"] + 1)


def full_program(problem: PlanningProblem) -> Program:
    """The program of a problem with all its options."""
    return program_of(problem, draft_of(problem))


def draft_of(problem: PlanningProblem) -> Candidates:
    """The problem's options without their times, all computed at once."""
    levels = levels_of(problem)
    blocks = [
        CandidateBlock(at, level)
        for at, stage in enumerate(problem.stages)
        if not stage.is_free
        for level in levels[at]
    ]
    candidates = candidates_of(problem, blocks)
    return replace(candidates, numbers=_numbers(problem, candidates))


def _limits(problem: PlanningProblem) -> dict[str, float]:
    """The limits of resources other than cores, by name."""
    return {name: most for name, most in problem.bounds.limits.items() if name != CORES}


def _running_use(problem: PlanningProblem) -> list[tuple[float, ...]]:
    """For each stage the present use of cores, then of each limited resource, by its replicas."""
    limits, use = _limits(problem), []
    for stage in problem.stages:
        config = problem.running_config(stage)
        if config is None:
            use.append((0.0, *(0.0 for _ in limits)))
            continue
        each = problem.beside(stage, config.variant) * config.replicas if limits else NO_RESOURCES
        use.append((problem.with_overhead(config).total_cores, *(each.amount(name) for name in limits)))
    return use


def _budgets(problem: PlanningProblem, now: Sequence[tuple[float, ...]]) -> tuple[ResourceBudget, ...]:
    """The budgets of the limits; with free changes, they hold only after the change.

    Running replicas may stay above a limit, but no plan may end above it.
    """
    budgets = []
    for at, (name, most) in enumerate(_limits(problem).items(), 1):
        used = inf if problem.bounds.any_change else sum(use[at] for use in now)
        budgets.append(ResourceBudget(name, used, most) if used > most else ResourceBudget(name, most))
    return tuple(budgets)


def _weights(problem: PlanningProblem) -> Weights:
    objective = problem.objective
    transition = objective.transition_per_core if problem.running else 0.0
    return Weights(objective.alpha, objective.beta, objective.delta, transition)


def program_of(problem: PlanningProblem, candidates: Candidates) -> Program:
    """The program of a problem with these options."""
    objective, bounds = problem.objective, problem.bounds
    floor = bounds.accuracy_floor or 0.0
    now = _running_use(problem)
    # The limit of cores: of the plan without a running configuration, else at every moment of the change.
    limit = bounds.most_cores if problem.running else bounds.cores
    budgets = _budgets(problem, now)
    return Program(
        graph=problem.graph,
        stages=_stages(problem, candidates, budgets),
        weights=_weights(problem),
        uses_product=objective.accuracy_rule in PRODUCTS,
        sla_s=problem.sla_s,
        # Running replicas may stay even if the budget has shrunk below them.
        cores=inf if limit is None else max(limit, problem.fixed_cores + sum(use[0] for use in now)),
        budgets=budgets,
        max_cost=min(
            inf if bounds.cores is None or not problem.running else bounds.cores,
            inf if objective.max_cost_cores is None else objective.max_cost_cores,
            inf if bounds.front is None else bounds.front.left_cores(problem.rate_rps),
        ),
        log_floor=log(floor) if floor > 0 else -inf,
        is_priced=problem.prices != IN_CORES,
    )


def _stages(
    problem: PlanningProblem, candidates: Candidates, budgets: Sequence[ResourceBudget]
) -> tuple[Options, ...]:
    """The options of each stage, their times included."""
    numbers, levels = candidates.numbers, levels_of(problem)
    numbers[TIMES] = option_times(problem, candidates.points, candidates.replicas, candidates.scalars)
    stages, first = [], 0
    for stage, of_stage in zip(problem.stages, levels, strict=True):
        if stage.is_free:
            stages.append(_free_options(of_stage, budgets))
            continue
        stages.append(_stage_options(stage, candidates, range(first, first + len(of_stage))))
        first += len(of_stage)
    return tuple(stages)


def _stage_options(stage: StageProblem, candidates: Candidates, blocks: range) -> Options:
    """The options of one stage, whose blocks follow one another, in the order of names."""
    slices = candidates.slices[blocks.start : blocks.stop]
    whole = slice(slices[0].start, slices[-1].stop)
    levels = [candidates.blocks[block].level for block in blocks]
    onward = [
        _onward(level, len(stage.columns.variants)).take(candidates.variant[own], axis=1)
        for level, own in zip(levels, slices, strict=True)
    ]
    leave = np.concatenate(onward, axis=1)
    enter = np.array([level.number for level in levels])[candidates.block[whole] - blocks.start]
    point, replicas = candidates.point[whole], candidates.replicas[whole]
    options = options_of(point, replicas, enter, leave, candidates.numbers[:, whole])
    if len(blocks) == 1:
        return options
    # Each block is already in the order of names.
    rank = np.argsort(stage.columns.order)
    return options.take(np.lexsort((options.enter, options.replicas, rank[options.point])))


def _onward(level: ItemCount, variants: int) -> Index:
    """The children's number of items for each variant (children × variants), at least one column."""
    return np.array(level.onward, dtype=np.intp).reshape(len(level.onward), max(1, variants))


def _free_options(levels: Sequence[ItemCount], budgets: Sequence[ResourceBudget]) -> Options:
    """The options of the pipeline's own router, at no cost, for each number of items."""
    row = dict.fromkeys(NUMBERS, 0.0) | {"accuracy": 1.0, "factor": 1.0}
    column = [*row.values(), *(0.0 for _ in budgets for _ in range(2))]
    numbers = np.repeat(np.array(column)[:, None], len(levels), axis=1)
    numbers[PLACE["items"]] = [level.items for level in levels]
    none = np.zeros(len(levels), dtype=np.intp)
    enter = np.array([level.number for level in levels], dtype=np.intp)
    leave = np.concatenate([_onward(level, 1)[:, :1] for level in levels], axis=1)
    return options_of(none - 1, none, enter, leave, numbers)


def _numbers(problem: PlanningProblem, candidates: Candidates) -> Array:
    """The rows of `NUMBERS` and of the budgets, one entry per candidate, with the times still empty."""
    replicas, now = candidates.replicas, _running_use(problem)
    budgets = _budgets(problem, now)
    cores = replicas * candidates.held_cores
    used = [replicas * _beside(problem, candidates, budget.name) for budget in budgets]
    started, changes, (peak_cores, *peaks) = _change(problem, candidates, [cores, *used], now)
    fixed_cores = _fixed_cores(problem, candidates)
    is_product = problem.objective.accuracy_rule in PRODUCTS
    rows = {
        "items": candidates.items,
        "accuracy": candidates.accuracy,
        # The accuracy is in the factor under a product, else in the gain.
        "factor": candidates.term if is_product else 1.0,
        "gain": 0.0 if is_product else candidates.term,
        "value": 0.0,
        "batch_size": candidates.batch_size,
        "cost": _cost(problem, candidates, cores + fixed_cores),
        "cost_cores": cores + fixed_cores,
        "peak_cores": peak_cores + fixed_cores,
        "started_cores": started,
        "changes": changes,
    }
    numbers = np.empty((len(NUMBERS) + 2 * len(budgets), len(replicas)))
    for name, row in rows.items():
        numbers[PLACE[name]] = row
    for at, (held, peak) in enumerate(zip(used, peaks, strict=True)):
        numbers[len(NUMBERS) + 2 * at : len(NUMBERS) + 2 * at + 2] = held, peak
    options = Options(np.empty((0, len(replicas)), dtype=np.intp), numbers)
    options.value[:] = value_of(_weights(problem), options, is_product)
    return numbers


def _beside(problem: PlanningProblem, candidates: Candidates, name: str) -> Array:
    """The amount of the named resource, other than cores, of one replica of each candidate."""
    amounts = np.zeros(len(candidates.point))
    for block, own in zip(candidates.blocks, candidates.slices, strict=True):
        known = problem.stages[block.index].columns.beside.get(name)
        if known is not None:
            amounts[own] = known.take(candidates.point[own])
    return amounts


def _cost(problem: PlanningProblem, candidates: Candidates, cores: Array) -> Array:
    """The price of each candidate's resources, including overhead."""
    if problem.prices == IN_CORES:
        return cores
    cost = problem.prices.each.get(CORES, 0.0) * cores
    for name, price in problem.prices.each.items():
        if name != CORES and price:
            cost = cost + price * candidates.replicas * _beside(problem, candidates, name)
    return cost


def _fixed_cores(problem: PlanningProblem, candidates: Candidates) -> Array | float:
    """Cores of one-off overhead, counted with the first stage, of which every plan has one option."""
    if not problem.fixed_cores or not candidates.blocks:
        return 0.0
    first = candidates.blocks[0].index
    counted = np.array([block.index == first for block in candidates.blocks])
    fixed: Array = problem.fixed_cores * counted[candidates.block]
    return fixed


def _change(
    problem: PlanningProblem, candidates: Candidates, use: list[Array], now: list[tuple[float, ...]]
) -> tuple[Array | float, Array | float, list[Array]]:
    """Cores started by a change to each option, the size of the change, and the peak of each resource.

    New replicas start before old ones stop, as many at a time as the problem's `rolling` allows: both are
    paid for and held meanwhile. If replicas only change in number, or switch to a resident variant, the peak
    is the larger number. `use` is each option's use of cores, then of each budget.
    """
    if not problem.running or not candidates.blocks:
        return 0.0, 0.0, use
    running = np.array([_running_row(problem, block, now) for block in candidates.blocks]).T
    is_known, variant, batch_size, each_cores, old, *now_used = running[:, candidates.block]
    cores = use[0]
    replicas = candidates.replicas
    is_variant, is_batch = candidates.variant == variant, candidates.batch_size == batch_size
    is_cores = candidates.cores == each_cores
    switches = [problem.stages[each.index].name in problem.rolling.switches for each in candidates.blocks]
    is_switching = np.array(switches)[candidates.block]
    as_before = is_variant & is_batch & is_cores
    keeps_batch = is_variant & (is_batch | problem.rolling.rebatches)
    # As `ipa.model.rolling.threads_of`.
    threads, old_threads = (np.ceil(np.maximum(each, 1.0)) for each in (candidates.cores, each_cores))
    resized = is_switching & problem.rolling.resizes & (threads == old_threads)
    same = (is_cores | resized) & (keeps_batch | is_switching)
    more = np.maximum(replicas - old, 0) * candidates.held_cores
    started = is_known * np.where(same, more, cores)
    changes = is_known * np.where(same, (replicas != old) | ~as_before, 2.0)
    new = is_known == 0
    # As `ipa.model.rolling.first_hop`.
    most = np.floor(np.maximum(each_cores * old, candidates.cores * replicas) / candidates.cores + ROUNDING)
    hop = np.where(replicas < old, np.minimum(old, np.maximum(replicas, most)), replicas)
    peaks = []
    for after, before in zip(use, now_used, strict=True):
        both = _both(problem.rolling, old, before, replicas, after, hop)
        in_place = _peak_in_place(old, before, replicas, after)
        peaks.append(np.where(new, after, np.where(same, in_place, both)))
    return started, changes, peaks


def _running_row(
    problem: PlanningProblem, block: CandidateBlock, now: list[tuple[float, ...]]
) -> tuple[float, ...]:
    """The block's running configuration: known or not, variant, batch size, cores, replicas, use.

    A variant that the stage lacks has the number −1.
    """
    stage = problem.stages[block.index]
    config = problem.running_config(stage)
    if config is None:
        return (0.0, -1.0, 0.0, 0.0, 0.0, *now[block.index])
    variants = stage.columns.variants
    number = variants.index(config.variant) if config.variant in variants else -1
    return (1.0, number, config.batch_size, config.cores, config.replicas, *now[block.index])


def _peak_in_place(old_replicas: Array, old: Array, replicas: Index, new: Array) -> Array:
    """The peak of replicas that stay, each with its total; as `ipa.model.rolling.peak_of`."""
    old_each, new_each = old / np.maximum(old_replicas, 1), new / np.maximum(replicas, 1)
    staying = np.minimum(old_replicas, replicas)
    grown = np.maximum(old_each, new_each) * staying
    peak: Array = grown + old_each * (old_replicas - staying) + new_each * (replicas - staying)
    return peak


def _both(
    rolling: Rolling, old_replicas: Array, old: Array, replicas: Index, new: Array, hop: Array
) -> Array:
    """The peak of old and new replicas together, each with its total; as `ipa.model.rolling.peak_of`."""
    if not rolling.shrinks_first:
        both: Array = new + old
        return both
    surge = np.ceil(rolling.surge_ratio * hop - ROUNDING)
    old_each, new_each = old / np.maximum(old_replicas, 1), new / np.maximum(replicas, 1)
    peak: Array = np.maximum(hop * old_each + surge * new_each, hop * new_each + surge * old_each)
    return np.maximum(peak, old)
