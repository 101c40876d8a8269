"""A world whose decisions are the loop's own, each with its inputs: what can be taken again."""

from __future__ import annotations

from functools import cache

from ipa.api.context import ApiContext
from ipa.bootstrap.service import Replayer
from ipa.control.engine.guards import GuardSettings
from ipa.model.decision import Decision
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.services import TICK_S, FakeWorld, a_pipeline, over, rate_at
from tests.fakes.viewed import PROFILES, viewed


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
