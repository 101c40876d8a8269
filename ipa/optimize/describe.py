"""The predicted performance of a given configuration, within the limits or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose

from ipa.model.parts import parts_of, share_of
from ipa.model.pipeline import Goal
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.model.resources import beside_of
from ipa.optimize.accuracy import accuracy_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.timing import Chosen, offered_rps, times_of
from ipa.queueing.formation import utilisation_ratio
from ipa.queueing.tail import path_quantile_s

# Stands for infinity: records are JSON, which has none.
ENDLESS_S = 86_400.0
# The rate at which a part without requests is described.
LEAST_RPS = 1e-9
# Numbers of items this close, relative, are equal.
ALIKE = 1e-7


def describe(problem: PlanningProblem, configs: Sequence[StageConfig]) -> Plan | None:
    """The configuration as a plan of solver "given"; None if it was not measured.

    The wait at a stage that cannot carry its load grows without end and is given as a day. If several parts
    share the rate, each carries its own; accuracies are weighed by the shares (InfAdapter's AA), and the
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
    return Plan(
        pipeline=problem.pipeline,
        rate_rps=problem.rate_rps,
        termination=Termination.FEASIBLE,
        solver="given",
        objective={Goal.WEIGHTED: weighted, Goal.LEXICOGRAPHIC: term, Goal.CHEAPEST: -cost}[objective.goal],
        bound=None,
        gap=None,
        pas=pas,
        cost_cores=held.cpu_cores,
        latency_s=max(part.latency_s for part in known if part.share_ratio > 0),
        sla_s=problem.sla_s,
        solve_s=0.0,
        stages=stages,
        objective_name=objective.name,
        cost_usd_per_hour=cost if problem.prices.is_money else None,
    )


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
    points = _points(problem, configs)
    if points is None:
        return None
    by_name = {config.stage: config for config in configs}
    variants = {name: point.variant for name, point in points.items()}
    items, _ = items_of(problem, variants)
    chosen = [
        Chosen(index, points[stage.name], by_name[stage.name].replicas, items[stage.name])
        for index, stage in enumerate(problem.stages)
        if stage.name in points
    ]
    stages = stage_plans_of(problem, chosen, by_name)
    pas, term = accuracy_of(problem, variants)
    return _Part(share_ratio, stages, pas, term, plan_latency_s(problem, stages))


def _points(problem: PlanningProblem, configs: Sequence[StageConfig]) -> dict[str, OperatingPoint] | None:
    planned = [stage for stage in problem.stages if not stage.is_free]
    if [config.stage for config in configs] != [stage.name for stage in planned]:
        return None
    found: dict[str, OperatingPoint] = {}
    for stage, config in zip(planned, configs, strict=True):
        at = stage.columns.place.get((config.variant, config.batch_size, config.cores))
        if at is None or config.replicas < 1:
            return None
        found[stage.name] = stage.points[at]
    return found


def stage_plans_of(
    problem: PlanningProblem, chosen: Sequence[Chosen], configs: Mapping[str, StageConfig]
) -> tuple[StagePlan, ...]:
    """The chosen stages with their performance; `configs` tell by stage the share of the requests."""
    found = []
    for each, times in zip(chosen, times_of(problem, chosen), strict=True):
        name, point, capacity_rps = problem.stages[each.index].name, each.point, times.capacity_rps
        rate_rps = offered_rps(problem, each)
        found.append(
            StagePlan(
                stage=name,
                variant=point.variant,
                batch_size=point.batch_size,
                cores=point.cores,
                replicas=each.replicas,
                rate_rps=rate_rps,
                capacity_rps=capacity_rps,
                latency_s=min(times.service_s, ENDLESS_S),
                queue_delay_s=min(times.wait_s, ENDLESS_S),
                utilisation_ratio=utilisation_ratio(rate_rps, capacity_rps, each.replicas),
                accuracy=point.accuracy,
                items=each.items,
                mean_s=min(times.mean_s, ENDLESS_S),
                excess_s=min(times.excess_s, ENDLESS_S),
                share_percent=configs[name].share_percent if name in configs else WHOLE_PERCENT,
                slowdown_ratio=point.slowdown_ratio,
                beside=beside_of(point),
            )
        )
    return tuple(found)


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


def plan_latency_s(problem: PlanningProblem, stages: Sequence[StagePlan]) -> float:
    """The latency of the slowest path: Σ means plus the root of Σ squared excesses."""
    given = {stage.stage: stage for stage in stages}
    paths = ([problem.stages[at].name for at in path] for path in problem.graph.paths)
    passed = ([given[name] for name in path if name in given] for path in paths)
    return max(
        float(path_quantile_s([stage.mean_s for stage in path], [stage.excess_s for stage in path]))
        for path in passed
    )
