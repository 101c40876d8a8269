"""`ipa watch`: a pipeline as it changes, until someone stops it or it has settled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from ipa.cli.output import Output, json_text, printed
from ipa.cli.views.status_text import status_line, status_tree
from ipa.cli.watching.event_stream import Event
from ipa.cli.watching.event_tail import News, what_of
from ipa.clients.base import PipelineClient
from ipa.control.ports import Clock
from ipa.model.errors import DeadlineError, RolloutError

INTERVAL_S = 1.0
# A change that ended badly; waiting on would not mend it.
FAILED = frozenset({"failed", "rolled_back", "rollback_failed"})


class Until(StrEnum):
    """What a watch waits for: the last change is settled, or one that is made from now on is."""

    SETTLED = "settled"
    CHANGED = "changed"


def watch(
    source: PipelineClient,
    pipeline: str,
    clock: Clock,
    console: Console,
    *,
    until: Until | None = None,
    timeout_s: float | None = None,
    output: Output = Output.TEXT,
) -> None:
    """Show the pipeline as often as its source moves; return once it is as `until` says.

    On a terminal a tree that changes in place, else a line for each change; for programs a value for each.
    Where a service records what happens, people also get what came and went between two looks.

    Errors: DeadlineError after `timeout_s`; RolloutError where it settled badly (degraded, or rolled back).
    """
    interval_s = source.interval_s or INTERVAL_S
    started_s = clock.monotonic_s()
    with ExitStack() as screen:
        show = _shower(console, screen, output)
        news, first, is_due = News(source, pipeline, clock), "", until is not Until.CHANGED
        while True:
            happened = news.read()
            status = source.status(pipeline)
            show(status, happened)
            first = first or status["live"]["revision"]
            # A change that was taken back meanwhile leaves the revision as it was, or nothing to see of it.
            is_due = is_due or status["live"]["revision"] != first or any(map(_is_change, happened))
            if until is not None:
                _check(pipeline, happened)
            if until is not None and is_due and _settled(status):
                return
            if timeout_s is not None and clock.monotonic_s() - started_s + interval_s > timeout_s:
                done = "was not changed" if until is Until.CHANGED else "did not settle"
                raise DeadlineError(f"{pipeline} {done} within {timeout_s:g} s")
            clock.wait(interval_s)


def _is_change(event: Event) -> bool:
    return event.kind == "change" or (event.kind == "decision" and what_of(event).startswith("apply."))


def _check(pipeline: str, happened: Sequence[Event]) -> None:
    """RolloutError where a change ended badly, even if nothing is to be seen of it any more."""
    for event in happened:
        if event.kind == "change" and what_of(event) in FAILED:
            why = json.loads(event.data)["why"]
            raise RolloutError(f"a change of {pipeline} ended {what_of(event)}: {why}")


def _settled(status: dict[str, Any]) -> bool:
    live = status["live"]
    if live["phase"] in FAILED:
        raise RolloutError(f"the last change of {status['pipeline']} ended {live['phase']}: {live['detail']}")
    if not live["settled"] or live["phase"] not in ("idle", "settled"):
        return False
    if not status["healthy"]:
        raise RolloutError(f"{status['pipeline']} settled but is degraded: {'; '.join(live['degraded'])}")
    return True


Show = Callable[[dict[str, Any], Sequence[Event]], None]


def _shower(console: Console, screen: ExitStack, output: Output) -> Show:
    """How to show what happened and a status: in place on a terminal, else one line, or value, a tick."""
    if console.is_terminal and output is Output.TEXT:
        tree = screen.enter_context(Live(console=console, auto_refresh=False))

        def update(status: dict[str, Any], happened: Sequence[Event]) -> None:
            _tell(console, happened)
            tree.update(status_tree(status), refresh=True)

        return update
    shown: list[tuple[Any, ...]] = []

    def show(status: dict[str, Any], happened: Sequence[Event]) -> None:
        live = status["live"]
        if output is Output.TEXT:
            _tell(console, happened)
        ready = [stage["ready_replicas"] for stage in live["stages"]]
        now = (live["tick"], live["settled"], live["detail"], ready)
        if not shown or shown[-1] != now:
            shown[:] = [now]
            if output is Output.JSON:
                typer.echo(json_text(status))
            elif output is Output.YAML:
                typer.echo("---")
                printed(output, status)
            else:
                console.print(status_line(status), markup=False)

    return show


def _tell(console: Console, happened: Sequence[Event]) -> None:
    for event in happened:
        console.print(f"event {event.words()}", markup=False)
