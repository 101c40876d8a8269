"""The world of `ipa demo`: simulated pipelines under a load, as fast as wanted; and everybody's clock."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ipa.bootstrap.options import ServeOptions
from ipa.control.loop.clock import SystemClock
from ipa.control.ports import Clock
from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.simulate.arrivals import request_times
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.realtime import RealtimeClock, RealtimeWorlds
from ipa.simulate.world import SimWorld


def clock_of(options: ServeOptions, stop: threading.Event) -> Clock:
    """The machine's clock, or the simulated one; `wait` ends early once `stop` is set."""
    if options.simulated is None:
        return SystemClock(stop)
    return RealtimeClock(options.simulated.pace, stop)


def simulated_worlds(
    options: ServeOptions,
    pipelines: Mapping[str, Pipeline],
    profiles: Mapping[str, Mapping[str, StageProfile]],
    starts: Mapping[str, tuple[StageConfig, ...]],
) -> RealtimeWorlds:
    """The worlds of the pipelines, each under the same rates. UsageError without `options.simulated`."""
    simulated = options.simulated
    if simulated is None:
        raise UsageError("the target simulated needs a load", hint="`ipa demo` brings one.")
    worlds = {
        name: SimWorld(
            pipeline,
            GroundTruth(pipeline, profiles[name]),
            starts[name],
            request_times(simulated.rates_rps, seed=(simulated.seed, index)),
            cluster=ClusterSettings(),
            metrics=MetricsSettings(),
            seed=simulated.seed,
        )
        for index, (name, pipeline) in enumerate(pipelines.items())
    }
    return RealtimeWorlds(worlds, clock_of(options, threading.Event()))
