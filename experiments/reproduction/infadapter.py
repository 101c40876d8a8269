"""InfAdapter's experiment in simulation: late requests by forecaster, and what sets are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from heapq import heapify, heapreplace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.sets.published import Published, read_published
from ipa.optimize.set_solve import SetPlan, solve_set

MINUTE_S = 60
INTERVAL_S = 30
FIRST_S = 120
# Ten per-minute maxima are what the forecaster is given; EWM's span is 10 as well.
SPAN = 10
ERROR_RATIO = 1.10
STABLE = 4
# The model server turns away what would queue behind so many batches, as parts of its capacity.
ENQUEUED = 1.25
SCALE = "released"

Forecast = Callable[[Sequence[float], int], float]
Part = tuple[str, int]


def foresight(rates: Sequence[float], now_s: int) -> float:
    """The largest rate of the next minute."""
    return max(rates[now_s : now_s + MINUTE_S])


def last_maximum(rates: Sequence[float], now_s: int) -> float:
    """The largest rate of the last minute."""
    return max(rates[max(0, now_s - MINUTE_S) : max(now_s, 1)])


def moving_average(rates: Sequence[float], now_s: int) -> float:
    """The exponentially weighted mean, of span 10, of the last ten per-minute maxima."""
    starts = range(max(now_s % MINUTE_S, now_s - SPAN * MINUTE_S), now_s - MINUTE_S + 1, MINUTE_S)
    maxima = [max(rates[at : at + MINUTE_S]) for at in starts] or [last_maximum(rates, now_s)]
    weights = [(1 - 2 / (SPAN + 1)) ** age for age in reversed(range(len(maxima)))]
    return sum(w * m for w, m in zip(weights, maxima, strict=True)) / sum(weights)


FORECASTS: Mapping[str, Forecast] = {
    "foresight": foresight,
    "last maximum": last_maximum,
    "EWM": moving_average,
}


@dataclass(frozen=True, slots=True)
class Task:
    """The contents of the file: the set program, the servers' speed, and the load of the experiment."""

    published: Published
    saturation_rps: Mapping[Part, float]
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: the share of requests late or turned away, accuracy by request, cores paid by second.

    `beyond_ratio` is the share of the requests beyond what their variant carries in the second they come.
    """

    forecast: str
    sets: bool
    beta: float
    seed: int
    late_ratio: float
    beyond_ratio: float
    accuracy: float
    cores: float
    most_cores: int
    changes: int


class Server:
    """One variant on some cores: as many requests at a time, each taking cores over saturation seconds."""

    def __init__(self, cores: int, saturation_rps: float, capacity_rps: float, ready_s: float) -> None:
        """A server that has been idle until `ready_s`."""
        self.ready_s = ready_s
        self.capacity_rps = capacity_rps
        self._service_s = cores / saturation_rps
        self._longest_wait_s = ENQUEUED * capacity_rps / saturation_rps
        self._free = [ready_s] * cores
        heapify(self._free)

    def serve(self, at_s: float) -> float | None:
        """The time that a request would take which comes then; None where it is turned away."""
        start_s = max(at_s, self._free[0])
        if start_s - at_s > self._longest_wait_s:
            return None
        heapreplace(self._free, start_s + self._service_s)
        return start_s + self._service_s - at_s


def read_task(path: Path) -> Task:
    """The figures of the file."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    published = read_published(path)
    saturation = {
        (f"resnet{arch}", int(cores)): float(rate)
        for sla_ms, arch, cores, _, _, rate in data["capacity_profile"]
        if sla_ms == published.slo_ms
    }
    return Task(published, saturation, tuple(data["traces"]["experiment_slice"]["per_second"]))


class Planner:
    """The best set for a rate, or the best single variant; each question solved once."""

    def __init__(self, task: Task, beta: float, sets: bool) -> None:
        """With the weights of the released program."""
        self._task, self._beta, self._sets = task, beta, sets
        self.plan = cache(self._plan)

    def _plan(self, rate_rps: float, loaded: tuple[str, ...]) -> SetPlan:
        problem = self._task.published.problem(rate_rps, self._beta, SCALE, "line", loaded)
        if self._sets:
            return solve_set(problem)
        plans = [solve_set(replace(problem, variants=(variant,))) for variant in problem.variants]
        return max(plans, key=lambda plan: -np.inf if plan.objective is None else plan.objective)


