"""`ipa watch` and `ipa events`: follow a pipeline, and the events of a service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from ipa.cli.layout import by_whom, date_time
from ipa.cli.output import Output, json_text, print_values
from ipa.cli.views.status_text import status_line, status_table
from ipa.clients.http import HttpClient
from ipa.control.ports import Clock
from ipa.model.errors import DeadlineError, RolloutError, UnavailableError

# Seconds after which a broken stream is resumed.
AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream; `id` is empty for events about the stream itself."""

    id: str
    kind: str
    data: str

    @property
    def values(self) -> dict[str, Any]:
        """The entry of the record."""
        entry: dict[str, Any] = json.loads(self.data)
        return entry

    @property
    def words(self) -> str:
        """The event as a line for people."""
        it = self.values
        if self.kind in ("reset", "store"):
            return f"{self.kind}: {it['detail']}"
        who = by_whom(it["by"], it["why"])
        line = f"{self.id} {date_time(it['at'])} {it['pipeline']} {it['kind']} {it['what']}{who}"
        # Reasons that people write may contain control characters.
        return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def followed(
    service: HttpClient, pipeline: str | None, place: int | None, clock: Clock, *, follow: bool
) -> Iterator[StreamEvent]:
    """The events after that id; with `follow` endless, resumed after breaks."""
    while True:
        try:
            for event in parsed(service.events(pipeline, after=place, follow=follow)):
                place = int(event.id) if event.id else place
                yield event
        except UnavailableError:
            # An error before the first event is not a break: the service does not answer.
            if not follow or place is None:
                raise
        if not follow:
            return
        clock.wait(AGAIN_S)


def parsed(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """The events of a text/event-stream, without comments."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "data" in fields:
                yield StreamEvent(fields.get("id", ""), fields.get("event", ""), fields["data"])
            fields = {}


# Seconds between two refreshes of a watch.
INTERVAL_S = 1.0
# Phases of a change that failed; waiting longer does not help.
FAILED = frozenset({"failed", "rolled_back", "rollback_failed"})


class Until(StrEnum):
    """The condition that ends a watch: the last change has settled, or a new one has."""

    SETTLED = "settled"
    CHANGED = "changed"


def watch(
    source: HttpClient,
    pipeline: str,
    clock: Clock,
    console: Console,
    *,
    until: Until | None = None,
    timeout_s: float | None = None,
    output: Output = Output.TEXT,
) -> None:
    """Show the pipeline at each change; return once `until` is reached.

    On a terminal a tree that changes in place, else a line for each change; for programs a value for each.

    Errors: DeadlineError after `timeout_s`; RolloutError if a change failed or the pipeline is degraded.
    """
    started_s = clock.monotonic_s()
    with ExitStack() as screen:
        show = _shower(console, screen, output)
        first, is_due = "", until is not Until.CHANGED
        while True:
            status = source.status(pipeline)
            show(status)
            first = first or status["live"]["revision"]
            is_due = is_due or status["live"]["revision"] != first
            if until is not None and is_due and _settled(status):
                return
            if timeout_s is not None and clock.monotonic_s() - started_s + INTERVAL_S > timeout_s:
                done = "was not changed" if until is Until.CHANGED else "did not settle"
                raise DeadlineError(f"{pipeline} {done} within {timeout_s:g} s")
            clock.wait(INTERVAL_S)


def _settled(status: dict[str, Any]) -> bool:
    live = status["live"]
    if live["phase"] in FAILED:
        raise RolloutError(f"the last change of {status['pipeline']} ended {live['phase']}: {live['detail']}")
    if not live["settled"] or live["phase"] not in ("idle", "settled"):
        return False
    if not status["healthy"]:
        raise RolloutError(f"{status['pipeline']} settled but is degraded: {'; '.join(live['degraded'])}")
    return True


def _shower(console: Console, screen: ExitStack, output: Output) -> Callable[[dict[str, Any]], None]:
    """The function that prints a status: in place on a terminal, else a line or value a tick."""
    is_live = console.is_terminal and output is Output.TEXT
    view = Live(console=console, auto_refresh=False, vertical_overflow="visible")
    if is_live:
        # A display in place crops lines that are not wrapped.
        console.soft_wrap = False
        screen.enter_context(view)
    last: list[Any] = []

    def show(status: dict[str, Any]) -> None:
        if is_live:
            view.update(status_table(status), refresh=True)
            return
        live = status["live"]
        now = [live["tick"], live["settled"], live["detail"], [it["ready_replicas"] for it in live["stages"]]]
        if last == now:
            return
        last[:] = now
        if output is Output.JSON:
            typer.echo(json_text(status))
        elif output is Output.YAML:
            typer.echo("---")
            print_values(output, status)
        else:
            console.print(status_line(status), markup=False)

    return show
