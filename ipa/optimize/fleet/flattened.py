"""The flattened options of many plain problems: chains under the paper's latency, nothing fixed or running.

The formulas are those of `ipa.optimize.options` and `ipa.optimize.timing`, on all operating points together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.pipeline import AccuracyRule, Goal, Objective, Pin, StageBounds
from ipa.model.resources import CORES, IN_CORES
from ipa.optimize.accuracy import PRODUCTS, RANKS, variant_terms
from ipa.optimize.columns import Array, Index
from ipa.optimize.dominance import undominated_in_groups
from ipa.optimize.fleet.batches import LaneBatch, lane_stage, lanes_of
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.queueing.formation import ROUNDING, ceil_up

FREE, UNBOUND = Pin(), StageBounds()


def is_plain(problem: PlanningProblem) -> bool:
    """True if the problem's options can be built together with those of others."""
    bounds, objective = problem.bounds, problem.objective
    return (
        problem.compat is Compat.PAPER
        and objective.goal is Goal.WEIGHTED
        and not problem.running
        and bounds.limits.keys() <= {CORES}
        and problem.prices == IN_CORES
        and bounds.accuracy_floor is None
        and bounds.batch_sizes is None
        and len(problem.graph.paths) == 1
        and len(problem.graph.paths[0]) == len(problem.stages)
        and all(
            bool(stage.points)
            and stage.pin == FREE
            and stage.bounds == UNBOUND
            and all(edge.fan_out == 1.0 and edge.share == 1.0 for edge in stage.after)
            for stage in problem.stages
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class FlattenedOptions:
    """The options of all stages; `entry` numbers the stages of all problems one after the other."""

    entry: Index
    point: Index
    replicas: Array
    mean_s: Array
    cost: Array
    factor: Array
    value: Array

    def take(self, at: Index | NDArray[np.bool_]) -> FlattenedOptions:
        """Return those options only."""
        return FlattenedOptions(**{column.name: getattr(self, column.name)[at] for column in fields(self)})


def plain_lanes(
    problems: Sequence[PlanningProblem], weights: Array
) -> tuple[LaneBatch | None, Index, FlattenedOptions]:
    """The lanes of plain problems with the same number of stages, their problems, and their options.

    A missing problem has no plan. The lanes' options index `FlattenedOptions`. Worth is objective times
    weight.
    """
    stages = len(problems[0].stages)
    numbers = np.array([_numbers(problem) for problem in problems]).T
    options, alpha = _options(problems, weights, numbers)
    options = options.take(_fitting(options, stages, numbers))
    starts = np.searchsorted(options.entry, np.arange(len(problems) * stages + 1))
    alive = np.flatnonzero((np.diff(starts).reshape(-1, stages) > 0).all(axis=1))
    rows = np.array([-options.factor, -options.value, options.cost, options.mean_s])
    options = options.take(undominated_in_groups(rows, starts))
    lanes = _lanes(options, stages, alive, alpha, numbers) if len(alive) else None
    return lanes, alive, options


def _options(
    problems: Sequence[PlanningProblem], weights: Array, numbers: Array
) -> tuple[FlattenedOptions, Array]:
    """All options within the limits of one stage, and the weight of each problem's product."""
    stages = [stage for problem in problems for stage in problem.stages]
    columns = [stage.columns for stage in stages]
    counts = np.array([len(each) for each in columns])
    entry = np.repeat(np.arange(len(columns)), counts)
    problem = entry // len(problems[0].stages)
    batch_size = np.concatenate([each.batch_size for each in columns])
    capacity_rps = np.concatenate([each.capacity_rps for each in columns])
    cores = np.concatenate([each.cores for each in columns])
    latency_s = np.concatenate([each.latency_s for each in columns])
    rate_rps, _, _, fewest, most, widest, most_cores = numbers[:, problem]
    timeout_s = np.array([inf if s.batch_timeout_s is None else s.batch_timeout_s for s in stages])[entry]
    replicas = np.maximum(ceil_up(np.maximum(rate_rps / capacity_rps, 1.0)), fewest)
    cost = replicas * cores
    factor, gain, alpha = _accuracy(problems, weights, problem)
    beta = np.array([each.objective.beta for each in problems]) * weights
    delta = np.array([each.objective.delta for each in problems]) * weights
    options = FlattenedOptions(
        entry=entry,
        point=np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts),
        replicas=replicas,
        mean_s=latency_s + np.minimum((batch_size - 1) / rate_rps, timeout_s),
        cost=cost,
        factor=factor,
        value=gain - beta[problem] * cost - delta[problem] * batch_size,
    )
    limit = np.minimum(most, most_cores / cores + ROUNDING)
    return options.take((replicas <= limit) & (batch_size <= widest)), alpha


def _accuracy(
    problems: Sequence[PlanningProblem], weights: Array, problem: Index
) -> tuple[Array, Array, Array]:
    """Each point's factor and weighted gain, and the weight of each problem's product."""
    objectives = [each.objective for each in problems]
    terms = np.concatenate(
        [
            _ranks(stage, each.objective) if each.objective.accuracy_rule in RANKS else stage.columns.accuracy
            for each in problems
            for stage in each.stages
        ]
    )
    alpha = np.array([objective.alpha for objective in objectives]) * weights
    product = np.array([objective.accuracy_rule in PRODUCTS for objective in objectives])
    mean = np.array([objective.accuracy_rule is AccuracyRule.MEAN for objective in objectives])
    gain = np.where(product, 0.0, alpha / np.where(mean, len(problems[0].stages), 1))
    return np.where(product[problem], terms, 1.0), gain[problem] * terms, np.where(product, alpha, 0.0)


def _ranks(stage: StageProblem, objective: Objective) -> Array:
    terms = variant_terms(stage, objective)
    return np.array([terms[name] for name in stage.columns.variants])[stage.columns.variant]


def _fitting(options: FlattenedOptions, stages: int, numbers: Array) -> NDArray[np.bool_]:
    """True for options that keep the limits beside the lightest ones of the other stages."""
    kept = np.ones(len(options.entry), dtype=bool)
    for use, most in ((options.mean_s, numbers[1]), (options.cost, numbers[2])):
        least = np.full(numbers.shape[1] * stages, inf)
        np.minimum.at(least, options.entry, use)
        whole = least.reshape(-1, stages).sum(axis=1)
        allowed = most + 1e-9 * np.maximum(1.0, most)
        with np.errstate(invalid="ignore"):
            spare = np.repeat(allowed - whole, stages) + least
        kept &= use <= np.nan_to_num(spare, nan=-inf, posinf=inf, neginf=-inf)[options.entry]
    return kept


def _lanes(options: FlattenedOptions, stages: int, alive: Index, alpha: Array, numbers: Array) -> LaneBatch:
    lane_of = np.full(numbers.shape[1], -1)
    lane_of[alive] = np.arange(len(alive))
    most = numbers[1:3, alive]
    uses = np.array([options.mean_s, options.cost])
    if not np.isfinite(most[1]).any():
        most, uses = most[:1], uses[:1]
    lane = lane_of[options.entry // stages]
    made = []
    for stage in range(stages):
        at = np.flatnonzero((options.entry % stages == stage) & (lane >= 0))
        columns = (options.factor[at], options.value[at], options.cost[at], uses[:, at])
        made.append(lane_stage(lane[at], len(alive), at, *columns))
    return lanes_of(made, alpha[alive], most, 1)


def _numbers(problem: PlanningProblem) -> tuple[float, ...]:
    """Rate, SLA, most cost, fewest and most replicas, largest batch, and cores that one stage may take."""
    bounds, objective = problem.bounds, problem.objective
    cores = inf if bounds.cores is None else bounds.cores
    cost = inf if objective.max_cost_cores is None else objective.max_cost_cores
    most = [limit for limit in (bounds.max_replicas, objective.max_replicas) if limit is not None]
    widest = inf if objective.max_batch_size is None else objective.max_batch_size
    return (
        problem.rate_rps,
        problem.sla_s,
        min(cores, cost),
        max(1, bounds.min_replicas),
        min(most, default=inf),
        widest,
        cores,
    )
