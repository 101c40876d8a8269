"""`ipa watch`, on a clock that is moved by waiting."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ipa.cli.output import Output
from ipa.cli.watching import Until, watch
from ipa.clients.http import HttpClient
from ipa.control.engine.actuation import ActuationPhase
from ipa.model.errors import DeadlineError, RolloutError
from tests.fakes.clock import VirtualClock
from tests.fakes.services import FakeWorld, InProcess


class Moving(VirtualClock):
    """Waiting moves the world on by a tick."""

    def __init__(self, world: FakeWorld) -> None:
        super().__init__()
        self._world = world

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        self._world.tick()


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(52)  # a change was just applied


@pytest.fixture
def service(world: FakeWorld) -> Iterator[HttpClient]:
    with HttpClient("http://127.0.0.1:8080", InProcess(world.services())) as service:
        yield service


def a_console(**options: Any) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=160, **options), text


def test_it_ends_once_the_change_has_settled(world: FakeWorld, service: HttpClient) -> None:
    console, text = a_console()
    clock = Moving(world)
    watch(service, "ocr", clock, console, until=Until.SETTLED, timeout_s=60)
    lines = [line for line in text.getvalue().splitlines() if line.startswith("12:")]
    assert [line.split("   ")[0].split(" tick ")[1] for line in lines] == ["52", "53"]
    assert "recognise=v6-320 b4 1/2×0.5" in text.getvalue().replace("\n", " ")
    assert "\x1b" not in text.getvalue()
    assert clock.monotonic_s() == 1.0


def test_it_ends_once_another_change_has_settled(world: FakeWorld, service: HttpClient) -> None:
    world.play(2)
    console, text = a_console()
    before = world.applied_tick
    watch(service, "ocr", Moving(world), console, until=Until.CHANGED, timeout_s=600)
    assert world.applied_tick > before
    assert text.getvalue().count("\n") > 2
    with pytest.raises(DeadlineError, match="was not changed within 3 s"):
        watch(service, "ocr", VirtualClock(), console, until=Until.CHANGED, timeout_s=3)


def test_it_gives_up_after_the_time_out(world: FakeWorld, service: HttpClient) -> None:
    console, text = a_console()
    clock = VirtualClock()  # time passes, and nothing changes
    with pytest.raises(DeadlineError, match="10 s"):
        watch(service, "ocr", clock, console, until=Until.SETTLED, timeout_s=10)
    assert clock.monotonic_s() <= 10
    assert text.getvalue().count("tick 52") == 1


def test_settling_badly_is_an_error(world: FakeWorld, service: HttpClient) -> None:
    world.metrics_fail = True
    with pytest.raises(RolloutError, match="degraded"):
        watch(service, "ocr", Moving(world), a_console()[0], until=Until.SETTLED)


def test_a_change_that_was_taken_back_is_an_error(
    world: FakeWorld, service: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.play(2)
    snapshot = world.snapshot()
    monkeypatch.setattr(world, "snapshot", lambda: replace(snapshot, phase=ActuationPhase.ROLLED_BACK))
    with pytest.raises(RolloutError, match="rolled_back"):
        watch(service, "ocr", Moving(world), a_console()[0], until=Until.SETTLED)


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_a_table_in_place(world: FakeWorld, service: HttpClient, no_color: bool) -> None:
    console, text = a_console(force_terminal=True, no_color=no_color)
    watch(service, "ocr", Moving(world), console, until=Until.SETTLED, timeout_s=60)
    shown = text.getvalue()
    assert "share" not in shown and "SLA" in shown and "v6-320" in shown
    assert ("\x1b[33m" in shown) is not no_color  # the replica that is awaited, in yellow


def test_programs_get_states_alone(
    world: FakeWorld, service: HttpClient, capfd: pytest.CaptureFixture[str]
) -> None:
    console, text = a_console()
    watch(service, "ocr", Moving(world), console, until=Until.SETTLED, timeout_s=60, output=Output.JSON)
    ticks = [json.loads(line)["live"]["tick"] for line in capfd.readouterr().out.splitlines()]
    assert ticks == [52, 53]
    assert text.getvalue() == ""
