"""`ipa config`: the settings in effect, and where each comes from."""

from __future__ import annotations

from typing import Any

import typer

from ipa.cli.options import client_at
from ipa.cli.output import OUTPUT, Output, show
from ipa.control.canonical import plain
from ipa.files.document import unknown
from ipa.model.errors import UsageError
from ipa.settings import GROUPS, Settings


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
    from ipa.cli.layout import ViewColumn, table_of

    for group in groups or ():
        if group not in GROUPS:
            raise UsageError(f"there is no group {group!r} of settings; {unknown(group, GROUPS)}")
    view = _view(at)
    view["settings"] = [
        each
        for each in view["settings"]
        if (not groups or each["group"] in groups) and not (changed and each["value"] == each["default"])
    ]
    table = table_of(
        view["settings"],
        ViewColumn("setting", "variable"),
        ViewColumn("group", "group"),
        ViewColumn("value", lambda each: _value(each["value"])),
        ViewColumn("from", "source"),
    )
    show(output, view, table if view["settings"] else "Every setting has its default.")


def _view(at: str | None) -> dict[str, Any]:
    """The settings in the form in which the API has them."""
    if at is not None:
        with client_at(at) as service:
            return service.configuration()
    from ipa.service.service import configuration

    found: dict[str, Any] = plain(configuration(Settings.from_env()))
    return found


def _value(value: object) -> str:
    """The value as the environment has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
