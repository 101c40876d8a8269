"""A day of many pipelines on one budget of cores: planned together, or each on a share of its own.

Coarse on purpose: rates are means over samples of each interval, no queue is simulated. What is lost is what
comes beyond the capacity of the plan at hand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.bench_fleet import least_cores, random_fleet
from ipa.experiment.cells import CellOutcome, ExperimentCell, code_of
from ipa.experiment.runners import RUNNERS, Experiment
from ipa.model.errors import InfeasibleError, InputError
from ipa.model.plan import StageConfig
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve

Rates = NDArray[np.float64]
Configs = tuple[StageConfig, ...]

# `together`: one plan of the fleet each interval. `apart`: each pipeline has a fixed share of the budget.
# `once`: one plan of the fleet for each pipeline's highest rate of the day, kept all day.
WAYS = ("together", "apart", "once")
SAMPLES = 6
# What is planned for: so much more than the highest sample of the interval before.
MARGIN = 1.15
DEADLINE_S = 60.0
# So many pipelines without a common budget are planned at once.
BLOCK = 50
# People wake up in three places.
ZONES_H = (0.0, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The settings of the experiment: fleets of so many pipelines, planned anew every interval.

    The budget lies at `budget_ratio` of the way from the least cores to those that no budget would take.
    """

    pipelines: Sequence[int]
    hours: float
    interval_min: float
    budget_ratio: float


def cells(experiment: Experiment) -> tuple[list[ExperimentCell], list[str]]:
    """A day of each fleet, way and seed."""
    try:
        fleet = FleetSettings(**experiment.settings)
    except TypeError as error:
        hint = f"Its keys are: {', '.join(FleetSettings.__annotations__)}"
        raise InputError(f"{experiment.path}: settings of this runner: {error}", hint=hint) from error
    made = [
        ExperimentCell(
            {"pipelines": count, "way": way, "seed": seed},
            experiment.runner,
            {
                "pipelines": count,
                "way": way,
                "seed": seed,
                "hours": fleet.hours,
                "interval_s": 60 * fleet.interval_min,
                "budget_ratio": fleet.budget_ratio,
                "code": code_of(RUNNERS.find(experiment.runner)),
            },
            weight=count * {"together": 1.0, "apart": 1.0, "once": 0.2}[way],
        )
        for count in fleet.pipelines
        for seed in experiment.seeds
        for way in WAYS
    ]
    return made, []


def work(payload: Mapping[str, Any], series: Mapping[str, Any]) -> CellOutcome:
    """The day."""
    day = _Day(payload)
    plans_s: list[float] = []
    columns: dict[str, list[float]] = {
        name: []
        for name in (
            "at_s",
            "rate_rps",
            "cost_cores",
            "worth",
            "pas",
            "lost_ratio",
            "changed",
            "without_plan",
        )
    }
    sent = lost = weighted_pas = 0.0
    for at in range(day.intervals):
        begin = time.perf_counter()
        before = list(day.running)
        without = day.plan(at)
        plans_s.append(time.perf_counter() - begin)
        now = day.rates[at]
        carried = np.minimum(now, day.capacities[None, :])
        requests, missed = float(now.sum()), float((now - carried).sum())
        pas = day.pas()
        sent, lost = sent + requests, lost + missed
        weighted_pas += float((carried.sum(axis=0) * pas).sum())
        row = {
            "at_s": at * payload["interval_s"],
            "rate_rps": requests / SAMPLES,
            "cost_cores": float(day.cores.sum()),
            "worth": day.worth(),
            "pas": float((carried.sum(axis=0) * pas).sum() / max(carried.sum(), 1e-9)),
            "lost_ratio": missed / requests,
            "changed": float(sum(a != b for a, b in zip(before, day.running, strict=True))),
            "without_plan": float(without),
        }
        for name, value in row.items():
            columns[name].append(value)
    figures = {
        "budget_cores": day.budget_cores,
        "cores_mean": float(np.mean(columns["cost_cores"])),
        "cores_most": float(np.max(columns["cost_cores"])),
        "pas_mean": weighted_pas / max(sent - lost, 1e-9),
        "worth_mean": float(np.mean(columns["worth"])),
        "lost_ratio": lost / sent,
        "without_plan": float(np.sum(columns["without_plan"])),
        "changes_an_interval": float(np.mean(columns["changed"][1:] or [0.0])),
        "intervals": day.intervals,
    }
    # The first plan warms nothing up that the second does not need, but it is another kind of plan.
    timings = {"plan_s_median": float(np.median(plans_s)), "plan_s_most": float(np.max(plans_s))}
    return CellOutcome(figures, columns, timings)


@dataclass(frozen=True, slots=True)
class _Facts:
    """A pipeline's tables: capacity and accuracy of each option of its stages."""

    capacities_rps: Mapping[tuple[str, str, int, float], float]
    accuracies: Mapping[tuple[str, str], float]


