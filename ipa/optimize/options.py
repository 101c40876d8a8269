"""The options of each stage at the rate, from which a plan chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log

import numpy as np

from ipa.model.rolling import ROUNDING as LESS_THAN_ONE
from ipa.model.rolling import Rolling
from ipa.optimize.accuracy import PRODUCTS
from ipa.optimize.candidates import CandidateBlock, Candidates, candidates_of
from ipa.optimize.columns import Array, Index
from ipa.optimize.dominance_filter import reduce_program
from ipa.optimize.item_counts import ItemCount, levels_of
from ipa.optimize.problem import PlanningProblem, StageProblem
from ipa.optimize.program import NUMBERS, PLACE, Options, Program, Weights, options_of, value_of
from ipa.optimize.timing import option_times

TIMES = slice(PLACE["service_s"], PLACE["spread_s2"] + 1)


def build_program(problem: PlanningProblem) -> Program:
    """The program of a problem, its dominated and hopeless options removed; no best plan is lost.

    A stage may be left without options: then nothing is feasible.
    """
    return reduce_program(full_program(problem))


def full_program(problem: PlanningProblem) -> Program:
    """The program of a problem with all its options."""
    return program_of(problem, draft_of(problem))


@dataclass(frozen=True, slots=True, eq=False)
class UntimedOptions:
    """The options without their times: `numbers` has the rows of `NUMBERS`.

    `candidates` is None if the pipeline's own routers do all the work. `now` is each stage's present use.
    """

    weights: Weights
    now: list[tuple[float, float]]
    levels: list[list[ItemCount]]
    candidates: Candidates | None
    numbers: Array

    def take(self, at: Index) -> UntimedOptions:
        """Return the draft with those candidates only."""
        assert self.candidates is not None
        return replace(self, candidates=self.candidates.take(at), numbers=self.numbers.take(at, axis=1))


def draft_of(problem: PlanningProblem) -> UntimedOptions:
    """The problem's options without their times; the arithmetic is on all at once."""
    objective = problem.objective
    transition = objective.transition_per_core if problem.running else 0.0
    weights = Weights(objective.alpha, objective.beta, objective.delta, transition)
    now = [_running_use(problem, stage) for stage in problem.stages]
    levels = levels_of(problem)
    blocks = [
        CandidateBlock(at, level)
        for at, stage in enumerate(problem.stages)
        if not stage.is_free
        for level in levels[at]
    ]
    if not blocks:
        return UntimedOptions(weights, now, levels, None, np.empty((len(NUMBERS), 0)))
    candidates = candidates_of(problem, blocks)
    return UntimedOptions(weights, now, levels, candidates, _numbers(problem, candidates, weights, now))


def program_of(problem: PlanningProblem, draft: UntimedOptions) -> Program:
    """The program of a problem with the draft's options."""
    objective, bounds = problem.objective, problem.bounds
    floor = bounds.accuracy_floor or 0.0
    now = draft.now
    return Program(
        graph=problem.graph,
        stages=_stages(problem, draft),
        weights=draft.weights,
        uses_product=objective.accuracy_rule in PRODUCTS,
        sla_s=problem.sla_s,
        # Running replicas may stay even if the budget has shrunk below them.
        cores=_most_cores(problem, problem.fixed_cores + sum(cores for cores, _ in now)),
        memory_gib=inf if bounds.memory_gib is None else max(bounds.memory_gib, sum(gib for _, gib in now)),
        max_cost=min(
            inf if bounds.cores is None or not problem.running else bounds.cores,
            inf if objective.max_cost_cores is None else objective.max_cost_cores,
        ),
        log_floor=log(floor) if floor > 0 else -inf,
    )


def _most_cores(problem: PlanningProblem, now_cores: float) -> float:
    """The limit of cores: of the plan without a running configuration, else at every moment of the change."""
    limit = problem.bounds.most_cores if problem.running else problem.bounds.cores
    return inf if limit is None else max(limit, now_cores)


def _running_use(problem: PlanningProblem, stage: StageProblem) -> tuple[float, float]:
    """Present cores and memory of the stage's replicas."""
    config = problem.running_config(stage)
    if config is None:
        return 0.0, 0.0
    gib = next((p.memory_gib for p in stage.points if p.variant == config.variant), 0.0)
    return problem.held(config).total_cores, gib * config.replicas


def _stages(problem: PlanningProblem, draft: UntimedOptions) -> tuple[Options, ...]:
    """The options of each stage, their times included."""
    candidates, numbers, levels = draft.candidates, draft.numbers, draft.levels
    if candidates is not None:
        numbers[TIMES] = option_times(problem, candidates)
    stages, first = [], 0
    for at, stage in enumerate(problem.stages):
        if stage.is_free or candidates is None:
            stages.append(_free_options(levels[at]))
            continue
        last = first + len(levels[at])
        stages.append(_stage_options(stage, candidates, numbers, range(first, last)))
        first = last
    return tuple(stages)


def _stage_options(stage: StageProblem, candidates: Candidates, numbers: Array, blocks: range) -> Options:
    """The options of one stage, whose blocks come one after the other, in the order of names."""
    whole = slice(candidates.first[blocks.start], candidates.first[blocks.stop])
    levels = [candidates.blocks[block].level for block in blocks]
    onward = [
        _onward(level, len(stage.columns.variants)).take(
            candidates.variant[candidates.first[block] : candidates.first[block + 1]], axis=1
        )
        for block, level in zip(blocks, levels, strict=True)
    ]
    enter = np.array([level.number for level in levels])[candidates.block[whole] - blocks.start]
    point, replicas = candidates.point[whole], candidates.replicas[whole]
    options = options_of(point, replicas, enter, np.concatenate(onward, axis=1), numbers[:, whole])
    if len(blocks) == 1:
        return options
    # Each block is in the order of names already.
    rank = np.argsort(stage.columns.order)
    return options.take(np.lexsort((options.enter, options.replicas, rank[options.point])))


