"""Evaluates one side of a change: plans at the rates of a trace, and a simulation over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ipa.model.errors import DeadlineError, InfeasibleError
from ipa.model.guardrails import GuardrailFigures
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.model.resources import Prices, total
from ipa.optimize.frontier import frontier
from ipa.policies.planning import plan_pipeline, planning_problem
from ipa.report.frontier_plot import accuracy_cost
from ipa.report.review.result import FrontierSpot, PlanAt, ReviewFrontier, ReviewSide
from ipa.service.experiment_report import changes_of
from ipa.service.simulation import SimulatedPlace, as_served
from ipa.settings import Settings
from ipa.simulate.result import SimResult
from ipa.simulate.run import simulate

# The rates of the trace to plan for.
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
# The least rate to plan for, if the trace is almost empty.
LEAST_RPS = 0.1
# A solver without a licence, and a deadline that no machine reaches, so that every machine has the same plan.
SOLVER, DEADLINE_S = "exact", 120.0
# The rate of the frontier, and its time limit; the packaged pipelines take a second.
FRONTIER_AT, FRONTIER_S = "p95", 60.0


@dataclass(frozen=True, slots=True)
class ReviewTrial:
    """The inputs that both sides share; each pipeline runs on its `place_of`, `say` receives the progress."""

    rates_rps: tuple[float, ...]
    seeds: int
    policy: str
    settings: Settings
    say: Callable[[str], None]
    place_of: Callable[[Pipeline], SimulatedPlace]

    def quantiles(self) -> list[tuple[str, float]]:
        """The rates in rps to plan for, with their labels."""
        return [
            (label, max(float(np.quantile(self.rates_rps, part)), LEAST_RPS)) for label, part in QUANTILES
        ]


def tried(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    trial: ReviewTrial,
    prices: Prices | None,
    words: str,
) -> ReviewSide:
    """The evaluation of one side at those prices. It is planned and simulated on its file's target."""
    place = trial.place_of(pipeline)
    planned = place.shape(pipeline, profiles)
    plans = tuple(
        PlanAt(label, rate_rps, _deterministic(planned, profiles, rate_rps))
        for label, rate_rps in trial.quantiles()
    )
    at = next(each for each in plans if each.label == FRONTIER_AT)
    could = _frontier(planned, profiles, at)
    setup = replace(
        as_served(pipeline, profiles, trial.rates_rps, trial.settings, place),
        policy=trial.policy,
        solver=SOLVER,
        deadline_s=DEADLINE_S,
    )
    results = []
    for seed in range(trial.seeds):
        trial.say(f"{words}: simulating {len(trial.rates_rps)} s, seed {seed + 1} of {trial.seeds}")
        try:
            results.append(simulate(replace(setup, seed=seed)))
        except InfeasibleError as error:
            return ReviewSide(plans, None, why=error.message, frontier=could)
    figures = _figures(results, prices)
    return ReviewSide(plans, figures, changes_of(results[0]), frontier=could)


def _deterministic(pipeline: Pipeline, profiles: Mapping[str, StageProfile], rate_rps: float) -> Plan:
    """The plan without the time of its search."""
    plan = plan_pipeline(pipeline, profiles, rate_rps, solver=SOLVER, deadline_s=DEADLINE_S)
    return replace(plan, solve_s=0.0)


def _frontier(pipeline: Pipeline, profiles: Mapping[str, StageProfile], at: PlanAt) -> ReviewFrontier:
    """The frontier at that rate; empty if no plan is feasible."""
    if not at.plan.stages:
        return ReviewFrontier(at.label, at.rate_rps, ())
    try:
        found = frontier(planning_problem(pipeline, profiles, at.rate_rps), FRONTIER_S)
    except DeadlineError:
        return ReviewFrontier(at.label, at.rate_rps, (), f"it was not found within {FRONTIER_S:g} s")
    spots = (
        FrontierSpot(each.cost_cores, each.pas, each.latency_s, each.cost_usd_per_hour)
        for each in accuracy_cost(found)
    )
    return ReviewFrontier(at.label, at.rate_rps, tuple(spots))


def _figures(results: list[SimResult], prices: Prices | None) -> GuardrailFigures:
    """The figures over all runs: means over time are averaged, requests are pooled."""
    latencies_s = np.concatenate([result.latencies_s for result in results])
    p50_s, p99_s = np.quantile(latencies_s, (0.5, 0.99)) if len(latencies_s) else (None, None)
    requests = sum(len(result.born_s) for result in results)
    in_time = sum(int((result.latencies_s <= result.sla_s).sum()) for result in results)
    cores = float(np.mean([result.core_seconds / result.duration_s for result in results]))
    held = total(result.resource_seconds * (1 / result.duration_s) for result in results) * (1 / len(results))
    beside = replace(held, cpu_cores=0.0)
    return GuardrailFigures(
        requests=requests,
        late=requests - in_time,
        cores_mean=cores,
        cores_peak=max(tick.cores for result in results for tick in result.ticks),
        pas_mean=float(np.mean([result.pas_mean for result in results])),
        latency_p50_s=None if p50_s is None else float(p50_s),
        latency_p99_s=None if p99_s is None else float(p99_s),
        changes=sum(result.changes for result in results),
        usd_per_hour=None if prices is None else prices.cost(replace(held, cpu_cores=cores)),
        beside_mean=beside,
    )
