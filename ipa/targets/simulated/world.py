"""The worlds of simulated pipelines."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.simulate.arrivals import request_times
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.realtime import RealtimeClock, RealtimeWorlds, Simulated
from ipa.simulate.world import SimWorld


def simulated_worlds(
    load: Simulated | None,
    pipelines: Mapping[str, Pipeline],
    profiles: Mapping[str, Mapping[str, StageProfile]],
    starts: Mapping[str, tuple[StageConfig, ...]],
) -> RealtimeWorlds:
    """The worlds of the pipelines, each under the same rates. UsageError without a load."""
    if load is None:
        raise UsageError("the target simulated needs a load", hint="`ipa demo` provides one.")
    worlds = {
        name: SimWorld(
            pipeline,
            GroundTruth(pipeline, profiles[name]),
            starts[name],
            request_times(load.rates_rps, seed=(load.seed, index)),
            cluster=ClusterSettings(),
            metrics=MetricsSettings(),
            seed=load.seed,
        )
        for index, (name, pipeline) in enumerate(pipelines.items())
    }
    return RealtimeWorlds(worlds, RealtimeClock(load.pace, threading.Event()))
