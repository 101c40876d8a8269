"""A world whose decisions are the loop's own, each with its inputs: what can be taken again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ipa.api.context import ApiContext
from ipa.bootstrap.service import Replayer
from ipa.control.engine.guards import GuardSettings
from ipa.model.decision import Decision
from ipa.model.observation import Forecast, LoadHistory
from ipa.simulate.run import ForecastSettings, SimSetup, forecaster_of, simulate
from tests.fakes.services import TICK_S, FakeWorld, a_pipeline, over, rate_at
from tests.fakes.viewed import PROFILES, viewed

FORECAST = ForecastSettings()


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
        forecast=FORECAST,
        keep_inputs=True,
    )
    return simulate(setup).decisions


def taken(policy: str = "ours") -> FakeWorld:
    """The world with these decisions in its record."""
    world = FakeWorld()
    for decision in decided(policy):
        world.record(decision)
    return world


def again(world: FakeWorld, forecaster: Callable[[LoadHistory], Forecast] | None = None) -> ApiContext:
    """Its services, which have the pipeline, the profiles and the forecaster that it was decided with."""
    known = forecaster or forecaster_of(FORECAST, (), lambda: 0.0)
    return over(viewed(world), replayer=Replayer(world, lambda *_: known))
