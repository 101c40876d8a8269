"""`ipa events`: the record as it grows. `ipa audit`: the record, to export and to verify."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.lookup import service_at
from ipa.cli.options.running import AT
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import UsageError

if TYPE_CHECKING:
    from ipa.control.audit.checkpoints import Verifies
    from ipa.control.audit.record import Verified

ONE = typer.Argument(
    None,
    metavar="PIPELINE",
    help="pipeline; all if not given; NAME@POLICY for a shadow policy",
    autocompletion=completing.pipelines,
)


def events(
    pipeline: str | None = ONE,
    *,
    since: int | None = typer.Option(None, "--since", min=0, help="start after the event with this id"),
    follow: bool = typer.Option(
        True, "--follow/--no-follow", help="wait for new events, or end with the present ones"
    ),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Print decisions, results of changes and actions of people as they are recorded.

    One line for each; with -o json its entry in the record. A broken stream is resumed where it ended.
    """
    from ipa.cli.watching import followed
    from ipa.control.loop import clock

    place = since if follow or since is not None else 0
    with service_at(at, "events") as service:
        for event in followed(service, pipeline, place, clock.SystemClock(), follow=follow):
            typer.echo(event.data if output is Output.JSON else event.words())


def audit(
    pipeline: str | None = ONE,
    *,
    after: int = typer.Option(0, "--after", min=0, help="start after the entry with this number among all"),
    check: Path | None = typer.Option(
        None, "--check", metavar="FILE", help="verify exported lines of this file; - for standard input"
    ),
    anchor: list[str] | None = typer.Option(
        None,
        "--anchor",
        metavar="PIPELINE=HEAD",
        help="with --check, a head of the record that was kept elsewhere",
    ),
    key: Path | None = typer.Option(
        None, "--key", metavar="FILE", help="with --check, PEM file of the key that signs checkpoints"
    ),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Export the record of decisions and changes, one entry a line.

    --check verifies an export without a service: exit code 1 if an entry was changed, removed or inserted.
    """
    if check is None:
        with service_at(at, "audit") as service:
            for line in service.audit(pipeline, after=after):
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


def _removed(found: Verified) -> str:
    """The holds that retention removed, and the checkpoints that were not checked, in words."""
    words = f", {found.removed} holds of them removed by retention" if found.removed else ""
    return words + (
        f"; {found.unchecked} checkpoints not checked, since no key was given" if found.unchecked else ""
    )


def _keys(path: Path | None) -> Verifies | None:
    if path is None:
        return None
    from ipa.bootstrap.stores import checkpoint_verifier

    return checkpoint_verifier(path)


def _lines_of(path: Path) -> Iterator[str]:
    from ipa.files.reading import lines_of

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
