"""Plan a set of variants side by side (InfAdapter) for a single-stage pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np

from ipa.model.errors import Problem as Fault
from ipa.model.errors import UsageError
from ipa.model.pipeline import Goal, Pipeline
from ipa.model.plan import quota_cores
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.model.resources import CORES, beside_of
from ipa.optimize.accuracy import RANKS
from ipa.optimize.columns import Array, columns_of
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.set_solve import solve_set
from ipa.optimize.sets import CoreLevel, SetPlan, SetProblem, SetVariant, SetWeights
from ipa.policies.planning import planning_problem
from ipa.queueing.saved_quota import sojourn_with_quota
from ipa.queueing.tail import sojourn

# The share of a measured capacity used in planning (InfAdapter): it stands for queueing.
COEFFICIENT = 0.8
# Rates tried at once, first over the whole capacity, then within the step found.
STEPS = 320

TailLatency = Callable[[OperatingPoint, Array], Array]


@dataclass(frozen=True, slots=True)
class SetQuestion:
    """The set program of a pipeline, and the best batch size of each (variant, cores)."""

    sla_s: float
    objective_name: str
    compat: Compat
    problem: SetProblem
    batch_sizes: Mapping[tuple[str, float], int]


@dataclass(frozen=True, slots=True)
class PipelineSet:
    """The best set of a pipeline's only stage, shares in whole percents, and its question."""

    asked: SetQuestion
    plan: SetPlan

    def to_json(self) -> dict[str, Any]:
        """The set as plain JSON values: those of the set plan, its question, and each part's batch size."""
        asked = self.asked
        values = self.plan.to_json()
        values["parts"] = [
            {**part, "batch_size": asked.batch_sizes[part["variant"], part["cores"]]}
            for part in values["parts"]
        ]
        return {
            "pipeline": values.pop("task"),
            **values,
            "sla_s": asked.sla_s,
            "objective_name": asked.objective_name,
            "compat": asked.compat.value,
            "budget_cores": asked.problem.budget_cores,
        }


def plan_set(asked: SetQuestion, deadline_s: float) -> PipelineSet:
    """The best set with shares in whole percents, as the predictors of a deployment require.

    Errors: those of `solve_set`.
    """
    return PipelineSet(asked, solve_set(asked.problem, deadline_s, whole_percents=True))


def set_question(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    *,
    objective: str | None = None,
    compat: Compat = Compat.PAPER,
) -> SetQuestion:
    """The set program of carrying `rate_rps` at the named objective (None: the pipeline's default).

    Each variant has one replica of any measured size; th(c) is that of its best batch size. `paper`: the
    measured capacity under the objective's throughput margin, or InfAdapter's 0.8 without one, if service and
    batch timeout are within the SLA. `tail`: the largest rate whose tail is within the SLA by the planner's
    formula. The budget is the tighter of `bounds.cores` and `max_cost_cores`; other bounded resources are
    limits, and prices the cost. γ is 0: pipelines give loading
    no worth. δ is not used.

    Errors: UsageError (not one stage, or limits that sets do not support), those of `planning_problem`.
    """
    problem = planning_problem(pipeline, profiles, rate_rps, objective=objective, compat=compat)
    faults = [Fault(fault) for fault in _faults(problem)]
    if faults:
        raise UsageError(f"pipeline {pipeline.name!r} cannot be planned as a set", problems=faults)
    (stage,) = problem.stages
    best = _best_levels(problem, stage)
    any_point = {point.variant: point for point in stage.points}
    variants = tuple(
        SetVariant(
            name,
            accuracy,
            tuple(CoreLevel(cores, rate) for (variant, cores), (rate, _) in best.items() if variant == name),
            any_point[name].readiness_s,
            beside=beside_of(any_point[name]),
        )
        for name, accuracy in zip(stage.columns.variants, stage.columns.variant_accuracy, strict=True)
        if stage.pin.variant in (None, name)
    )
    most = [limit for limit in (problem.bounds.cores, problem.objective.max_cost_cores) if limit is not None]
    largest = sum(max((level.cores for level in variant.levels), default=0.0) for variant in variants)
    weights = SetWeights(problem.objective.alpha, problem.objective.beta, 0.0)
    budget_cores = min(most) if most else largest or 1.0
    return SetQuestion(
        sla_s=problem.sla_s,
        objective_name=problem.objective.name,
        compat=compat,
        problem=SetProblem(
            pipeline.name,
            rate_rps,
            budget_cores,
            weights,
            variants,
            limits={name: most for name, most in problem.bounds.limits.items() if name != CORES},
            prices=problem.prices,
        ),
        batch_sizes={key: batch_size for key, (_, batch_size) in best.items()},
    )


