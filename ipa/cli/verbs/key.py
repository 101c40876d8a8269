"""`ipa key`: the API keys of the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.options import me
from ipa.cli.output import OUTPUT, Output, printed, show
from ipa.control.loop.scheduler import SystemClock
from ipa.model.access import EVERYWHERE, Grant, Role, name_fault
from ipa.model.errors import UsageError
from ipa.model.pipeline import DEFAULT_NAMESPACE
from ipa.model.rounding import in_utc
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.bootstrap.stores import Keys
    from ipa.model.access import ApiKey

UNITS_S = {"min": 60.0, "h": 3600.0, "d": 86400.0}
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
    grant, wanted = _grant(role, namespace), name or me()
    fault = name_fault(wanted)
    if fault:
        raise UsageError(f"--name {fault}")
    now = SystemClock().now()
    ends = _end(expires, now)
    with _keys() as keys:
        key, token = keys.create(wanted, grant, now=now, expires_at=ends)
    if printed(output, {**_plain(key, now), "token": token}):
        return
    # Only the key, so that a shell can capture it: IPA_TOKEN=$(ipa key create ...)
    typer.echo(token)
    until = f"until {in_utc(ends)}" if ends else "without end"
    typer.echo(f"key {key.key_id} of {wanted}: {grant}, {until}; it is not shown again", err=True)


def list_(output: Output = OUTPUT) -> None:
    """List the keys, without their secrets."""
    from ipa.cli.layout import ViewColumn, table_of

    now = SystemClock().now()
    with _keys(writes=False) as keys:
        found = keys.all()
    table = table_of(
        found,
        ViewColumn("key", "key_id"),
        ViewColumn("of", "name"),
        ViewColumn("may", "grant"),
        ViewColumn("state", lambda key: key.state(now)),
        ViewColumn("ends", lambda key: in_utc(key.expires_at) if key.expires_at else NEVER),
    )
    show(output, [_plain(key, now) for key in found], table)


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


def _grant(role: Role, namespace: str | None) -> Grant:
    if role is not Role.OPERATOR:
        return Grant(role, namespace or DEFAULT_NAMESPACE)
    if namespace not in (None, EVERYWHERE):
        raise UsageError(
            "the role operator applies to every namespace", hint="Leave out --namespace, or use owner."
        )
    return Grant(role)


def _end(text: str, now: datetime) -> datetime | None:
    if text == NEVER:
        return None
    for unit, seconds in UNITS_S.items():
        count = text.removesuffix(unit)
        # Nobody needs a key for a century; more digits have no date.
        if count != text and count.isdecimal() and count.isascii() and 0 < len(count) <= 5 and int(count):
            return now + timedelta(seconds=int(count) * seconds)
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
