"""What each stage can do at the rate: its options, without those that can never be in a best plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import AccuracyRule, Objective
from ipa.model.profile import OperatingPoint
from ipa.optimize.accuracy import PRODUCTS, variant_terms
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Compat, Problem
from ipa.queueing.capacity import replicas_to_carry
from ipa.queueing.formation import batches_in_sequence, ceil_ratio, formation_wait_s, released_wait_s

# Candidates compared at once: large enough for NumPy, small enough for the cache.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a stage, replicas already fixed.

    `factor` multiplies along the chain and `value` adds up: the objective of a plan is
    Program.alpha · Π factor + Σ value. `service_s` is the time of the batches that a request needs one after
    the other, `wait_s` the queueing term.
    """

    point: OperatingPoint
    replicas: int
    service_s: float
    wait_s: float
    factor: float
    value: float

    @property
    def latency_s(self) -> float:
        """What the option takes of the SLA."""
        return self.service_s + self.wait_s

    @property
    def cost_cores(self) -> float:
        """Cores of all replicas."""
        return self.replicas * self.point.cores

    @property
    def log_accuracy(self) -> float:
        """ln of the accuracy, −inf for 0: adds up to ln PAS."""
        return log(self.point.accuracy) if self.point.accuracy > 0 else -inf

    @property
    def order(self) -> tuple[str, int, float, int]:
        """Where it stands among its stage's options: by names, then batch size, cores and replicas."""
        return (self.point.variant, self.point.batch_size, self.point.cores, self.replicas)


@dataclass(frozen=True, slots=True)
class Program:
    """The optimisation in plain numbers: choose one option of each stage.

    max alpha · Π factor + Σ value
    s.t. Σ latency_s ≤ sla_s, Σ cost_cores ≤ cores, Σ ln accuracy ≥ log_floor
    """

    stages: tuple[tuple[Option, ...], ...]
    alpha: float
    sla_s: float
    cores: float
    log_floor: float


def build_program(problem: Problem) -> Program:
    """The program of a problem, its dominated and hopeless options removed; no best plan is lost.

    A stage may be left without options: then nothing is feasible.
    """
    floor = problem.bounds.accuracy_floor or 0.0
    program = Program(
        stages=tuple(
            tuple(sorted(_options(problem, index), key=lambda option: option.order))
            for index in range(len(problem.stages))
        ),
        alpha=problem.objective.alpha if problem.objective.accuracy_rule in PRODUCTS else 0.0,
        sla_s=problem.sla_s,
        cores=inf if problem.bounds.cores is None else problem.bounds.cores,
        log_floor=log(floor) if floor > 0 else -inf,
    )
    return reduce_program(program)


def reduce_program(program: Program) -> Program:
    """The same program without options that cannot be in a plan, or need not be in a best one."""
    fitting = _without_hopeless(program)
    keep_accuracy = program.log_floor > -inf
    stages = tuple(_without_dominated(stage, keep_accuracy) for stage in fitting)
    return Program(stages, program.alpha, program.sla_s, program.cores, program.log_floor)


def _options(problem: Problem, index: int) -> Iterator[Option]:
    stage, items = problem.stages[index], problem.items[index]
    rate_rps = problem.rate_rps * items
    terms = variant_terms(stage, problem.objective)
    variants = len({point.variant for point in stage.points})
    for point in filter(problem.allows, stage.points):
        if problem.compat is Compat.IPA_ARTIFACT:
            wait_s = released_wait_s(variants, problem.batch_sizes, rate_rps)
        else:
            wait_s = formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s)
        for replicas in _replica_counts(problem, point, rate_rps, items):
            factor, value = _worth(problem, terms[point.variant], point, replicas)
            service_s = point.latency_s * batches_in_sequence(items, point.batch_size, replicas)
            yield Option(point, replicas, service_s, wait_s, factor, value)


def _replica_counts(problem: Problem, point: OperatingPoint, rate_rps: float, items: float) -> Iterator[int]:
    """The least n that carries the rate, and each larger n that takes one batch less in sequence.

    Between those n nothing but the cost changes. With one item a request there is only the least.
    """
    limit = inf if problem.max_replicas is None else float(problem.max_replicas)
    if problem.bounds.cores is not None:
        limit = min(limit, problem.bounds.cores / point.cores + 1e-9)
    least = replicas_to_carry(rate_rps, point.capacity_rps, problem.bounds.min_replicas)
    sequence = batches_in_sequence(items, point.batch_size, least)
    counts = {least} | {
        max(least, ceil_ratio(items, shorter * point.batch_size)) for shorter in range(1, sequence)
    }
    return (count for count in sorted(counts) if count <= limit)


