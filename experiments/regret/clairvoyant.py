"""The policy that knows everything: for each tick the configuration of the cheapest sequence of them.

A dynamic programme over the ticks. The configurations are the planner's best for rates of the true load, at
the speeds that the machine really has; the cost of a tick is that of the cores held and of the accuracy
forgone, and of the requests that a fluid queue finds late. A change starts replicas that serve after their
time of readiness, beside the old ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ipa.model.observation import Forecast, Observation
from ipa.model.parts import Configs
from ipa.model.pipeline import Bounds, Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import Slowdown, Slowdowns
from ipa.model.resources import CORES
from ipa.model.rolling import change_peak
from ipa.policies.base import PolicyState, Prediction
from ipa.policies.ours import MIN_RATE_RPS
from ipa.policies.profiled import Profiled
from ipa.policies.rules import plan_of
from ipa.policies.table import PolicyInputs
from ipa.simulate.columns import Floats
from ipa.simulate.run import SimSetup

TICK_S = 10
# Rates to plan for: quantiles of the ticks' mean rates, each with more for the scatter within a tick.
QUANTILES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.92, 0.97, 1.0)
ROOM_RATIOS = (1.0, 1.15, 1.35)
# Halvings of the rate that a configuration carries in time.
HALVINGS = 12


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a run a second, in units of the objective: cores, accuracy forgone, late requests."""

    alpha: float
    beta: float
    best_pas: float
    # Of all requests being late.
    late: float

    def of(self, cores: float, pas: float, late_ratio: float) -> float:
        """The cost of those means."""
        return self.beta * cores + self.alpha * (self.best_pas - pas) + self.late * late_ratio


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Plays one configuration after another, each for a tick."""

    profiled: Profiled
    schedule: tuple[Configs, ...]
    name: str = "clairvoyant"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration of the present tick as a plan."""
        at = min(int(state.now_s // TICK_S), len(self.schedule) - 1)
        return plan_of(self.profiled, self.schedule[at], forecast, self.name)

    def at_once(self, running: Configs) -> bool:
        """True: what is better later has no better moment than its own."""
        return True


def with_margins(pipeline: Pipeline, **margins: float) -> Pipeline:
    """The pipeline with these margins in all objectives."""
    objectives = {name: replace(each, **margins) for name, each in pipeline.objectives.items()}
    return replace(pipeline, objectives=objectives)


@dataclass(frozen=True)
class Clairvoyant:
    """The schedule for a run, and the cost that it was chosen by."""

    setup: SimSetup

    @cached_property
    def inputs(self) -> PolicyInputs:
        """The planner with exact capacity and lateness."""
        exact = with_margins(self.setup.pipeline, throughput_margin_ratio=0.0, latency_margin_ratio=0.0)
        return PolicyInputs(exact, self.setup.profiles)

    @cached_property
    def profiled(self) -> Profiled:
        """Its planner and predictor."""
        return self.inputs.profiled()

    @cached_property
    def speeds(self) -> tuple[Slowdowns, ...]:
        """The true slowdowns at each tick."""
        stages = self.setup.pipeline.served
        return tuple(
            tuple(
                Slowdown(stage.name, variant.name, ratio)
                for stage in stages
                for variant in stage.variants
                if (ratio := self._slowdown(stage.name, variant.name, at)) != 1.0
            )
            for at in range(0, len(self.setup.rates_rps), TICK_S)
        )

    def _slowdown(self, stage: str, variant: str, at_s: float) -> float:
        config = StageConfig(stage, variant, 1, 1.0, 1)
        return float(np.prod([each.ratio for each in self.setup.slow if each.holds(config, at_s)]))

    @cached_property
    def candidates(self) -> tuple[Configs, ...]:
        """The first configuration, and the best ones at the rates and speeds of the run."""
        means_rps = self._rates_by_tick().mean(axis=1)
        candidates: dict[Configs, None] = {self.setup.start: None}
        for speeds in dict.fromkeys(self.speeds):
            mine = means_rps[[each == speeds for each in self.speeds]]
            for rate_rps in {float(np.quantile(mine, at)) for at in QUANTILES}:
                for ratio in ROOM_RATIOS:
                    plan = self._plan(rate_rps * ratio, speeds)
                    if plan.stages:
                        candidates[plan.configs] = None
        return tuple(candidates)

    def _rates_by_tick(self) -> Floats:
        """The rates of each second, a row for each tick; the last rate fills the last row."""
        rates = np.asarray(self.setup.rates_rps, dtype=float)
        return np.pad(rates, (0, -len(rates) % TICK_S), mode="edge").reshape(-1, TICK_S)

    def _plan(self, rate_rps: float, speeds: Slowdowns) -> Plan:
        """The best plan for the rate, whatever the change to it takes."""
        bounds = replace(self.inputs.pipeline.bounds, any_change=True)
        pipeline = replace(self.inputs.pipeline, slowdowns=speeds, bounds=bounds)
        return self.profiled.plan(pipeline, max(rate_rps, MIN_RATE_RPS))

    def _prediction(self, configs: Configs, rate_rps: float, speeds: Slowdowns) -> Prediction:
        prediction = self.profiled.predict(configs, rate_rps, speeds)
        assert prediction is not None
        return prediction

    def _in_time_rps(self, configs: Configs, speeds: Slowdowns) -> tuple[float, float]:
        """The highest rate within the SLA, and the capacity."""
        capacity_rps = self._prediction(configs, 1.0, speeds).capacity_rps
        low, high = 0.0, capacity_rps
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self._prediction(configs, middle, speeds).feasible else (low, middle)
            )
        return low, capacity_rps

    @cached_property
    def cost(self) -> Cost:
        """The whole budget of late requests is worth the cores of a plan for the mean load."""
        pipeline = self.setup.pipeline
        objective = pipeline.objective()
        best_pas = max(self._prediction(each, 1.0, ()).pas for each in self.candidates)
        cores = self._plan(float(np.mean(self.setup.rates_rps)), ()).cost_cores or 0.0
        late = objective.beta * cores / (1 - pipeline.sla.percentile / 100)
        return Cost(objective.alpha, objective.beta, best_pas, late)

    def schedule(self) -> tuple[Configs, ...]:
        """The cheapest sequence."""
        cost, rates = self.cost, self._rates_by_tick()
        configs = self.candidates
        limits = {
            speeds: np.asarray([self._in_time_rps(each, speeds) for each in configs])
            for speeds in dict.fromkeys(self.speeds)
        }
        pas = np.asarray([self._prediction(each, 1.0, ()).pas for each in configs])
        held, open_s = self._changes(configs)
        share = open_s / TICK_S
        paid = cost.beta * (held * share + np.diag(held)[None, :] * (1 - share))
        forgone = cost.alpha * (
            (cost.best_pas - pas)[:, None] * share + (cost.best_pas - pas)[None, :] * (1 - share)
        )
        mean_rps = float(rates.mean())
        best = np.full(len(configs), np.inf)
        best[0] = 0.0
        choices: list[np.ndarray[tuple[int], np.dtype[np.intp]]] = []
        for at, speeds in enumerate(self.speeds):
            late = self._late(rates[at], limits[speeds], open_s)
            total = best[:, None] + paid + forgone + cost.late * late / (mean_rps * TICK_S)
            choices.append(total.argmin(axis=0))
            best = total.min(axis=0)
        path = [int(best.argmin())]
        for before in reversed(choices):
            path.append(int(before[path[-1]]))
        return tuple(configs[each] for each in path[-2::-1])

    def _changes(self, configs: tuple[Configs, ...]) -> tuple[Floats, Floats]:
        """The cores while one configuration becomes another, and the seconds until that serves."""
        bounds: Bounds = self.setup.pipeline.bounds
        rolling = self.setup.cluster.rolling
        held = np.asarray(
            [[change_peak(old, new, rolling, bounds).cpu_cores for new in configs] for old in configs]
        )
        wait_s = np.full(held.shape, min(self.setup.readiness_s + 1.0, TICK_S))
        np.fill_diagonal(wait_s, 0.0)
        limit = bounds.change_limits.get(CORES)
        if limit is not None:
            held = np.where(held > limit + 1e-9, np.inf, held)
        return held, wait_s

    @staticmethod
    def _late(rates: Floats, limits: Floats, open_s: Floats) -> Floats:
        """The late requests of a tick for each change: those above the rate in time, and those that wait."""
        count = len(limits)
        late, waiting = np.zeros((count, count)), np.zeros((count, count))
        in_time, capacity = limits[:, 0], limits[:, 1]
        for second, rate in enumerate(rates):
            is_old = second < open_s
            able = np.where(is_old, capacity[:, None], capacity[None, :])
            good = np.where(is_old, in_time[:, None], in_time[None, :])
            waiting = np.maximum(waiting + rate - able, 0.0)
            late += np.where((rate > good) | (waiting > 0), np.maximum(rate - good, 0.0) + waiting, 0.0).clip(
                0.0, rate
            )
        return late

    def policy(self) -> Scheduled:
        """The policy that plays the schedule."""
        return Scheduled(self.profiled, self.schedule())
