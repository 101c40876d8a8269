"""The effective settings with their sources; secrets are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ipa
from ipa.settings import GROUPS, Settings, SettingSource, shown_setting, variable_of

SettingValue = str | bool | int | float


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: its variable, its group, its value, and where the value comes from.

    `value` is *** for a secret, and has it in a URL for each part that may be one.
    """

    variable: str
    group: str
    value: SettingValue
    default: SettingValue
    source: SettingSource


@dataclass(frozen=True, slots=True)
class ConfigurationView:
    """The effective settings in the order of their groups, and the version that they are of."""

    version: str
    settings: tuple[SettingView, ...]


def configuration(settings: Settings) -> ConfigurationView:
    """Every setting as it is in effect."""
    found = [
        SettingView(
            variable_of(name),
            group,
            _shown(name, getattr(settings, name)),
            _shown(name, getattr(_DEFAULTS, name)),
            settings.origins.get(name, SettingSource.DEFAULT),
        )
        for group, names in GROUPS.items()
        for name in names
    ]
    return ConfigurationView(ipa.__version__, tuple(found))


_DEFAULTS = Settings()


def _shown(name: str, value: object) -> SettingValue:
    """The value without the parts that only its owner may read."""
    shown = shown_setting(name, str(value) if isinstance(value, Path) else value)
    assert isinstance(shown, SettingValue)
    return shown