def _worth(problem: Problem, term: float, point: OperatingPoint, replicas: int) -> tuple[float, float]:
    """The option's factor and value: the accuracy is in the factor under a product, else in the value."""
    objective: Objective = problem.objective
    value = -objective.beta * replicas * point.cores - objective.delta * point.batch_size
    if objective.accuracy_rule in PRODUCTS:
        return term, value
    share = len(problem.stages) if objective.accuracy_rule is AccuracyRule.MEAN else 1
    return 1.0, objective.alpha * term / share + value


def _without_hopeless(program: Program) -> list[tuple[Option, ...]]:
    """Drop what breaks a limit even beside the other stages' lightest options."""
    latency = [min((option.latency_s for option in stage), default=inf) for stage in program.stages]
    cost = [min((option.cost_cores for option in stage), default=inf) for stage in program.stages]
    log_accuracy = [max((option.log_accuracy for option in stage), default=-inf) for stage in program.stages]
    kept = []
    for index, stage in enumerate(program.stages):
        rest_s = sum(latency[:index]) + sum(latency[index + 1 :])
        rest_cores = sum(cost[:index]) + sum(cost[index + 1 :])
        rest_log = sum(log_accuracy[:index]) + sum(log_accuracy[index + 1 :])
        kept.append(
            tuple(
                option
                for option in stage
                if option.latency_s + rest_s <= program.sla_s + tolerance(program.sla_s)
                and option.cost_cores + rest_cores <= program.cores + tolerance(program.cores)
                and option.log_accuracy + rest_log >= program.log_floor - tolerance(1.0)
            )
        )
    return kept


def _without_dominated(stage: tuple[Option, ...], keep_accuracy: bool) -> tuple[Option, ...]:
    """Drop an option where another is as good in factor, value, cost, latency (and accuracy if it counts).

    Of equal ones the first stays. The value holds the batch term, and the accuracy term of additive rules.
    """
    if not stage:
        return stage
    columns = [
        [-option.factor for option in stage],
        [-option.value for option in stage],
        [option.cost_cores for option in stage],
        [option.latency_s for option in stage],
    ]
    if keep_accuracy:
        columns.append([-option.log_accuracy for option in stage])
    return tuple(stage[index] for index in undominated(np.array(columns)))


def undominated(columns: NDArray[np.float64], deadline: Deadline | None = None) -> list[int]:
    """The indices of the columns that no other column equals or undercuts in every row, ascending.

    `columns` is (criteria × candidates), all to be small. Of equal candidates the first stays.
    DeadlineError where the time is up before.
    """
    order = np.lexsort(columns[::-1])
    ranked = columns[:, order]
    kept = np.empty((len(columns), 0))
    kept_at: list[int] = []
    for start in range(0, ranked.shape[1], CHUNK):
        if deadline is not None and deadline.passed:
            raise DeadlineError("the solver's time is up")
        block, at = ranked[:, start : start + CHUNK], order[start : start + CHUNK]
        free = ~_covered(kept, block)
        block, at = block[:, free], at[free]
        within = np.ones((block.shape[1], block.shape[1]), dtype=bool)
        for row in block:
            np.logical_and(within, row[:, None] <= row[None, :], out=within)
        free = ~np.logical_or.reduce(np.triu(within, 1), axis=0)
        kept = np.hstack([kept, block[:, free]])
        kept_at.extend(int(index) for index in at[free])
    return sorted(kept_at)


def _covered(kept: NDArray[np.float64], block: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidates of the block some kept one equals or undercuts."""
    covering = np.ones((kept.shape[1], block.shape[1]), dtype=bool)
    for kept_row, row in zip(kept, block, strict=True):
        np.logical_and(covering, kept_row[:, None] <= row[None, :], out=covering)
    covered: NDArray[np.bool_] = np.logical_or.reduce(covering, axis=0)
    return covered


def tolerance(limit: float) -> float:
    """How far a sum may pass a limit by rounding alone: 1e-9, relative above 1."""
    return 1e-9 * max(1.0, limit) if limit < inf else 0.0


def evaluate(program: Program, chosen: Sequence[int]) -> tuple[float, float, float, float]:
    """Objective, latency, cores and ln PAS of the plan that takes option chosen[s] of each stage s."""
    options = [stage[index] for stage, index in zip(program.stages, chosen, strict=True)]
    product = 1.0
    for option in options:
        product *= option.factor
    return (
        program.alpha * product + sum(option.value for option in options),
        sum(option.latency_s for option in options),
        sum(option.cost_cores for option in options),
        sum(option.log_accuracy for option in options),
    )