class Pods:
    """The serving set, and its creation: a new set takes over once all of it is loaded, then the old goes."""

    def __init__(self, task: Task) -> None:
        """No pods yet."""
        self._task = task
        self.serving: dict[str, tuple[Part, Server]] = {}
        self.shares: dict[str, float] = {}
        self._coming: tuple[float, SetPlan] | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """The variants that serve."""
        return tuple(self.serving)

    def ask(self, plan: SetPlan, now_s: float, *, at_once: bool = False) -> bool:
        """Begin to change to the plan; False where it runs already, or no set carries the rate."""
        if not plan.parts:
            return False
        wanted = {(part.variant, int(part.cores)) for part in plan.parts}
        new = wanted - {part for part, _ in self.serving.values()}
        ready_s = now_s
        if new and not at_once:
            ready_s += max(self._task.published.variants[name][1] for name, _ in new)
        changed = bool(new) or len(wanted) < len(self.serving)
        self._coming = (ready_s, plan)
        self.advance(now_s)
        return changed

    def advance(self, now_s: float) -> None:
        """Let what is loaded by now take over."""
        if self._coming is None or self._coming[0] > now_s:
            return
        ready_s, plan = self._coming
        self._coming = None
        serving = {}
        for part in plan.parts:
            key = (part.variant, int(part.cores))
            now = self.serving.get(part.variant)
            if now is None or now[0] != key:
                # The rate that it is planned for is 0.8 of the capacity.
                capacity_rps = part.capacity_rps / self._task.published.coefficient
                now = (key, Server(key[1], self._task.saturation_rps[key], capacity_rps, ready_s))
            serving[part.variant] = now
        self.serving = serving
        self.shares = {part.variant: part.quota_rps / plan.rate_rps for part in plan.parts}

    def cores(self) -> int:
        """Cores paid now, old and new pods together."""
        parts = {part for part, _ in self.serving.values()}
        if self._coming is not None:
            parts |= {(part.variant, int(part.cores)) for part in self._coming[1].parts}
        return sum(cores for _, cores in parts)


def simulate(task: Task, forecast: str, beta: float, *, sets: bool, seed: int) -> Outcome:
    """One run of the experiment's load from its third minute on, arrivals at random within each second."""
    planner, pods, random = Planner(task, beta, sets), Pods(task), np.random.default_rng(seed)
    expected = FORECASTS[forecast]
    pods.ask(planner.plan(max(task.rates[:FIRST_S]) * ERROR_RATIO, ()), 0, at_once=True)
    credit: dict[str, float] = {}
    recent: list[float] = []
    sent = late = changes = 0
    accurate, beyond, paid = 0.0, 0.0, []
    for second in range(FIRST_S, len(task.rates)):
        if (second - FIRST_S) % INTERVAL_S == 0:
            # Up at once, down once four decisions in a row ask for less.
            recent = [*recent[1 - STABLE :], expected(task.rates, second) * ERROR_RATIO]
            changes += pods.ask(planner.plan(max(recent), pods.loaded), second)
        pods.advance(second)
        paid.append(pods.cores())
        for name, share in pods.shares.items():
            beyond += max(0.0, task.rates[second] * share - pods.serving[name][1].capacity_rps)
        for offset_s in np.sort(random.random(int(task.rates[second]))):
            for name, share in pods.shares.items():
                credit[name] = credit.get(name, 0.0) + share
            name = max(pods.shares, key=lambda each: credit[each])
            credit[name] -= 1.0
            took_s = pods.serving[name][1].serve(second + float(offset_s))
            sent += 1
            if took_s is None or took_s > task.published.slo_ms / 1000:
                late += 1
            accurate += task.published.variants[name][0]
    ratios = (late / sent, beyond / sent, accurate / sent)
    return Outcome(forecast, sets, beta, seed, *ratios, fmean(paid), max(paid), changes)


def outcomes(path: Path, seeds: Sequence[int]) -> list[Outcome]:
    """Every forecaster, with sets and with single variants, at each β of the paper."""
    task = read_task(path)
    return [
        simulate(task, forecast, beta, sets=sets, seed=seed)
        for forecast in FORECASTS
        for sets in (True, False)
        for beta in task.published.betas
        for seed in seeds
    ]
