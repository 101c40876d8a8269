"""ipa.yaml -> values of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import getitem
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model

from ipa.files.document import read_document
from ipa.files.faults import check
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import Maybe
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.masking import mask_url

# The names of settings by group and key.
SettingGroups = Mapping[str, Mapping[str, str]]


class _Header(DeclaredFile):
    """The header of the file."""

    description_of_kind: ClassVar[str] = (
        "Settings of the service; environment variables and options come before them."
    )
    kind: Literal["Settings"]


def settings_file(
    groups: SettingGroups,
    defaults: object,
    choices: Mapping[str, tuple[str, ...]],
    words: Mapping[str, str] = MappingProxyType({}),
) -> type[DeclaredFile]:
    """The declaration of the file, with a section for each group of settings.

    `defaults` has the settings for attributes; `choices` and `words` are values and descriptions by name.
    """

    def field(key: str, name: str) -> Any:
        default: Any = getattr(defaults, name)
        kind: Any = type(default) if isinstance(default, bool | int | float) else str
        kind = Literal[choices[name]] if name in choices else kind
        return getitem(Maybe, kind), Field(default=None, alias=key, description=words.get(name))

    sections: dict[str, Any] = {}
    for group, keys in groups.items():
        fields = {name: field(key, name) for key, name in keys.items()}
        section = create_model(f"{group.capitalize()}Section", __base__=Section, **fields)
        sections[group] = (getitem(Maybe, section), None)
    return create_model("SettingsFile", __base__=_Header, **sections)


def read_settings(
    path: Path,
    groups: SettingGroups,
    defaults: object,
    choices: Mapping[str, tuple[str, ...]],
    fault: Callable[[str, Any], str],
) -> tuple[dict[str, tuple[Any, str]], list[Problem]]:
    """The settings that the file has, each with FILE:LINE, and the problems of the others.

    `fault` is the reason why a setting may not have a value, empty if it may. NotFoundError if there is no
    such file.
    """
    try:
        document = read_document(path)
        check(document, settings_file(groups, defaults, choices))
    except NotFoundError:
        raise
    except InputError as error:
        return {}, [*error.problems] or [Problem(error.message)]
    found: dict[str, tuple[Any, str]] = {}
    data = document.sound()
    for group, keys in groups.items():
        section = data.get(group) if isinstance(data, dict) else None
        given = section if isinstance(section, dict) else {}
        for key, name in keys.items():
            value, pointer = given.get(key), (group, key)
            if value is None:
                continue
            if words := fault(name, value):
                shown = mask_url(document.shown(pointer, value), path=True)
                document.problem(pointer, f"{key} is {shown}, which {words}")
            default = getattr(defaults, name)
            kind = Path if isinstance(default, Path) else type(default)
            found[name] = (kind(value), f"{path}:{document.marks[pointer][0]}")
    try:
        document.raise_problems()
    except InputError as error:
        return {}, [*error.problems]
    return found, []
