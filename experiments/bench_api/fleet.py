"""A thousand loops in one service: the real store, planner, forecaster and figures over a world in memory."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from ipa.adapters.forecasting import forecast_setup
from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.adapters.store import Store
from ipa.bootstrap.pipeline_registry import assemble_loop, choose_policy, make_inputs
from ipa.bootstrap.targets import ServeOptions
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.loop.scheduler import Scheduler, StopSignal, SystemClock
from ipa.control.loop.snapshot import Snapshot
from ipa.model.decision import Decision
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.settings import Settings
from tests.fakes.metrics import FakeMetrics
from tests.fakes.workload import FakeWorkload

# The first ticks of a loop are dearer: nothing is remembered yet.
WARM_ROUNDS = 2
ROUND_LIMIT_S = 600.0


class Fleet:
    """Loops of copies of a pipeline, each under a load of its own, and the time that a tick of all takes."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        profiles: Mapping[str, StageProfile],
        store: Store,
        stop: StopSignal,
    ) -> None:
        self.settings = Settings(solver="exact")
        self._is_moving = False
        self._left, self._all_done = 0, threading.Event()
        self._lock = threading.Lock()
        self.turns = Scheduler(SystemClock, stop)
        catalogue = Catalogue(
            CollectorRegistry(), tuple(pipelines.values()), tick_s=self.settings.tick_s, install="bench"
        )
        hooks = (Publisher(catalogue), self._ticked)
        sight = forecast_setup(self.settings, dict.fromkeys(pipelines, profiles))
        options = ServeOptions()
        self.loops: list[ControlLoop] = []
        for number, pipeline in enumerate(pipelines.values()):
            clock = SystemClock()
            rate = self._load(5.0 + 40.0 * number / len(pipelines), number)
            start = solve(planning_problem(pipeline, profiles, rate(0.0)))
            world = LoopPorts(
                clock,
                FakeMetrics(clock, rate),  # type: ignore[arg-type]
                FakeWorkload(clock, start.configs),  # type: ignore[arg-type]
                store,
                store,
            )
            inputs = make_inputs(self.settings, options, pipeline, profiles)
            chosen = choose_policy(options.policy, inputs, self.settings.tick_s)
            self.loops.append(assemble_loop(self.settings, sight, chosen, world, hooks, threading.Event()))

    def rounds(self, steady: int, moving: int) -> list[dict[str, Any]]:
        """A tick of all loops, so many times under loads that stand still, and then under loads that move."""
        for loop in self.loops:
            # Later than anything here: they tick when they are woken.
            self.turns.add(loop, ROUND_LIMIT_S)
        rounds = [
            self._round(name) for name in ("first", *["warm"] * (WARM_ROUNDS - 1), *["steady"] * steady)
        ]
        self._is_moving = True
        rounds += [self._round("moving") for _ in range(moving)]
        # What comes after is measured beside loads that stand still again.
        self._is_moving = False
        return [*rounds, self._round("after")]

    def _round(self, name: str) -> dict[str, Any]:
        self._left = len(self.loops)
        self._all_done.clear()
        began_s, cpu_s = time.monotonic(), time.process_time()
        for loop in self.loops:
            loop.wake()
        if not self._all_done.wait(ROUND_LIMIT_S):
            raise RuntimeError(f"{self._left} of {len(self.loops)} loops have not ticked")
        return {
            "load_kind": name,
            "wall_s": time.monotonic() - began_s,
            "cpu_s": time.process_time() - cpu_s,
            "load_average": os.getloadavg()[0],
        }

    def _ticked(self, decision: Decision, snapshot: Snapshot) -> None:
        """A hook of the loops."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self._all_done.set()

    def _load(self, mean_rps: float, number: int) -> Callable[[float], float]:
        def rate_rps(t_s: float) -> float:
            return mean_rps * (1 + 0.2 * math.sin(t_s / 3 + number)) if self._is_moving else mean_rps

        return rate_rps


def copies(pipeline: Pipeline, many: int) -> dict[str, Pipeline]:
    """The pipeline and others like it, by name."""
    names = (pipeline.name, *(f"{pipeline.name}-{number}" for number in range(1, many)))
    return {name: replace(pipeline, name=name) for name in names}


def store_in(folder: Path) -> str:
    """The URL of a store there."""
    return f"sqlite:///{folder}/ipa.sqlite3"
