"""Services in the states that the page is looked at in: quiet, an incident, and empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ipa.api.context import ApiContext
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode
from tests.fakes.services import FakeWorld, over
from tests.fakes.viewed import viewed


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
