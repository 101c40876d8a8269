"""`ipa store`: back up, restore, prune and measure the store of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.model.errors import UnavailableError
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.control.store_admin import StoreContents


def backup(
    file: Path = typer.Argument(help="file to create", metavar="FILE"),
    *,
    output: Output = OUTPUT,
) -> None:
    """Copy the store to one file and verify the copy. A running service is not delayed.

    The file is a SQLite store even if the store is in PostgreSQL. It contains names of people and digests of
    API keys, so only its owner can read it.
    """
    from ipa.bootstrap import stores

    with _steps() as step:
        made = stores.back_up(Settings.from_env(), file, step)
    show(output, asdict(made), f"{made.file}: {_contents(made.contents)}; sha256 {made.sha256}")


def restore(
    file: Path = typer.Argument(help="file of a backup", metavar="FILE"),
    *,
    output: Output = OUTPUT,
) -> None:
    """Verify a backup and make it the store, at the schema of this version.

    Stop the service first: exit code 4 if it uses the store, or if the store is not empty. If IPA_STORE_URL
    names an empty PostgreSQL database, the backup is copied into it.
    """
    from ipa.bootstrap import stores

    with _steps() as step:
        done = stores.restore(Settings.from_env(), file, step)
    show(output, asdict(done), f"{done.store} is restored: {_contents(done.contents)}")


def prune(
    output: Output = OUTPUT,
) -> None:
    """Remove data that is older than the settings IPA_KEEP_... keep; the service may be running.

    The service does the same by itself; use this if the disk is full now. The record still verifies.
    """
    from ipa.bootstrap import stores

    with stores.opened_store(Settings.from_env()) as store, progress("pruning"):
        report = store.prune()
    show(
        output,
        asdict(report),
        f"removed {report.removed_decisions} decisions and {report.removed_changes} changes, "
        f"{_size(report.freed_bytes)}",
    )


def stats(output: Output = OUTPUT) -> None:
    """Show the contents and the size of the store."""
    from operator import itemgetter

    from ipa.bootstrap import stores
    from ipa.cli.layout import ViewColumn, table_of

    with stores.opened_store(Settings.from_env(), writes=False) as store:
        found = store.stats()
    rows: list[tuple[str, str, float]] = [
        *((str(kind), f"{each.rows} rows", each.bytes) for kind, each in found.kinds.items()),
        ("on disk", f"{_size(found.free_bytes)} of it free", found.file_bytes + found.log_bytes),
    ]
    columns = ViewColumn("of", itemgetter(0)), ViewColumn("number", itemgetter(1))
    size = ViewColumn("size", lambda row: _size(row[2]), "{}")
    show(output, asdict(found), table_of(rows, *columns, size))


def _contents(found: StoreContents) -> str:
    return (
        f"{found.pipelines} pipelines, {found.entries} entries and {found.decisions} decisions, "
        f"{_size(found.size_bytes)}, verified"
    )


def _size(size_bytes: float) -> str:
    """The size in a fitting unit."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} GB"


@contextmanager
def _steps() -> Iterator[Callable[[str, float], None]]:
    """Show the progress of a copy; an OSError becomes UnavailableError."""
    try:
        with progress("store") as step:
            yield lambda words, part: step(f"{words}, {100 * part:.0f} %")
    except OSError as error:
        raise UnavailableError(
            f"{error.filename or 'the copy'} cannot be read or written: {error.strerror}",
            hint="The disk needs as much free space as the store takes.",
        ) from error
