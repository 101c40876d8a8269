"""The policies and the control loops of the service, also of pipelines created over the API."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ipa.adapters.forecasting import ForecastSetup
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.solvers.supervised import supervised
from ipa.adapters.store.store import Store
from ipa.adapters.time_limit import PluginRunner
from ipa.bootstrap.leader_election import own_world
from ipa.bootstrap.options import ServeOptions
from ipa.bootstrap.targets import check_carried, check_sharing, target_of
from ipa.control.engine.decision_inputs import made_of
from ipa.control.loop.clock import StopSignal
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.control.loop.shadow import shadow_world
from ipa.files import load_profiles
from ipa.model.errors import NotFoundError
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.base import Policy
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.service.simulation import guards_of
from ipa.settings import Settings
from ipa.simulate.plancheck import with_checker
from ipa.targets.base import Target, Watching

# What a policy is made of, and itself.
Chosen = tuple[PolicyInputs, Policy]
Profiles = Mapping[str, StageProfile]


def inputs_of(
    settings: Settings, options: ServeOptions, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> PolicyInputs:
    """Inputs that construct the policies of a pipeline."""
    return PolicyInputs(
        pipeline,
        profiles,
        options.objective,
        settings.solver,
        settings.solver_deadline_s,
        supervised,
        target_of(settings).serving(pipeline).rolling,
    )


def policy_of(name: str, inputs: PolicyInputs, limit_s: float) -> Chosen:
    """The policy of that name, with the checker it needs; a plug-in answers within `limit_s`.

    Errors: UsageError (there is none, or not for this pipeline), PluginError.
    """
    checked = with_checker(name, inputs)
    return checked, make_policy(name, checked, PluginRunner(str(POLICIES.find(name)), limit_s))


def loop_beside(
    settings: Settings, sight: ForecastSetup, chosen: Chosen, world: LoopPorts, waker: threading.Event
) -> ControlLoop:
    """The loop of a policy that only says what it would do."""
    inputs, policy = chosen
    pipeline, seen = shadow_world(world, inputs.pipeline, policy.name)
    return loop_of(settings, sight, (replace(inputs, pipeline=pipeline), policy), seen, (), waker)


def loop_of(
    settings: Settings,
    sight: ForecastSetup,
    chosen: Chosen,
    world: LoopPorts,
    hooks: Sequence[Hook],
    waker: threading.Event,
) -> ControlLoop:
    """The loop of one pipeline, not yet started; `waker`, which the clock waits on, brings ticks forward."""
    inputs, policy = chosen
    return ControlLoop(
        inputs.pipeline,
        world,
        policy=policy,
        predict=inputs.predictor(),
        forecaster=sight.forecaster,
        settings=guards_of(settings),
        window_s=sight.window_s,
        run_id=uuid.uuid4().hex[:8],
        made_of=made_of(inputs),
        on_decision=hooks,
        waker=waker,
    )


@dataclass(frozen=True, slots=True)
class PipelineFactory:
    """Makes what each pipeline of the service needs: loops, all alike, profiles, metrics and watches."""

    settings: Settings
    target: Target
    options: ServeOptions
    sight: ForecastSetup
    world: LoopPorts
    leadership: LeaseLeadership | None
    hooks: tuple[Hook, ...]
    stop: StopSignal
    store: Store
    catalogue: Catalogue
    # None where nothing is watched.
    watchers: Watching | None = None

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
        """The loop of a pipeline and the one beside it, if any; UsageError where a policy cannot have it."""
        check_sharing(self.target, [pipeline], self.options.policy)
        inputs, other = inputs_of(self.settings, self.options, pipeline, profiles), self.options.shadow_policy
        limit_s = self.settings.tick_s
        chosen = policy_of(self.options.policy, inputs, limit_s)
        shadow = self.beside(policy_of(other, inputs, limit_s)) if other else None
        return self.loop(chosen), shadow

    def check(self, pipeline: Pipeline) -> None:
        """InputError or UsageError if the pipeline has keys without effect here."""
        # One that the target cannot run is kept to plan with, which its keys may be for.
        if not self.target.unfit(pipeline):
            check_carried(self.target, [pipeline], self.options.policy)

    def unfit(self, pipeline: Pipeline) -> str:
        """The reason why the service cannot run the pipeline; empty if it can."""
        return self.target.unfit(pipeline)

    def profiles(self, pipeline: Pipeline) -> Profiles:
        """The profiles as they were given over the API, else those of the files."""
        try:
            files: Profiles = load_profiles(self.settings.profiles_dir, pipeline.name)
        except NotFoundError:
            files = {}
        return {**files, **self.store.profiles(pipeline.name)}

    def shaped(self, pipeline: Pipeline, profiles: Profiles) -> Pipeline:
        """The pipeline as it runs here."""
        return with_profiles(self.target.shape(pipeline, profiles), profiles)

    def goodbye(self, pipeline: Pipeline) -> str:
        """The end of a pipeline that is no longer controlled, in words."""
        return self.target.goodbye(pipeline)

    def begin(self, pipeline: Pipeline) -> None:
        """Measure and watch a pipeline that came."""
        self.catalogue.start(pipeline)
        if self.watchers is not None:
            self.watchers.add(pipeline)

    def end(self, pipeline: Pipeline) -> None:
        """Measure and watch a pipeline no more."""
        self.catalogue.end(pipeline)
        if self.watchers is not None:
            self.watchers.remove(pipeline)
