"""The effective settings with their sources; secrets are hidden."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ipa
from ipa.settings import GROUPS, SECRETS, SETTINGS, SettingOrigin, Settings, SettingSource, variable_of

HIDDEN = "***"
SettingValue = str | bool | int | float
# The part of a URL before the host, and its query: both may hold a password.
_USER = re.compile(r"(?<=://)(?P<name>[^:\s]*?)(?P<password>:\S*)?@")
_QUERY = re.compile(r"\?.*", re.DOTALL)
# Receivers of events often have their secret in the path.
_PATH = re.compile(r"(?<=://)([^/?#\s]*)/\S+")


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: its variable, its group and key in the file, its value, and where the value comes from.

    `value` is *** for a secret, and has it in the place of a URL's password.
    """

    variable: str
    group: str
    key: str
    value: SettingValue
    default: SettingValue
    source: SettingSource
    where: str = ""


@dataclass(frozen=True, slots=True)
class ConfigurationView:
    """The effective settings in the order of their groups, and the version that they are of."""

    version: str
    settings: tuple[SettingView, ...]


def configuration(settings: Settings) -> ConfigurationView:
    """Every setting as it is in effect."""
    defaults = {each.name: getattr(_DEFAULTS, each.name) for each in SETTINGS}
    found = []
    for group, keys in GROUPS.items():
        for key, name in keys.items():
            origin = settings.origins.get(name, SettingOrigin())
            found.append(
                SettingView(
                    variable_of(name),
                    group,
                    key,
                    _shown(name, getattr(settings, name)),
                    _shown(name, defaults[name]),
                    origin.source,
                    origin.where,
                )
            )
    return ConfigurationView(ipa.__version__, tuple(found))


_DEFAULTS = Settings()


def _shown(name: str, value: object) -> SettingValue:
    """The value without what only its owner may read."""
    if name in SECRETS:
        return HIDDEN if value else ""
    if isinstance(value, Path):
        return str(value)
    assert isinstance(value, SettingValue)
    if not isinstance(value, str) or "://" not in value:
        return value
    text = _QUERY.sub(f"?{HIDDEN}", _USER.sub(_without_password, value))
    return _PATH.sub(rf"\1/{HIDDEN}", text) if name == "webhook_url" else text


def _without_password(found: re.Match[str]) -> str:
    """The user of a URL; a lone name before an http address is a token."""
    if found["password"] is None:
        is_http = found.string[: found.start()].lower().endswith(("http://", "https://"))
        return f"{HIDDEN}@" if is_http else found[0]
    return f"{found['name']}:{HIDDEN}@"
