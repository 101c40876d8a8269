"""`ipa watch`, on a clock that is moved by waiting."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ipa.cli.output import Output
from ipa.cli.watching import EventTail, Until, watch
from ipa.clients.http import HttpClient
from ipa.control.audit.record import Entry, EntryKind
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import Mode
from ipa.model.errors import DeadlineError, RolloutError, UnavailableError
from tests.fakes.clock import VirtualClock
from tests.fakes.services import LADDER, NOW, FakeWorld, InProcess


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


class Busy(VirtualClock):
    """Between two looks of a watch much happens: what `act` does, once."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act
        self._waits = 0

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        self._waits += 1
        if self._waits == 1:
            self._act()


def test_what_came_and_went_between_two_looks_is_told(world: FakeWorld, service: HttpClient) -> None:
    world.play(2)
    console, text = a_console()
    before = world.applied_tick, world.rung

    def there_and_back() -> None:
        world.apply(LADDER[3][3], "requested by kim: trial")
        world.set_control(
            "ocr", PipelineControl(Mode.ACTIVE, True), Attribution(ControlAction.PAUSE, "kim", "lunch")
        )
        world.apply(LADDER[before[1]][3], "rollback by kim")
        # As if nothing had been.
        world.applied_tick = before[0]

    clock = Busy(there_and_back)
    watch(service, "ocr", clock, console, until=Until.CHANGED, timeout_s=60)
    assert clock.monotonic_s() == 1.0
    told = [line for line in text.getvalue().replace("\n ", " ").splitlines() if line.startswith("event ")]
    kinds = [word for line in told for word in ("apply.requested", "control pause by kim") if word in line]
    assert kinds == ["apply.requested", "control pause by kim", "apply.requested"]


def test_a_change_that_failed_between_two_looks_is_an_error(world: FakeWorld, service: HttpClient) -> None:
    world.play(2)
    failed = Entry("ocr", EntryKind.CHANGE, "rolled_back", NOW.isoformat(), why="image not found")
    clock = Busy(lambda: world.note(failed))
    with pytest.raises(RolloutError, match="ended rolled_back: image not found"):
        watch(service, "ocr", clock, a_console()[0], until=Until.CHANGED, timeout_s=60)


def test_programs_get_states_alone(
    world: FakeWorld, service: HttpClient, capfd: pytest.CaptureFixture[str]
) -> None:
    world.play(2)
    clock = Busy(lambda: world.apply(LADDER[3][3], "requested by kim"))
    console, text = a_console()
    watch(service, "ocr", clock, console, until=Until.CHANGED, timeout_s=9, output=Output.JSON)
    details = [json.loads(line)["live"]["detail"] for line in capfd.readouterr().out.splitlines()]
    assert len(details) == 2 and details[1].startswith("requested by kim")
    assert text.getvalue() == ""


def test_without_a_record_it_polls(world: FakeWorld) -> None:
    world.play(2)
    services = replace(world.services(), streams=None)
    with HttpClient("http://127.0.0.1:8080", InProcess(services)) as service:
        console, text = a_console()
        watch(service, "ocr", Moving(world), console, until=Until.CHANGED, timeout_s=600)
    assert "event " not in text.getvalue() and text.getvalue().count(" tick ") > 2


def test_what_a_service_could_not_say_once_comes_with_the_next_look(
    world: FakeWorld, service: HttpClient
) -> None:
    clock = VirtualClock()
    news = EventTail(service, "ocr", clock)
    world.apply(LADDER[3][3], "requested by kim")
    asked = service.events
    service.events = unavailable  # type: ignore[method-assign]
    assert news.read() == []
    service.events = asked  # type: ignore[method-assign]
    assert [event.what for event in news.read()] == ["apply.requested"]
    assert news.read() == []


def unavailable(pipeline: str | None, **place: Any) -> Iterator[str]:
    raise UnavailableError("the service does not answer")