def _onward(level: ItemCount, variants: int) -> Index:
    """(children × variants), one column if a stage has no variants left: it has no options then."""
    return np.array(level.onward, dtype=np.intp).reshape(len(level.onward), max(1, variants))


def _free_options(levels: Sequence[ItemCount]) -> Options:
    """The options of the pipeline's own router, at no cost, for each number of items."""
    row = dict.fromkeys(NUMBERS, 0.0) | {"accuracy": 1.0, "factor": 1.0}
    numbers = np.repeat(np.array([*row.values()])[:, None], len(levels), axis=1)
    numbers[PLACE["items"]] = [level.items for level in levels]
    none = np.zeros(len(levels), dtype=np.intp)
    enter = np.array([level.number for level in levels], dtype=np.intp)
    leave = np.concatenate([_onward(level, 1)[:, :1] for level in levels], axis=1)
    return options_of(none - 1, none, enter, leave, numbers)


def _numbers(
    problem: PlanningProblem, candidates: Candidates, weights: Weights, now: list[tuple[float, float]]
) -> Array:
    """The rows of `NUMBERS`, an entry a candidate; those of the times are still empty."""
    replicas = candidates.replicas
    cores, gib = replicas * candidates.held_cores, replicas * candidates.memory_gib
    started, changes, (peak_cores, peak_gib) = _change(problem, candidates, (cores, gib), now)
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
        "cost_cores": cores + fixed_cores,
        "memory_gib": gib,
        "peak_cores": peak_cores + fixed_cores,
        "peak_gib": peak_gib,
        "started_cores": started,
        "changes": changes,
    }
    numbers = np.empty((len(NUMBERS), len(replicas)))
    for name, row in rows.items():
        numbers[PLACE[name]] = row
    options = Options(np.empty((0, len(replicas)), dtype=np.intp), numbers)
    options.value[:] = value_of(weights, options, is_product)
    return numbers


def _fixed_cores(problem: PlanningProblem, candidates: Candidates) -> Array | float:
    """Cores of one-off overhead: counted with the first stage, of which every plan has one option."""
    if not problem.fixed_cores:
        return 0.0
    first = candidates.blocks[0].index
    counted = np.array([block.index == first for block in candidates.blocks])
    fixed: Array = problem.fixed_cores * counted[candidates.block]
    return fixed


def _change(
    problem: PlanningProblem, candidates: Candidates, use: tuple[Array, Array], now: list[tuple[float, float]]
) -> tuple[Array | float, Array | float, tuple[Array, Array]]:
    """Cores started by a change to each option, the size of the change, and the peak of cores and memory.

    New replicas start before old ones stop: both are paid and held for a while, as many of each as the
    problem's rolling says. If only the number of replicas changes the larger number is. `use` is each
    option's use of both.
    """
    if not problem.running:
        return 0.0, 0.0, use
    running = np.array([_running_row(problem, block, now) for block in candidates.blocks]).T
    is_known, variant, batch_size, each_cores, old, now_cores, now_gib = running[:, candidates.block]
    cores, gib = use
    replicas = candidates.replicas
    same = (
        (candidates.variant == variant)
        & (candidates.batch_size == batch_size)
        & (candidates.cores == each_cores)
    )
    more = np.maximum(replicas - old, 0) * candidates.held_cores
    started = is_known * np.where(same, more, cores)
    changes = is_known * np.where(same, replicas != old, 2.0)
    both_cores = _both(problem.rolling, old, now_cores, replicas, cores)
    both_gib = _both(problem.rolling, old, now_gib, replicas, gib)
    peak_cores = np.where(same, np.maximum(cores, now_cores), both_cores)
    peak_gib = np.where(same, np.maximum(gib, now_gib), both_gib)
    new = is_known == 0
    return started, changes, (np.where(new, cores, peak_cores), np.where(new, gib, peak_gib))


def _running_row(
    problem: PlanningProblem, block: CandidateBlock, now: list[tuple[float, float]]
) -> tuple[float, ...]:
    """The block's running configuration: known or not, variant, batch size, cores, replicas, use.

    A variant that is not among the stage's has the number −1.
    """
    stage = problem.stages[block.index]
    config = problem.running_config(stage)
    if config is None:
        return (0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    variants = stage.columns.variants
    number = variants.index(config.variant) if config.variant in variants else -1
    return (1.0, number, config.batch_size, config.cores, config.replicas, *now[block.index])


def _both(rolling: Rolling, old_replicas: Array, old: Array, replicas: Index, new: Array) -> Array:
    """The peak of old and new replicas together, each with its total; as `ipa.model.rolling.peak_amount`."""
    if not rolling.shrinks_first:
        both: Array = new + old
        return both
    most = np.maximum(replicas, old_replicas)
    surge = np.ceil(rolling.surge_ratio * most - LESS_THAN_ONE)
    old_each, new_each = old / np.maximum(old_replicas, 1), new / np.maximum(replicas, 1)
    peak: Array = np.maximum(most * old_each + surge * new_each, most * new_each + surge * old_each)
    return peak
