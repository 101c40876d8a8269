"""The pipeline of the contracts, and a control loop around it with every port in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import PeakForecaster
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.control.loop.scheduler import AGAIN_S
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision, Mode
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.optimize.problem import Compat
from ipa.policies.base import Policy
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from tests.fakes.clock import VirtualClock
from tests.fakes.metrics import FakeMetrics, Fault
from tests.fakes.policy_contract import PIPELINE, PROFILES, SMALLEST
from tests.fakes.store import FakeStore
from tests.fakes.workload import FakeWorkload


@cache
def profiled() -> Profiled:
    """Planner and predictor of the pipeline. Without a solver, and without the time it took."""
    return Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"), compat=Compat.PAPER)


def planner(pipeline: Pipeline, rate_rps: float, running: tuple[StageConfig, ...] = ()) -> Plan:
    """The planner, the time it took taken out so that equal inputs give equal plans."""
    return replace(profiled().plan(pipeline, rate_rps, running), solve_s=0.0)


def ours() -> Ours:
    return Ours(PIPELINE, planner)


def window_max(load: LoadHistory) -> Forecast:
    """A forecaster of one line: the maximum of the last 20 s, and a tenth on top."""
    rates = [rate for rate in load.rates_rps[-20:] if rate is not None]
    return Forecast(max(rates), 1.1 * max(rates), 0.95, 20.0, "window-max", 1.0)


@dataclass
class Scenario:
    """A loop and all it touches."""

    clock: VirtualClock
    metrics: FakeMetrics
    workload: FakeWorkload
    store: FakeStore
    loop: ControlLoop
    settings: GuardSettings
    hooks: tuple[Hook, ...] = ()
    forecaster: PeakForecaster = window_max

    def ticks(self, count: int) -> list[Decision]:
        """So many ticks, a tick apart."""
        decisions = []
        for _ in range(count):
            decisions.append(self.loop.tick_once())
            self.clock.wait(self.settings.tick_s)
        return decisions

    def run(self, seconds: float) -> None:
        """The loop's own steps, for so long; after one that raises as the scheduler does."""
        until_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < until_s:
            next_s = self.clock.monotonic_s() + AGAIN_S
            with suppress(RuntimeError):
                next_s = self.loop.step()
            self.clock.wait(next_s - self.clock.monotonic_s())

    def say(self, **changes: object) -> None:
        """The actions of people on the pipeline."""
        control = replace(self.store.control(PIPELINE.name), **changes)  # type: ignore[arg-type]
        self.store.set_control(PIPELINE.name, control)

    def restarted(self, run_id: str = "again") -> Scenario:
        """The same world under a new process, which knows nothing but the record and the world."""
        return replace(self, loop=made_loop(self, ours(), run_id))


def loop_over(
    pipeline: Pipeline, ports: LoopPorts, policy: Policy, settings: GuardSettings, **more: Any
) -> ControlLoop:
    """A loop over those ports, which predicts by `profiled()` and forecasts the maximum of the load."""
    usual = {"predict": profiled().predict, "forecaster": window_max, "window_s": 20.0, "run_id": "run"}
    return ControlLoop(pipeline, ports, policy=policy, settings=settings, **{**usual, **more})


def made_loop(scenario: Scenario, policy: Policy, run_id: str, pipeline: Pipeline = PIPELINE) -> ControlLoop:
    """A loop over the scenario's world: a new process."""
    world = LoopPorts(scenario.clock, scenario.metrics, scenario.workload, scenario.store, scenario.store)
    known = (
        profiled()
        if pipeline is PIPELINE
        else Profiled(PlannerInputs(pipeline, PROFILES, solver="exact"), compat=Compat.PAPER)
    )
    how = {"predict": known.predict, "forecaster": scenario.forecaster, "window_s": 60.0}
    return loop_over(
        pipeline, world, policy, scenario.settings, run_id=run_id, on_decision=scenario.hooks, **how
    )


def scenario(
    rate_rps: Callable[[float], float] | float = 5.0,
    *,
    mode: Mode = Mode.ACTIVE,
    configs: tuple[StageConfig, ...] = SMALLEST,
    policy: Policy | None = None,
    settings: GuardSettings | None = None,
    fault: Fault | None = None,
    readiness_s: float = 2.0,
    workload_of: type[FakeWorkload] = FakeWorkload,
    pipeline: Pipeline = PIPELINE,
    forecaster: PeakForecaster = window_max,
) -> Scenario:
    """A loop over the pipeline under that load, active unless told otherwise, ticking every 5 s."""
    rate = rate_rps if callable(rate_rps) else lambda t_s, value=float(rate_rps): value
    clock = VirtualClock()
    settings = settings or GuardSettings(tick_s=5.0, rollout_deadline_s=30.0, quarantine_s=60.0)
    made = Scenario(
        clock=clock,
        metrics=FakeMetrics(clock, rate, fault),
        workload=workload_of(clock, configs, readiness_s),
        store=FakeStore(PipelineControl(mode=mode)),
        loop=None,  # type: ignore[arg-type]
        settings=settings,
        forecaster=forecaster,
    )
    return replace(made, loop=made_loop(made, policy or ours(), "run", pipeline))
