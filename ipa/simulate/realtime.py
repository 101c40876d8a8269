"""A simulated world that goes by the wall clock, as fast as wanted: the service runs on it as on a real one.

The world stands still between two looks at it; a look first lets pass what has passed meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ipa.control.ports import Clock, Load, Rollout, Signals, WorkloadState
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.simulate.world import SimWorld

Floats = NDArray[np.float64]
# The load of the demo comes and goes in six minutes, and is burst into every seven, for most of one.
WAVE_S, BURST_EVERY_S, BURST_FROM_S, BURST_S = 360, 420, 150, 40
# Of the highest rate: what a burst adds, and how a second's rate scatters.
BURST_RATIO, NOISE_RATIO = 0.4, 0.06


@dataclass(frozen=True, slots=True)
class Pace:
    """So many simulated seconds go by in one of ours, from now on."""

    speed: float = 1.0
    began_s: float = field(default_factory=time.monotonic)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))


class RealtimeClock:
    """The Clock port at that pace; `wait` ends early once `stop` is set."""

    def __init__(self, pace: Pace, stop: threading.Event) -> None:
        self._pace, self._stop = pace, stop

    def monotonic_s(self) -> float:
        """Simulated seconds since the beginning."""
        return (time.monotonic() - self._pace.began_s) * self._pace.speed

    def now(self) -> datetime:
        """The simulated wall clock, in UTC: ours at the beginning, then ahead of it."""
        return self._pace.began + timedelta(seconds=self.monotonic_s())

    def wait(self, seconds: float) -> None:
        """Return after so many simulated seconds, or once `stop` is set."""
        self._stop.wait(max(seconds, 0.0) / self._pace.speed)


class RealtimeWorlds:
    """Simulated pipelines by name, that begin with the clock. Thread-safe."""

    def __init__(self, worlds: Mapping[str, SimWorld], clock: Clock) -> None:
        self._worlds, self._clock = dict(worlds), clock
        self._lock = threading.Lock()
        self.workload, self.metrics = RealtimeWorkload(self), RealtimeMetrics(self)

    @contextmanager
    def at_now(self, pipeline: Pipeline) -> Iterator[SimWorld]:
        """The pipeline's world, with all that has happened until now; nobody else has it meanwhile."""
        with self._lock:
            world = self._worlds[pipeline.name]
            world.clock.wait(self._clock.monotonic_s() - world.clock.monotonic_s())
            yield world


@dataclass(frozen=True, slots=True)
class RealtimeWorkload:
    """The Workload port over them."""

    worlds: RealtimeWorlds
    rolling: Rolling = SIDE_BY_SIDE

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """What runs now."""
        with self.worlds.at_now(pipeline) as world:
            return world.workload.read(pipeline)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision; ConflictError where it has moved."""
        with self.worlds.at_now(pipeline) as world:
            return world.workload.write(pipeline, change)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """How far the change is."""
        with self.worlds.at_now(pipeline) as world:
            return world.workload.rollout(pipeline, change)


@dataclass(frozen=True, slots=True)
class RealtimeMetrics:
    """The Metrics port over them."""

    worlds: RealtimeWorlds

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, its load over the last `window_s` seconds."""
        with self.worlds.at_now(pipeline) as world:
            return world.metrics.read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Its load alone."""
        with self.worlds.at_now(pipeline) as world:
            return world.metrics.load(pipeline, window_s)


def moving_load(low_rps: float, high_rps: float, seconds: int, seed: int = 0) -> Floats:
    """Rates per second that go up and down between the two, with noise and short bursts above them."""
    at_s = np.arange(seconds)
    middle, swing = (high_rps + low_rps) / 2, (high_rps - low_rps) / 2
    wave = middle - swing * np.cos(2 * np.pi * at_s / WAVE_S)
    noise = np.random.default_rng(seed).normal(0.0, NOISE_RATIO * high_rps, seconds)
    phase = (at_s - BURST_FROM_S) % BURST_EVERY_S
    bursts = np.where((at_s >= BURST_FROM_S) & (phase < BURST_S), BURST_RATIO * high_rps, 0.0)
    rates: Floats = np.maximum(wave + noise + bursts, low_rps / 2)
    return rates
