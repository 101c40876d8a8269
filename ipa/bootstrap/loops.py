"""The policies and the control loops of the service."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ipa.adapters.forecasting import ForecastSetup
from ipa.adapters.solvers.supervised import supervised
from ipa.adapters.time_limit import PluginRunner
from ipa.bootstrap.options import ServeOptions
from ipa.bootstrap.targets import target_of
from ipa.control.engine.decision_inputs import made_of
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.control.loop.shadow import shadow_world
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.base import Policy
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.service.simulation import guards_of
from ipa.settings import Settings
from ipa.simulate.plancheck import with_checker

# What a policy is made of, and itself.
Chosen = tuple[PolicyInputs, Policy]


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
