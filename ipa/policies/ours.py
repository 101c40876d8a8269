"""ipa's own policy: the best plan for the upper forecast, or the nearest one if none is feasible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, log

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.observation import Forecast, Observation
from ipa.model.pipeline import Bounds, Objective, Pipeline, Stage
from ipa.model.plan import Plan, Termination
from ipa.policies.base import AtOnce, Configs, Planner, PolicyState, SlaScaledPlanner, constrained
from ipa.policies.profiled import Profiled

# No load is planned as one request in ten seconds: (b − 1)/λ stays finite and b = 1 is best.
MIN_RATE_RPS = 0.1
# Grid of rates and SLAs tried if nothing is feasible, so that they do not jitter with the load.
GRID = 1.05
# If a plan within the SLA carries less of the load than this, one that carries it all in a longer time is
# better.
LEAST_CARRIED_RATIO = 0.5
# The longest SLA tried, relative to the pipeline's: nobody waits for an answer any longer.
LONGEST_SLA_RATIO = 16.0
# The share of the SLA that a request may wait until a peak is over; the plan keeps the rest.
WAIT_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Ours:
    """Plans with `planner` for `forecast.upper_rps`, within pins and without variants that failed lately.

    If `applies_each`, its plans are applied as they are, and none exceeds the SLA, as the published systems
    do. `probe` is the same planner without explanations, for feasibility checks and for longer SLAs.
    """

    pipeline: Pipeline
    planner: Planner
    name: str = "ours"
    applies_each: bool = False
    probe: SlaScaledPlanner | None = None

    def at_once(self, running: Configs) -> bool:
        """True if it applies each plan, or if a process ended before it sent requests to a part."""
        return self.applies_each or any(config.share_percent == 0 for config in running)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best plan, else one for the largest rate that can be carried, or for the least longer SLA."""
        pipeline = constrained(self.pipeline, state)
        rate_rps = upper_rate_rps(forecast)
        plan = self.planner(pipeline, rate_rps, state.running)
        if plan.termination is not Termination.INFEASIBLE:
            return plan
        most = self._most(pipeline, rate_rps, state)
        if most is None or most.rate_rps < LEAST_CARRIED_RATIO * rate_rps:
            nearest = self._nearest(pipeline, rate_rps, state)
            if nearest is not None:
                words = f"no plan carries {rate_rps:.3g} rps within {plan.sla_s:.3g} s"
                note = f"{words}; this one takes {nearest.latency_s:.3g} s"
                return replace(nearest, sla_s=plan.sla_s, note=note, relaxations=plan.relaxations)
        if most is None:
            return plan
        note = f"a load of {rate_rps:.3g} rps exceeds every plan; this one carries {most.rate_rps:.3g} rps"
        return replace(most, note=note, relaxations=plan.relaxations)

    def _most(self, pipeline: Pipeline, rate_rps: float, state: PolicyState) -> Plan | None:
        """The plan for the largest feasible rate of the grid below `rate_rps`."""
        probe = self.probe or self.planner
        best_rps: float | None = None
        low, high = 0, floor(log(rate_rps / MIN_RATE_RPS) / log(GRID))
        while low <= high:
            middle = (low + high) // 2
            at_rps = MIN_RATE_RPS * GRID**middle
            if probe(pipeline, at_rps, state.running).termination is Termination.INFEASIBLE:
                high = middle - 1
            else:
                best_rps, low = at_rps, middle + 1
        return None if best_rps is None else self.planner(pipeline, best_rps, state.running)

    def _nearest(self, pipeline: Pipeline, rate_rps: float, state: PolicyState) -> Plan | None:
        """The best plan for the shortest feasible SLA of the grid above the pipeline's."""
        if self.probe is None or self.applies_each:
            return None
        best: Plan | None = None
        low, high = 1, floor(log(LONGEST_SLA_RATIO) / log(GRID))
        try:
            while low <= high:
                middle = (low + high) // 2
                plan = self.probe(pipeline, rate_rps, state.running, GRID**middle)
                if plan.stages:
                    best, high = plan, middle - 1
                else:
                    low = middle + 1
        except (SolverError, DeadlineError):
            # No more time, or a solver failed: return the best plan so far, or None.
            return best
        return best


def upper_rate_rps(forecast: Forecast) -> float:
    """The upper forecast, limited to loads that can be planned for."""
    return max(forecast.upper_rps, MIN_RATE_RPS)


def waiting_plan(
    shorter: SlaScaledPlanner, pipeline: Pipeline, forecast: Forecast, running: Configs, sla_s: float
) -> Plan | None:
    """The best plan under which requests wait while a peak lasts; None if there is none.

    A peak of w seconds at the upper rate, with a capacity of w/(w + d) of that rate, leaves a queue that
    takes d seconds to serve. So if requests may wait d, a share of the SLA, that capacity is enough for the
    peak, and the point forecast for the other load; the rest of the SLA is the plan's.
    """
    upper_rps = upper_rate_rps(forecast)
    wait_s = WAIT_RATIO * sla_s
    rate_rps = max(forecast.point_rps, upper_rps * forecast.peak_s / (forecast.peak_s + wait_s), MIN_RATE_RPS)
    if rate_rps >= upper_rps:
        return None
    try:
        plan = shorter(pipeline, rate_rps, running, 1 - WAIT_RATIO)
    except (SolverError, DeadlineError):
        # The caller already has the plan that carries the peak.
        return None
    if not plan.stages:
        return None
    words = f"{upper_rps:.3g} rps for {forecast.peak_s:g} s may wait up to {wait_s:.3g} s longer"
    return replace(plan, sla_s=sla_s, peak_rps=upper_rps, note="; ".join(filter(None, (plan.note, words))))


