"""The target `simulated`: pipelines that live in this process, under the load of `ipa demo`."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import Clock
from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import RequestAddress
from ipa.model.rolling import PROCESSES
from ipa.model.serving import ServingSemantics
from ipa.settings import Settings
from ipa.targets.base import Site, Target, World

if TYPE_CHECKING:
    from ipa.simulate.realtime import Simulated

# The configurations that a simulated pipeline carries side by side, as many as a plan may have.
MOST_PARTS = 3


class SimulatedTarget(Target):
    """Pipelines simulated at the pace of the load."""

    name = "simulated"
    title = "target simulated"

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The serving semantics of ipa's own queues."""
        return ServingSemantics(rolling=PROCESSES, most_parts=MOST_PARTS, keeps_variants=True)

    def clock(self, stop: Event, load: Simulated | None = None) -> Clock:
        """The simulated clock; without a load, the machine's clock."""
        if load is None:
            return SystemClock(stop)
        from ipa.simulate.realtime import RealtimeClock

        return RealtimeClock(load, stop)

    def address(self, pipeline: Pipeline, settings: Settings, endpoint: str = "") -> RequestAddress:
        """No address: requests are simulated too."""
        return RequestAddress(note="a simulated pipeline takes no requests; its load is simulated too")

    def open(self, site: Site) -> World:
        """The worlds of the pipelines, each under the same rates. UsageError without a load."""
        from ipa.forecast.arrivals import request_times
        from ipa.simulate.cluster import ClusterSettings
        from ipa.simulate.ground_truth import GroundTruth
        from ipa.simulate.kernel import drive_plain
        from ipa.simulate.metrics import MetricsSettings
        from ipa.simulate.realtime import RealtimeClock, RealtimeWorlds
        from ipa.simulate.world import SimWorld

        load = site.load
        if load is None:
            raise UsageError("the target simulated needs a load", hint="`ipa demo` provides one.")
        worlds = {
            name: SimWorld(
                pipeline,
                GroundTruth(pipeline, site.profiles[name]),
                site.start(pipeline),
                request_times(load.rates_rps, seed=(load.seed, index)),
                cluster=ClusterSettings(PROCESSES),
                metrics=MetricsSettings(tells_stage_latencies=True),
                seed=load.seed,
                # At the clock's pace plain Python suffices; the compiled loop takes 150 MB.
                kernel=drive_plain,
            )
            for index, (name, pipeline) in enumerate(site.pipelines.items())
        }
        realtime = RealtimeWorlds(worlds, RealtimeClock(load, Event()))
        return World(realtime.workload, realtime, adopting=realtime)


SIMULATED = SimulatedTarget()
