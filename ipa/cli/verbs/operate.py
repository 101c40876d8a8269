"""`ipa config`, `ipa key` and `ipa store`: the settings in effect, API keys, and the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import filesize

from ipa.cli.options import client_at, me
from ipa.cli.output import OUTPUT, Output, print_values, progress, show
from ipa.control.canonical import plain
from ipa.control.loop.scheduler import SystemClock
from ipa.files.document import unknown
from ipa.files.traces import SPAN
from ipa.model.access import EVERYWHERE, Grant, Role, name_fault
from ipa.model.errors import UnavailableError, UsageError
from ipa.model.pipeline import DEFAULT_NAMESPACE
from ipa.model.rounding import in_utc
from ipa.settings import GROUPS, Settings

if TYPE_CHECKING:
    from ipa.bootstrap.stores import Keys
    from ipa.control.store_admin import StoreContents
    from ipa.model.access import ApiKey


def show_(
    groups: list[str] | None = typer.Argument(
        None,
        metavar="[GROUP]...",
        help=f"groups of settings, of {', '.join(GROUPS)}; all if not given",
        autocompletion=lambda: list(GROUPS),
    ),
    *,
    changed: bool = typer.Option(False, "--changed", help="only settings that differ from their defaults"),
    at: str | None = typer.Option(
        None, "--at", metavar="URL", help="URL of a service that you operate; this environment if not given"
    ),
    output: Output = OUTPUT,
) -> None:
    """Show the effective settings and where each comes from: default, environment or option.

    Secrets are hidden. Without --at, they are those of a service that was started here and now: exit code 78
    if the environment has one that cannot be used.
    """
    from ipa.cli.layout import ViewColumn, make_table
    from ipa.service.service import configuration

    for group in groups or ():
        if group not in GROUPS:
            raise UsageError(f"there is no group {group!r} of settings; {unknown(group, GROUPS)}")
    # In the form in which the API has them.
    if at is not None:
        with client_at(at) as service:
            view = service.configuration()
    else:
        view = plain(configuration(Settings.from_env()))
    view["settings"] = [
        each
        for each in view["settings"]
        if (not groups or each["group"] in groups) and not (changed and each["value"] == each["default"])
    ]
    table = make_table(
        view["settings"],
        ViewColumn("setting", "variable"),
        ViewColumn("group", "group"),
        ViewColumn("value", lambda each: _value(each["value"])),
        ViewColumn("from", "source"),
    )
    show(output, view, table if view["settings"] else "Every setting has its default.")


def _value(value: object) -> str:
    """The value in the form of an environment variable."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


NEVER = "never"
ROLE = typer.Option(
    ...,
    "--role",
    help="viewer: read and plan; owner: also change pipelines; operator: everything, in every namespace",
)
NAME = typer.Option(
    None,
    "--name",
    help="person or program that uses the key, as the record names it; your user name if not given",
)
NAMESPACE = typer.Option(
    None, "--namespace", "-n", help=f"namespace of the role; {DEFAULT_NAMESPACE} if not given, '*' for all"
)
EXPIRES = typer.Option("90d", "--expires", help=f"time until it expires, as 90d or 12h; or {NEVER}")


def create(
    *,
    role: Role = ROLE,
    namespace: str | None = NAMESPACE,
    name: str | None = NAME,
    expires: str = EXPIRES,
    output: Output = OUTPUT,
) -> None:
    """Create a key and print it. It cannot be printed again: the store keeps only its digest."""
    is_operator, wanted = role is Role.OPERATOR, name or me()
    if is_operator and namespace not in (None, EVERYWHERE):
        raise UsageError(
            "the role operator applies to every namespace", hint="Leave out --namespace, or use owner."
        )
    grant = Grant(role) if is_operator else Grant(role, namespace or DEFAULT_NAMESPACE)
    fault = name_fault(wanted)
    if fault:
        raise UsageError(f"--name {fault}")
    now = SystemClock().now()
    ends = _end(expires, now)
    with _keys() as keys:
        key, token = keys.create(wanted, grant, now=now, expires_at=ends)
    if print_values(output, {**_plain(key, now), "token": token}):
        return
    # Only the key, so that a shell can capture it: IPA_TOKEN=$(ipa key create ...)
    typer.echo(token)
    until = f"until {in_utc(ends)}" if ends else "without end"
    typer.echo(f"key {key.key_id} of {wanted}: {grant}, {until}; it is not shown again", err=True)


def list_(output: Output = OUTPUT) -> None:
    """List the keys, without their secrets."""
    from ipa.cli.layout import ViewColumn, make_table

    now = SystemClock().now()
    with _keys(writes=False) as keys:
        listed = keys.all()
    table = make_table(
        listed,
        ViewColumn("key", "key_id"),
        ViewColumn("of", "name"),
        ViewColumn("may", "grant"),
        ViewColumn("state", lambda key: key.state(now)),
        ViewColumn("ends", lambda key: in_utc(key.expires_at) if key.expires_at else NEVER),
    )
    show(output, [_plain(key, now) for key in listed], table)


def revoke(
    key_id: str = typer.Argument(metavar="KEY_ID", help="id of the key, as `ipa key list` shows it"),
    *,
    output: Output = OUTPUT,
) -> None:
    """Revoke a key; the next request with it is refused."""
    now = SystemClock().now()
    with _keys() as keys:
        key = keys.revoke(key_id, now=now)
    show(output, _plain(key, now), f"key {key_id} of {key.name} is revoked")


@contextmanager
def _keys(*, writes: bool = True) -> Iterator[Keys]:
    """The keys of the settings' store."""
    from ipa.bootstrap.stores import opened_store

    with opened_store(Settings.from_env(), writes=writes) as store:
        yield store.keys


def _end(text: str, now: datetime) -> datetime | None:
    if text == NEVER:
        return None
    # What is too far away has no date.
    with suppress(ValueError, OverflowError):
        if (seconds := SPAN.parse(text)) > 0:
            return now + timedelta(seconds=seconds)
    raise UsageError(f"--expires {text!r} is not a time", hint=f"For example 90d, 12h, 30min, or {NEVER}")


def _plain(key: ApiKey, now: datetime) -> dict[str, Any]:
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "key_id": key.key_id,
        "name": key.name,
        "role": key.grant.role.value,
        "namespace": key.grant.namespace,
        "state": key.state(now),
        **{name: at.isoformat() if at else None for name, at in times.items()},
    }


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
        f"{filesize.decimal(report.freed_bytes)}",
    )


def _contents(contents: StoreContents) -> str:
    return (
        f"{contents.pipelines} pipelines, {contents.entries} entries and {contents.decisions} decisions, "
        f"{filesize.decimal(contents.size_bytes)}, verified"
    )


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