def worth(plan: Plan) -> tuple[float, float]:
    """The sort key of a plan: its objective, then the fewest cores."""
    assert plan.objective is not None and plan.cost_cores is not None
    # Sums of floats that are equal up to rounding are one objective.
    return round(plan.objective, 9), -plan.cost_cores


# RIM over-provisions statically; four of each is our choice, not a published figure.
RIM_REPLICAS = 4


def fa2(pipeline: Pipeline, profiled: Profiled, *, heavy: bool) -> Ours:
    """FA2: decides batch sizes and replicas; every stage has its least or its most accurate variant.

    Only variants with a base allocation count: without one no replica carries the threshold.
    """
    stages = tuple(_lone(stage, profiled.variants(stage.name), heavy) for stage in pipeline.stages)
    name = "fa2-high" if heavy else "fa2-low"
    return Ours(replace(pipeline, stages=stages), profiled.plan, name, True, profiled.probe)


def _lone(stage: Stage, ranked: Sequence[str], heavy: bool) -> Stage:
    return replace(stage, variants=(stage.variant(ranked[-1 if heavy else 0]),)) if ranked else stage


def rim(pipeline: Pipeline, profiled: Profiled, replicas: int = RIM_REPLICAS) -> Ours:
    """RIM: decides variants and batch sizes; every stage has `replicas`, or the nearest allowed number."""
    stages = tuple(_fixed(stage, pipeline.bounds, replicas) for stage in pipeline.stages)
    return Ours(replace(pipeline, stages=stages), profiled.plan, "rim", True, profiled.probe)


def _fixed(stage: Stage, bounds: Bounds, replicas: int) -> Stage:
    limits = stage.limits(bounds)
    count = max(replicas, limits.min_replicas or 1)
    count = count if limits.max_replicas is None else min(count, limits.max_replicas)
    return replace(stage, bounds=replace(stage.bounds, min_replicas=count, max_replicas=count))


# Accuracy floors are compared with sums of floats.
ROUNDING = 1e-9
# The weight of accuracy beside cores, relative to the objective: it decides among plans of equal cores.
TIE_RATIO = 1e-3
# The price of starting a core, relative to running one for an interval: while it loads, about 7 s of 10, the
# replaced one is paid as well, and a change holds for an interval or two.
STARTING_RATIO = 0.3
# Weight of accuracy that decides if IPA's program is indifferent between two plans.
PREFERRED_RATIO = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Frugal(AtOnce):
    """Takes the fewest cores at no less than the accuracy of `published`, IPA's plan for the same load.

    `planner` and `shorter` weigh cores alone (`thrifty`), `shorter` for plans that let a peak wait. If IPA
    has no plan, or no plan in time is as accurate, it decides as `inner`. Like IPA it applies each plan at
    once, since the running one may be more accurate than required; the price of changes prevents oscillation.
    """

    inner: Ours
    published: Planner
    planner: Planner
    shorter: SlaScaledPlanner
    name: str = "ours-frugal"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan with the fewest cores, or that of `inner` if there is none."""
        pipeline = constrained(self.inner.pipeline, state)
        floor = self.published(pipeline, upper_rate_rps(forecast)).pas
        if floor is not None:
            floor = max(floor * (1 - ROUNDING), pipeline.bounds.accuracy_floor or 0.0)
            floored = replace(pipeline, bounds=replace(pipeline.bounds, accuracy_floor=floor))
            plan = self.planner(floored, upper_rate_rps(forecast), state.running)
            waiting = waiting_plan(self.shorter, floored, forecast, state.running, plan.sla_s)
            if waiting is not None and (not plan.stages or worth(waiting) > worth(plan)):
                return waiting
            if plan.stages:
                return plan
        return self.inner.decide(observation, forecast, state)


def thrifty(pipeline: Pipeline, name: str | None) -> Pipeline:
    """Return the pipeline with an objective of cores, with accuracy as the tie-breaker."""
    own = pipeline.objective(name)
    starting = max(own.transition_per_core, STARTING_RATIO * own.beta)
    return _with_objective(pipeline, replace(own, alpha=TIE_RATIO * own.alpha, transition_per_core=starting))


def accurate(pipeline: Pipeline, name: str | None) -> Pipeline:
    """Return the pipeline with an objective that prefers the more accurate of plans with equal worth."""
    own = pipeline.objective(name)
    return _with_objective(pipeline, replace(own, alpha=own.alpha * PREFERRED_RATIO))


def _with_objective(pipeline: Pipeline, objective: Objective) -> Pipeline:
    return replace(pipeline, objectives={**pipeline.objectives, objective.name: objective})