class _Day:
    """The fleet through the day."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._members = random_fleet(payload["pipelines"], seed=payload["seed"])
        self._way = payload["way"]
        self.intervals = max(1, round(payload["hours"] * 3600 / payload["interval_s"]))
        self.rates = _rates(self._members, self.intervals, payload["interval_s"], payload["seed"])
        self._facts = [_facts(member.problem) for member in self._members]
        busiest = self._at(self.rates.max(axis=1)[int(self.rates.sum(axis=(1, 2)).argmax())] * MARGIN)
        least = least_cores(busiest)
        most = plan_fleet(busiest, float("inf"), DEADLINE_S).cost_cores
        self.budget_cores = least + payload["budget_ratio"] * (most - least)
        self._shares = self._quotas() if self._way == "apart" else []
        self.running: list[Configs] = [()] * len(self._members)
        self.cores = np.zeros(len(self._members))
        self.capacities = np.zeros(len(self._members))

    def _quotas(self) -> list[float]:
        """A fixed share each: the cheapest plan for its own highest rate, and of the rest what it can use."""
        highest = self._at(self.rates.max(axis=(0, 1)) * MARGIN)
        cheap = [replace(each, problem=_cheapest(each.problem)) for each in highest]
        least, most = (
            np.array([each.plan.cost_cores for each in plan_fleet(members, float("inf"), DEADLINE_S).members])
            for members in (cheap, highest)
        )
        rest = self.budget_cores - least.sum()
        shares = least + rest * (most - least) / max((most - least).sum(), 1e-9)
        return list(np.where(rest >= 0, shares, least * self.budget_cores / least.sum()))

    def plan(self, at: int) -> int:
        """Plan for an interval from what was seen in the one before; the pipelines that got no plan."""
        if self._way == "once":
            if at == 0:
                self._take(self._together(self.rates.max(axis=(0, 1))))
            return sum(not configs for configs in self.running)
        expected = self.rates[max(at - 1, 0)].max(axis=0) * MARGIN
        plans = self._together(expected) if self._way == "together" else self._apart(expected)
        self._take(plans)
        return sum(configs is None for configs in plans)

    def pas(self) -> Rates:
        """The accuracy of each pipeline."""
        return np.array(
            [
                float(np.prod([facts.accuracies[it.stage, it.variant] for it in configs])) if configs else 0.0
                for configs, facts in zip(self.running, self._facts, strict=True)
            ]
        )

    def worth(self) -> float:
        """Objectives times weights of all pipelines."""
        alphas = np.array([each.problem.objective.alpha for each in self._members])
        betas = np.array([each.problem.objective.beta for each in self._members])
        weights = np.array([each.weight for each in self._members])
        return float((weights * (alphas * self.pas() - betas * self.cores)).sum())

    def _take(self, plans: Sequence[Configs | None]) -> None:
        for at, configs in enumerate(plans):
            if configs is None:
                continue  # what runs stays
            self.running[at] = configs
            self.cores[at] = sum(it.replicas * it.cores for it in configs)
            self.capacities[at] = min(
                it.replicas * self._facts[at].capacities_rps[it.stage, it.variant, it.batch_size, it.cores]
                for it in configs
            )

    def _at(self, rates: Rates) -> list[Member]:
        return [
            replace(member, problem=replace(member.problem, rate_rps=float(rate)))
            for member, rate in zip(self._members, rates, strict=True)
        ]

    def _together(self, rates: Rates) -> list[Configs | None]:
        try:
            plan = plan_fleet(self._at(rates), self.budget_cores, DEADLINE_S)
        except InfeasibleError:
            return [None] * len(self._members)
        return [each.plan.configs for each in plan.members]

    def _apart(self, rates: Rates) -> list[Configs | None]:
        """The best plan of each within its share."""
        members = [
            replace(each, problem=replace(each.problem, bounds=replace(each.problem.bounds, cores=share)))
            for each, share in zip(self._at(rates), self._shares, strict=True)
        ]
        blocks = [members[first : first + BLOCK] for first in range(0, len(members), BLOCK)]
        return [configs for block in blocks for configs in _alone(block)]


def _alone(members: Sequence[Member]) -> list[Configs | None]:
    """The best plan of each on its own: many at once are quicker, one by one where some have none."""
    try:
        return [each.plan.configs for each in plan_fleet(members, float("inf"), DEADLINE_S).members]
    except InfeasibleError:
        plans = [solve(each.problem, "exact", DEADLINE_S, explain=False) for each in members]
        return [tuple(stage.config for stage in plan.stages) or None for plan in plans]


def _cheapest(problem: PlanningProblem) -> PlanningProblem:
    return replace(problem, objective=replace(problem.objective, alpha=0.0, beta=1.0))


def _facts(problem: PlanningProblem) -> _Facts:
    return _Facts(
        {
            (stage.name, point.variant, point.batch_size, point.cores): point.capacity_rps
            for stage in problem.stages
            for point in stage.points
        },
        {(stage.name, point.variant): point.accuracy for stage in problem.stages for point in stage.points},
    )


def _rates(members: Sequence[Member], intervals: int, interval_s: float, seed: int) -> Rates:
    """Samples of each pipeline's rate, (interval, sample, pipeline): a day's wave and noise."""
    rng = np.random.default_rng([seed, len(members)])
    base = np.array([member.problem.rate_rps for member in members])
    zones = rng.choice(ZONES_H, len(members)) + rng.normal(0.0, 1.5, len(members))
    swing = rng.uniform(0.3, 0.85, len(members))
    hours = np.arange(intervals * SAMPLES) * interval_s / SAMPLES / 3600
    wave = 1 + swing * np.sin(2 * pi * (hours[:, None] - zones) / 24)
    noise = np.exp(rng.normal(0.0, 0.05, wave.shape))
    return np.maximum(base * wave * noise, 0.05).reshape(intervals, SAMPLES, len(members))
