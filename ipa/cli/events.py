"""`ipa events`: what is decided and done, as it happens. `ipa audit`: the record, to keep and to check."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli import completing
from ipa.cli.output import OUTPUT, Output, show
from ipa.cli.remote import AT
from ipa.model.errors import InputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from ipa.cli.source import Source
    from ipa.control.audit.checkpoints import Verifies
    from ipa.control.audit.record import Verified
    from ipa.control.ports import Clock

# A stream that ended is taken up again after so long.
AGAIN_S = 2.0
ONE = typer.Argument(
    None,
    metavar="PIPELINE",
    help="all without; NAME@POLICY for a policy beside it",
    autocompletion=completing.pipelines,
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(events)
    app.command()(audit)


def events(
    pipeline: str | None = ONE,
    *,
    since: int | None = typer.Option(
        None, "--since", min=0, help="those after the event with this id, first"
    ),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="go on, or end with what there is"),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Show decisions, what became of changes, and what people said, as it happens.

    A line each; with -o json its entry in the record. A stream that breaks is taken up where it was.
    """
    from ipa.cli.source import source
    from ipa.control.loop import clock

    place = since if follow or since is not None else 0
    with source(at) as service:
        for event in followed(service, pipeline, place, clock.SystemClock(), follow=follow):
            typer.echo(event.data if output is Output.JSON else event.words())


def audit(
    pipeline: str | None = ONE,
    *,
    after: int = typer.Option(0, "--after", min=0, help="entries after the one of this number among all"),
    check: Path | None = typer.Option(None, "--check", metavar="FILE", help="verify such lines; - for stdin"),
    anchor: list[str] | None = typer.Option(
        None, "--anchor", metavar="PIPELINE=HEAD", help="with --check, a head that was kept elsewhere"
    ),
    key: Path | None = typer.Option(
        None,
        "--key",
        metavar="FILE",
        help="with --check, the PEM file of the key that checkpoints are signed with",
    ),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Print the record of what was decided and done, an entry a line, to keep elsewhere.

    With --check nothing is asked of a service: exit code 1 where an entry of the file was changed, removed
    or put in.
    """
    from ipa.cli.source import source

    if check is None:
        with source(at) as service:
            for line in service.lines("audit", pipeline=pipeline, after=after):
                typer.echo(line)
        return
    from ipa.control.audit.checkpoints import verify_lines

    found = verify_lines(_lines_of(check), _anchors(anchor or ()), _keys(key))
    whole = [
        f"{each.entries} entries of {name}, each as it was written{_removed(each)}; head {each.head}"
        for name, each in found.items()
    ]
    data = {
        name: {
            "entries": each.entries,
            "head": str(each.head),
            "removed": each.removed,
            "unchecked": each.unchecked,
        }
        for name, each in found.items()
    }
    show(output, data, *whole)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `id` is empty for what is said of the stream itself."""

    id: str
    kind: str
    data: str

    def words(self) -> str:
        """The event as a line for people."""
        said: dict[str, Any] = json.loads(self.data)
        if self.kind in ("reset", "store"):
            return f"{self.kind}: {said['detail']}"
        by = f" by {said['by']}" if said["by"] else ""
        why = f": {said['why']}" if said["why"] else ""
        line = f"{self.id} {said['at']} {said['pipeline']} {said['kind']} {said['what']}{by}{why}"
        # What people write may hold anything that a terminal obeys.
        return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def followed(
    service: Source, pipeline: str | None, place: int | None, clock: Clock, *, follow: bool
) -> Iterator[Event]:
    """The events after that place; with `follow` without end, over breaks of the stream."""
    query = {"pipeline": pipeline, "follow": None if follow else "false"}
    while True:
        try:
            for event in parsed(service.lines("events", after=place, **query)):
                place = int(event.id) if event.id else place
                yield event
        except UnavailableError:
            # Before the first event it is no break: nothing answers there.
            if not follow or place is None:
                raise
        if not follow:
            return
        clock.wait(AGAIN_S)


def parsed(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a text/event-stream; comments are none."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "data" in fields:
                yield Event(fields.get("id", ""), fields.get("event", ""), fields["data"])
            fields = {}


def _removed(found: Verified) -> str:
    """What retention removed, and whether that is signed, in words."""
    words = f", {found.removed} holds of them removed with their age" if found.removed else ""
    return words + (
        f"; {found.unchecked} checkpoints not checked for want of a key" if found.unchecked else ""
    )


def _keys(path: Path | None) -> Verifies | None:
    if path is None:
        return None
    from ipa.adapters.store.signing import Keyring

    keyring = Keyring(path)
    if keyring.is_empty():
        raise InputError(f"there is no key in {path}", hint="It is beside the store, or IPA_STORE_KEY_FILE.")
    return keyring.verifies


def _lines_of(path: Path) -> Iterator[str]:
    from ipa.adapters.files.reading import lines_of

    yield from sys.stdin if str(path) == "-" else lines_of(path)


def _anchors(given: Iterable[str]) -> dict[str, Any]:
    from ipa.control.audit.record import head_of

    found = {}
    for text in given:
        pipeline, is_said, head = text.rpartition("=")
        try:
            found[pipeline] = head_of(head)
        except ValueError as error:
            raise UsageError(f"--anchor {error}", hint="`ipa history --verify` prints one.") from error
        if not is_said:
            raise UsageError(f"--anchor {text!r} names no pipeline", hint="As video=42:…")
    return found
