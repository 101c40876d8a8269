"""Services for the page's views: with solved plans, with the loop's own decisions, and in an incident."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from ipa.api.context import ApiContext
from ipa.control.audit.replay import Replayer
from ipa.control.engine.guards import GuardSettings
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision, Mode
from ipa.model.profile import ProfilePoint, StageProfile
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.services import TICK_S, FakeWorld, a_pipeline, a_profile, over, rate_at, solving

CORES = (0.5, 1.0, 2.0)
BATCHES = (1, 2, 4, 8)


def a_measured_profile(stage: str) -> StageProfile:
    """Of the ladder's variants, each the slower the more accurate it is; two cores do not halve it."""
    profile = a_profile(stage)

    def latency_s(at: int, cores: float, batch: int) -> float:
        noise = 1 + 0.04 * ((at * 7 + batch * 3 + int(cores * 2) * 5) % 5 - 2)
        return (0.014 + 0.022 * at) * (0.45 + 0.55 * batch) / cores**0.8 * noise

    variants = tuple(
        replace(
            variant,
            points=tuple(
                ProfilePoint(cores, batch, latency_s(at, cores, batch), 0.9 * latency_s(at, cores, batch))
                for cores in CORES
                for batch in BATCHES
            ),
        )
        for at, variant in enumerate(sorted(profile.variants, key=lambda each: each.accuracy))
    )
    return replace(profile, variants=variants)


PROFILES: Mapping[str, StageProfile] = {stage: a_measured_profile(stage) for stage in ("detect", "recognise")}


def viewed(world: FakeWorld) -> ApiContext:
    """The world's services over those profiles."""
    return solving(over(world.services(), profiles=PROFILES))


def decided(policy: str = "ours") -> tuple[Decision, ...]:
    """The decisions of that policy under the world's load; made once for all tests."""
    return _decided(policy)


@cache
def _decided(policy: str) -> tuple[Decision, ...]:
    setup = SimSetup(
        a_pipeline(),
        PROFILES,
        tuple(rate_at(float(at_s)) for at_s in range(150)),
        policy,
        guards=GuardSettings(tick_s=TICK_S),
        keep_inputs=True,
    )
    return simulate(setup).decisions


def taken(policy: str = "ours") -> FakeWorld:
    """The world with these decisions in its record."""
    world = FakeWorld()
    for decision in decided(policy):
        world.record(decision)
    return world


def again(world: FakeWorld) -> ApiContext:
    """Its services, which have the pipeline and the profiles that it was decided with."""
    return over(viewed(world), replayer=Replayer(world))


def quiet() -> ApiContext:
    """A pipeline under a load that rises and falls, in time."""
    return viewed(FakeWorld().play(120))


def in_an_incident() -> FakeWorld:
    """A world that was late and blind, then paused, and is late again, beyond what was predicted."""
    world = FakeWorld().play(90)
    world.slo_broken = True
    world.play(12)
    world.metrics_fail = True
    world.play(6)
    world.metrics_fail = world.slo_broken = False
    world.play(20)
    paused = PipelineControl(mode=Mode.ACTIVE, paused=True, paused_reason="a deployment", paused_by="ann")
    world.set_control("ocr", paused)
    world.play(8)
    world.set_control("ocr", PipelineControl(mode=Mode.ACTIVE))
    world.slo_broken = True
    world.play(9)
    # What the profiles say of an overload: far too much, then that it cannot be carried at all.
    absurd = [replace(each, predicted_latency_s=40.0) for each in world.history[-9:-4]]
    endless = [replace(each, predicted_latency_s=None, is_overload=True) for each in world.history[-4:]]
    world.history[-9:] = [*absurd, *endless]
    return world


def incident() -> ApiContext:
    """The services of that world."""
    return viewed(in_an_incident())


def empty() -> ApiContext:
    """A service without pipelines."""
    return over(FakeWorld().services(), pipelines={})


STATES: Mapping[str, Callable[[], ApiContext]] = {"quiet": quiet, "incident": incident, "empty": empty}
