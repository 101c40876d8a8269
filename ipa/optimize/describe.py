"""The predicted performance of a given configuration, within the limits or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose

import numpy as np

from ipa.model.parts import parts_of, share_of
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig, StagePlan, Termination
from ipa.model.resources import beside_of
from ipa.optimize.candidates import accuracy_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.timing import Chosen, Times, times_at, times_of
from ipa.queueing.tail import path_quantile_s

# Stands for infinity: records are JSON, which has none.
ENDLESS_S = 86_400.0
# The rate at which a part without requests is described.
LEAST_RPS = 1e-9
# Numbers of items this close, relative, are equal.
ALIKE = 1e-7


def describe(problem: PlanningProblem, configs: Sequence[StageConfig]) -> Plan | None:
    """The configuration as a plan of solver "given"; None if it was not profiled.

    The wait at a stage that cannot carry its load grows without end and is given as a day. If several parts
    share the rate, each carries its share; accuracies are weighed by the shares (InfAdapter's AA), and the
    latency is that of the slowest part that has requests.
    """
    parts = [_part(problem, part) for part in parts_of(configs)]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    objective = problem.objective
    pas, term = known[0].pas, known[0].term
    if len(known) > 1:
        pas = sum(part.share_ratio * part.pas for part in known)
        term = sum(part.share_ratio * part.term for part in known)
    stages = tuple(stage for part in known for stage in part.stages)
    held = problem.resources([stage.config for stage in stages])
    cost = problem.prices.cost(held)
    weighted = (
        objective.alpha * term
        - objective.beta * cost
        - objective.delta * sum(stage.batch_size for stage in stages)
    )
    return replace(
        no_plan(problem.pipeline, problem.rate_rps, problem.sla_s, "given", objective.name),
        termination=Termination.FEASIBLE,
        objective=weighted,
        pas=pas,
        cost_cores=held.cpu_cores,
        latency_s=max(part.latency_s for part in known if part.share_ratio > 0),
        stages=stages,
        cost_usd_per_hour=cost if problem.prices.is_money else None,
    )


def no_plan(pipeline: str, rate_rps: float, sla_s: float, solver: str, objective_name: str) -> Plan:
    """An infeasible plan."""
    return Plan(
        pipeline=pipeline,
        rate_rps=rate_rps,
        termination=Termination.INFEASIBLE,
        solver=solver,
        objective=None,
        bound=None,
        gap=None,
        pas=None,
        cost_cores=None,
        latency_s=None,
        sla_s=sla_s,
        solve_s=0.0,
        stages=(),
        objective_name=objective_name,
    )


def late_ratios(
    problem: PlanningProblem, configs: Sequence[StageConfig], rates_rps: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The shares of requests that take longer than the SLA, and than twice that, at each rate.

    Beyond the mean, the share of longer times falls exponentially to that of the SLA's percentile.
    """
    limits_s = problem.sla_s * (1 + ALIKE) * np.array([[1.0], [2.0]])
    whole = np.zeros((2, len(rates_rps)))
    for part in parts_of(configs):
        share_ratio, chosen = share_of(part) / WHOLE_PERCENT, _chosen(problem, part)
        assert chosen is not None
        rates = np.maximum(np.array(rates_rps) * share_ratio, LEAST_RPS)
        means_s, excesses_s = times_at(problem, chosen, rates)
        late = np.zeros_like(whole)
        for path in problem.graph.paths:
            at = [place for place, each in enumerate(chosen) if each.index in path]
            mean_s = means_s[:, at].sum(axis=1)
            spread_s = path_quantile_s(np.zeros(1), excesses_s[:, at])
            left = np.maximum(limits_s - mean_s, 0.0) / np.maximum(spread_s, ALIKE)
            late = np.maximum(late, np.where(left > 0, (1 - problem.percentile / 100) ** left, 1.0))
        whole += share_ratio * late
    first, second = (tuple(each.tolist()) for each in whole)
    return first, second


@dataclass(frozen=True, slots=True)
class _Part:
    """The performance of one part with its share of the rate."""

    share_ratio: float
    stages: tuple[StagePlan, ...]
    pas: float
    term: float
    latency_s: float


def _part(whole: PlanningProblem, configs: Sequence[StageConfig]) -> _Part | None:
    share_ratio = share_of(configs) / WHOLE_PERCENT
    problem = whole
    if share_ratio != 1:
        problem = replace(whole, rate_rps=max(whole.rate_rps * share_ratio, LEAST_RPS))
    chosen = _chosen(problem, configs)
    if chosen is None:
        return None
    stages = tuple(
        _stage_plan(problem, each, times, config.share_percent)
        for each, times, config in zip(chosen, times_of(problem, chosen), configs, strict=True)
    )
    pas, term = accuracy_of(problem, {stage.stage: stage.variant for stage in stages})
    given = {each.index: stage for each, stage in zip(chosen, stages, strict=True)}
    paths = ([given[at] for at in path if at in given] for path in problem.graph.paths)
    latency_s = max(
        float(path_quantile_s([stage.mean_s for stage in path], [stage.excess_s for stage in path]))
        for path in paths
    )
    return _Part(share_ratio, stages, pas, term, latency_s)


def _chosen(problem: PlanningProblem, configs: Sequence[StageConfig]) -> list[Chosen] | None:
    """The configurations by the problem's operating points; None if some have none."""
    planned = [(index, stage) for index, stage in enumerate(problem.stages) if not stage.is_free]
    if [config.stage for config in configs] != [stage.name for _, stage in planned]:
        return None
    items, _ = items_of(problem, {config.stage: config.variant for config in configs})
    chosen = []
    for (index, stage), config in zip(planned, configs, strict=True):
        at = stage.columns.place.get((config.variant, config.batch_size, config.cores))
        if at is None or config.replicas < 1:
            return None
        chosen.append(Chosen(index, stage.points[at], config.replicas, items[stage.name]))
    return chosen


def _stage_plan(problem: PlanningProblem, chosen: Chosen, times: Times, share_percent: int) -> StagePlan:
    """The plan of a stage, with its performance."""
    point = chosen.point
    rate_rps = problem.rate_rps * problem.graph.reach[chosen.index] * chosen.items
    return StagePlan(
        stage=problem.stages[chosen.index].name,
        variant=point.variant,
        batch_size=point.batch_size,
        cores=point.cores,
        replicas=chosen.replicas,
        rate_rps=rate_rps,
        capacity_rps=times.capacity_rps,
        latency_s=min(times.service_s, ENDLESS_S),
        queue_delay_s=min(times.wait_s, ENDLESS_S),
        utilisation_ratio=rate_rps / (chosen.replicas * times.capacity_rps),
        accuracy=point.accuracy,
        items=chosen.items,
        mean_s=min(times.mean_s, ENDLESS_S),
        excess_s=min(times.excess_s, ENDLESS_S),
        share_percent=share_percent,
        slowdown_ratio=point.slowdown_ratio,
        beside=beside_of(point),
    )


def items_of(problem: PlanningProblem, variants: Mapping[str, str]) -> tuple[dict[str, float], list[str]]:
    """The items of a request at each stage with those variants, and the stages whose parents disagree."""
    items: dict[str, float] = {}
    faults = []
    for stage in problem.stages:
        sent = [items[edge.parent] * edge.items(variants.get(edge.parent, "")) for edge in stage.after]
        items[stage.name] = sent[0] if sent else 1.0
        if any(not isclose(each, sent[0], rel_tol=ALIKE) for each in sent):
            faults.append(f"stage {stage.name!r} gets {sent} items from those before it, which must be equal")
    return items, faults
