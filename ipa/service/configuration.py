"""The effective settings with their sources; secrets are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ipa
from ipa.settings import GROUPS, SETTINGS, SettingOrigin, Settings, SettingSource, shown_setting, variable_of

SettingValue = str | bool | int | float


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: its variable, its group and key in the file, its value, and where the value comes from.

    `value` is *** for a secret, and has it in a URL for each part that may be one.
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
    """The value without the parts that only its owner may read."""
    shown = shown_setting(name, str(value) if isinstance(value, Path) else value)
    assert isinstance(shown, SettingValue)
    return shown
