"""The target `simulated`: pipelines that live in this process, under the load of `ipa demo`."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

from ipa.control.loop.clock import SystemClock
from ipa.control.ports import Clock
from ipa.model.pipeline import Pipeline
from ipa.model.serving import ServingSemantics
from ipa.targets.base import Site, Target, World

if TYPE_CHECKING:
    from ipa.simulate.realtime import Simulated

# The configurations that a simulated pipeline carries side by side, as many as a plan may have.
MOST_PARTS = 3


class SimulatedTarget(Target):
    """Pipelines simulated as fast as the load's pace wants."""

    name = "simulated"
    title = "target simulated"

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """As our queues serve."""
        return ServingSemantics(most_parts=MOST_PARTS)

    def clock(self, stop: Event, load: Simulated | None = None) -> Clock:
        """The simulated clock, or without a load the machine's."""
        if load is None:
            return SystemClock(stop)
        from ipa.simulate.realtime import RealtimeClock

        return RealtimeClock(load.pace, stop)

    def open(self, site: Site) -> World:
        """The worlds of the pipelines, each under the same rates. UsageError without a load."""
        from ipa.targets.simulated.world import simulated_worlds

        starts = {name: site.start(pipeline) for name, pipeline in site.pipelines.items()}
        worlds = simulated_worlds(site.load, site.pipelines, site.profiles, starts)
        return World(worlds.workload, worlds.metrics)


SIMULATED = SimulatedTarget()