def _faults(problem: PlanningProblem) -> Iterator[str]:
    """The reasons why no set can be planned; a set would silently break limits that it does not support."""
    if len(problem.stages) > 1 or problem.stages[0].is_free:
        yield f"a set shares the load of one stage out, and it has {len(problem.stages)}"
        return
    (stage,), objective, bounds = problem.stages, problem.objective, problem.bounds
    if problem.compat is Compat.IPA_ARTIFACT:
        yield "the semantics ipa-artifact are those of IPA's program, which knows no sets"
    if objective.goal is not Goal.WEIGHTED:
        yield f"objective {objective.name!r} has the goal {objective.goal.value}; sets are for weighted"
    if objective.accuracy_rule in RANKS:
        rule = objective.accuracy_rule.value
        yield f"objective {objective.name!r} counts accuracy as {rule}; a set has a mean of accuracies"
    if bounds.accuracy_floor is not None:
        yield f"bounds.accuracy_floor is {bounds.accuracy_floor:g}; sets know no floor"
    least, _ = problem.replica_limits(stage)
    if least > 1:
        yield f"stage {stage.name!r} has at least {least} replicas; each variant of a set has one"


def _best_levels(problem: PlanningProblem, stage: StageProblem) -> dict[tuple[str, float], tuple[float, int]]:
    """The most that each variant carries on each number of cores, and the batch size for it."""
    points = tuple(point for point in stage.points if problem.allows(stage, point))
    tail: TailLatency | None = None
    coefficient = 1.0
    if problem.compat is Compat.TAIL:
        tail = stage_tail(stage.points, stage.batch_timeout_s, problem.percentile)
    elif not problem.objective.throughput_margin_ratio:
        coefficient = COEFFICIENT
    best: dict[tuple[str, float], tuple[float, int]] = {}
    for point in sorted(points, key=lambda point: point.batch_size):
        # Of a small share the timeout may end the wait for a batch.
        forming_s = (stage.batch_timeout_s or 0.0) if tail is None and point.batch_size > 1 else 0.0
        if point.latency_s + forming_s > problem.sla_s:
            continue
        rate_rps = point.capacity_rps if tail is None else largest_rate(point, problem.sla_s, tail)
        carried_rps, key = coefficient * rate_rps, (point.variant, point.cores)
        if carried_rps > 0 and (key not in best or carried_rps > best[key][0]):
            best[key] = (carried_rps, point.batch_size)
    return best


def stage_tail(
    points: Sequence[OperatingPoint], timeout_s: float | None = None, percentile: float = 99.0
) -> TailLatency:
    """The tail of the time at a stage of one replica, as a function of one of its points and rates.

    As the planner charges it under `Compat.TAIL`: random arrivals, batches sent after `timeout_s` at the
    latest.
    """
    single_s = dict(zip(points, columns_of(points).single_s.tolist(), strict=True))

    def tail_latency_s(point: OperatingPoint, rates_rps: Array) -> Array:
        mean_s = point.latency_s if point.latency_mean_s is None else point.latency_mean_s
        # A replica is busy for longer if the measured throughput is lower than the service time allows.
        busy_s = max(mean_s, point.batch_size / point.capacity_rps)
        column = np.ones_like(rates_rps)
        quota = quota_cores(point.cores)
        formula = partial(sojourn_with_quota, sojourn, quota * column, inf) if quota else sojourn
        return formula(
            point.batch_size * column,
            column,
            busy_s * column,
            max(point.latency_s, busy_s) * column,
            rates_rps,
            items=column,
            timeout_s=(inf if timeout_s is None else timeout_s) * column,
            percentile=percentile,
            service_one_s=min(single_s[point], busy_s) * column,
        ).quantile_s

    return tail_latency_s


def largest_rate(point: OperatingPoint, slo_s: float, tail_latency_s: TailLatency) -> float:
    """The largest rate, to 1e-5 of the capacity, at which and below which the tail meets the SLO.

    Below it too, since a quota may be anything up to it and batches form more slowly at low rates.
    """
    low, width = 0.0, 1.0
    for _ in range(2):
        parts = low + width * np.arange(1, STEPS) / STEPS
        meets = tail_latency_s(point, parts * point.capacity_rps) <= slo_s
        good = int(np.argmin(meets)) if not meets.all() else STEPS - 1
        low, width = low + width * good / STEPS, width / STEPS
    return low * point.capacity_rps
