"""ipa.yaml -> values of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model

from ipa.files.document import parse, read_text
from ipa.files.faults import check
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import Maybe
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.masking import mask_url


@dataclass(frozen=True, slots=True)
class SettingKey:
    """A key of the file: the setting's name, its default, the values that it may have, and its words."""

    key: str
    name: str
    default: Any
    choices: tuple[str, ...] = ()
    words: str = ""


SettingGroups = Mapping[str, Sequence[SettingKey]]


class _Header(DeclaredFile):
    """The header of the file."""

    description_of_kind: ClassVar[str] = (
        "Settings of the service; environment variables and options come before them."
    )
    kind: Literal["Settings"]


def settings_file(groups: SettingGroups) -> type[DeclaredFile]:
    """The declaration of the file, with a section for each group of settings."""
    sections: dict[str, Any] = {
        group: (getitem(Maybe, _section(group, keys)), None) for group, keys in groups.items()
    }
    return create_model("SettingsFile", __base__=_Header, **sections)


def _section(group: str, keys: Sequence[SettingKey]) -> type[Section]:
    found: dict[str, Any] = {}
    for each in keys:
        kind: Any = type(each.default) if isinstance(each.default, bool | int | float) else str
        if each.choices:
            kind = Literal[each.choices]
        field = Field(default=None, alias=each.key, description=each.words or None)
        found[each.name] = (getitem(Maybe, kind), field)
    return create_model(f"{group.capitalize()}Section", __base__=Section, **found)


def read_settings(
    path: Path, groups: SettingGroups, fault: Callable[[str, Any], str]
) -> tuple[dict[str, tuple[Any, str]], list[Problem]]:
    """The settings that the file has, each with FILE:LINE, and the problems of the others.

    `fault` is the reason why a setting may not have a value, empty if it may. NotFoundError if there is no
    such file.
    """
    try:
        document = parse(read_text(path), str(path))
        check(document, settings_file(groups))
    except NotFoundError:
        raise
    except InputError as error:
        return {}, [*error.problems] or [Problem(error.message)]
    found: dict[str, tuple[Any, str]] = {}
    data = document.sound()
    for group, keys in groups.items():
        section = data.get(group) if isinstance(data, dict) else None
        given = section if isinstance(section, dict) else {}
        for each in keys:
            value, pointer = given.get(each.key), (group, each.key)
            if value is None:
                continue
            if words := fault(each.name, value):
                shown = mask_url(document.shown(pointer, value), path=True)
                document.problem(pointer, f"{each.key} is {shown}, which {words}")
            kind = Path if isinstance(each.default, Path) else type(each.default)
            found[each.name] = (kind(value), f"{path}:{document.marks[pointer][0]}")
    try:
        document.raise_problems()
    except InputError as error:
        return {}, [*error.problems]
    return found, []
