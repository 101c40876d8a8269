"""A simulated world driven by the wall clock, at any speed: the service runs on it as on a real one.

The world stands still between two calls; each call first advances it by the elapsed time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from ipa.control.ports import Clock, Load, Signals
from ipa.model.errors import ConflictError
from ipa.model.pipeline import Pipeline
from ipa.model.rolling import PROCESSES
from ipa.simulate.columns import Floats
from ipa.simulate.world import SimWorkload, SimWorld

# The load of the demo rises and falls in six minutes, with a burst every seven that lasts most of one.
WAVE_S, BURST_EVERY_S, BURST_FROM_S, BURST_S = 360, 420, 150, 40
# Relative to the span of the rates: the height of a burst, and the scatter of a second's rate.
BURST_RATIO, NOISE_RATIO = 0.45, 0.0675


@dataclass(slots=True)
class Simulated:
    """The load of simulated pipelines in requests a second, one entry per second, and their pace.

    `speed` is in simulated seconds per real second, from `begin` on: until then the simulated time stands
    still.
    """

    rates_rps: Floats
    speed: float = 1.0
    seed: int = 0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    began_s: float | None = None

    def begin(self) -> None:
        """Let time pass from now on."""
        self.began, self.began_s = datetime.now(UTC), time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Simulated seconds since the beginning."""
        return 0.0 if self.began_s is None else (time.monotonic() - self.began_s) * self.speed

    def simulated(self, wall: datetime) -> datetime:
        """The simulated time at that time of the machine's wall clock."""
        return wall if self.began_s is None else self.began + (wall - self.began) * self.speed


class RealtimeClock:
    """The Clock port at that pace; `wait` ends early once `stop` is set."""

    def __init__(self, pace: Simulated, stop: threading.Event) -> None:
        self._pace, self._stop = pace, stop

    @property
    def speed(self) -> float:
        """Simulated seconds per real second."""
        return self._pace.speed

    def monotonic_s(self) -> float:
        """Simulated seconds since the beginning."""
        return self._pace.elapsed_s

    def now(self) -> datetime:
        """The simulated wall clock, in UTC: it starts at the real time, and then runs ahead of it."""
        return self._pace.began + timedelta(seconds=self.monotonic_s())

    def wait(self, seconds: float) -> None:
        """Return after that many simulated seconds, or once `stop` is set."""
        self._stop.wait(max(seconds, 0.0) / self._pace.speed)


class RealtimeWorlds:
    """Simulated pipelines by name, which start with the clock, and their Metrics port. Thread-safe."""

    def __init__(self, worlds: Mapping[str, SimWorld], clock: Clock) -> None:
        self._worlds, self._clock = dict(worlds), clock
        self._lock = threading.Lock()
        self.workload = SimWorkload(self.at_now, PROCESSES)

    def check(self, pipeline: Pipeline) -> None:
        """ConflictError if the simulated world cannot take over the pipeline's changed file."""
        lived = self._worlds[pipeline.name].pipeline
        if _shape_of(pipeline) != _shape_of(lived):
            raise ConflictError(
                "stages and variants of a simulated pipeline stay as they were at its start",
                hint="Restart the simulation to apply the file.",
            )

    def adopt(self, pipeline: Pipeline) -> None:
        """Do nothing: the loop has SLA, bounds and objectives, and service times do not change."""

    @contextmanager
    def at_now(self, pipeline: Pipeline) -> Iterator[SimWorld]:
        """The pipeline's world advanced to the present, locked for the caller."""
        with self._lock:
            world = self._worlds[pipeline.name]
            world.clock.wait(self._clock.monotonic_s() - world.clock.monotonic_s())
            yield world

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, its load over the last `window_s` seconds."""
        with self.at_now(pipeline) as world:
            return world.metrics.read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The load of the pipeline alone."""
        with self.at_now(pipeline) as world:
            return world.metrics.load(pipeline, window_s)


def _shape_of(pipeline: Pipeline) -> list[tuple[str, object, set[str]]]:
    return [(it.name, it.after, {variant.name for variant in it.variants}) for it in pipeline.stages]


def moving_load(low_rps: float, high_rps: float, seconds: int, seed: int = 0) -> Floats:
    """Rates per second that move between the two, with noise and short bursts above them.

    Two equal rates give a steady load.
    """
    at_s = np.arange(seconds)
    middle, swing = (high_rps + low_rps) / 2, (high_rps - low_rps) / 2
    wave = middle - swing * np.cos(2 * np.pi * at_s / WAVE_S)
    noise = np.random.default_rng(seed).normal(0.0, NOISE_RATIO * 2 * swing, seconds)
    phase = (at_s - BURST_FROM_S) % BURST_EVERY_S
    bursts = np.where((at_s >= BURST_FROM_S) & (phase < BURST_S), BURST_RATIO * 2 * swing, 0.0)
    rates: Floats = np.maximum(wave + noise + bursts, low_rps / 2)
    return rates
