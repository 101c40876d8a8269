"""Parts that pipelines created over the API need: profiles, loops, watches and metrics."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from ipa.adapters.forecasting import ForecastSetup
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.store.store import Store
from ipa.bootstrap.leader_election import own_world
from ipa.bootstrap.loops import Chosen, inputs_of, loop_beside, loop_of, policy_of
from ipa.bootstrap.options import ServeOptions
from ipa.bootstrap.pipeline_registry import Makers, Profiles
from ipa.bootstrap.targets import check_carried, check_sharing
from ipa.control.loop.clock import StopSignal
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.files import load_profiles
from ipa.model.errors import NotFoundError
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.base import Target, Watching


@dataclass(frozen=True, slots=True)
class LoopMaker:
    """Makes the loops of the service, all alike."""

    settings: Settings
    target: Target
    options: ServeOptions
    sight: ForecastSetup
    world: LoopPorts
    leadership: LeaseLeadership | None
    hooks: tuple[Hook, ...]
    stop: StopSignal

    def loop(self, chosen: Chosen) -> ControlLoop:
        """The loop of a pipeline, not yet started."""
        waker = self.stop.linked()
        return loop_of(self.settings, self.sight, chosen, self._own(waker), self.hooks, waker)

    def beside(self, chosen: Chosen) -> ControlLoop:
        """The loop of a policy that only says what it would do."""
        waker = self.stop.linked()
        return loop_beside(self.settings, self.sight, chosen, self._own(waker), waker)

    def _own(self, waker: threading.Event) -> LoopPorts:
        return replace(
            own_world(self.world, self.leadership), clock=self.target.clock(waker, self.options.simulated)
        )

    def both(self, pipeline: Pipeline, profiles: Profiles) -> tuple[ControlLoop, ControlLoop | None]:
        """Both loops of a pipeline; UsageError where a policy cannot have it."""
        check_sharing(self.target, [pipeline], self.options.policy)
        inputs, other = inputs_of(self.settings, self.options, pipeline, profiles), self.options.shadow_policy
        limit_s = self.settings.tick_s
        chosen = policy_of(self.options.policy, inputs, limit_s)
        shadow = self.beside(policy_of(other, inputs, limit_s)) if other else None
        return self.loop(chosen), shadow


def makers_of(maker: LoopMaker, store: Store, catalogue: Catalogue, watchers: Watching | None) -> Makers:
    """Factories of the roster. Without `watchers` it watches nothing."""
    settings = maker.settings

    def come(pipeline: Pipeline) -> None:
        catalogue.start(pipeline)
        if watchers is not None:
            watchers.add(pipeline)

    def go(pipeline: Pipeline) -> None:
        catalogue.end(pipeline)
        if watchers is not None:
            watchers.remove(pipeline)

    def check(pipeline: Pipeline) -> None:
        # One that the target cannot run is kept to plan with, which its keys may be for.
        if not maker.target.unfit(pipeline):
            check_carried(maker.target, [pipeline], maker.options.policy)

    return Makers(
        loops=maker.both,
        unfit=maker.target.unfit,
        check=check,
        profiles=lambda pipeline: _profiles(settings, store, pipeline),
        shaped=lambda pipeline, profiles: with_profiles(maker.target.shape(pipeline, profiles), profiles),
        goodbye=maker.target.goodbye,
        on_come=come,
        on_go=go,
    )


def _profiles(settings: Settings, store: Store, pipeline: Pipeline) -> Profiles:
    """As they were given over the API, else of the files."""
    try:
        files: Profiles = load_profiles(settings.profiles_dir, pipeline.name)
    except NotFoundError:
        files = {}
    return {**files, **store.profiles(pipeline.name)}
