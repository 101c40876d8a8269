"""Canonical JSON text of values, so that equal inputs have equal digests; and its decoding by type.

An infinite number is encoded as None and cannot be restored. A whole number in the place of a float comes
back as a float, which is equal and has another text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date
from enum import Enum
from functools import cache, lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ipa.model.errors import InputError
from ipa.model.recording import NOT_RECORDED, RECORDED_AS, RECORDED_BESIDE, RECORDED_UNLESS_DEFAULT, ById

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# The entries that records have also if there are none: targets were fields once, and digests stay the same.
ALWAYS_RECORDED = {"Pipeline": ("seldon",), "Variant": ("local", "seldon")}
# Instead of a name: the field's entries have names of their own.
BESIDE = ""
# Types that JSON represents directly.
AS_IT_IS = frozenset({str, int, bool, type(None)})
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
T = TypeVar("T")


@cache
def recorded_names(kind: Any) -> tuple[tuple[str, str], ...] | None:
    """Each recorded field of a dataclass with its name in records; None if `kind` is no dataclass."""
    if not is_dataclass(kind):
        return None
    recorded = (each for each in fields(kind) if NOT_RECORDED not in each.metadata)
    return tuple((each.name, _recorded_name(each)) for each in recorded)


def _recorded_name(of: Field[Any]) -> str:
    return BESIDE if RECORDED_BESIDE in of.metadata else str(of.metadata.get(RECORDED_AS, of.name))


@cache
def _left_out(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The names in records of fields that are left out at their default, each with its plain default."""
    return tuple(
        (
            _recorded_name(each),
            plain(each.default if each.default_factory is MISSING else each.default_factory()),
        )
        for each in fields(kind)
        if RECORDED_UNLESS_DEFAULT in each.metadata
    )


def canonical_json(value: Any) -> str:
    """The value as JSON with sorted keys and no spaces; also of dataclasses, enums, dates and sets."""
    return ENCODER.encode(plain(value))


def digest(text: str) -> str:
    """The sha256 of the text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of the canonical text of an immutable value, computed once for the same object."""
    return _digest_of(ById(value))


@lru_cache(4096)
def _digest_of(same: ById) -> str:
    return digest(canonical_json(same.value))


def plain(value: Any) -> Any:
    """The value in dicts, lists, strings, numbers and None; TypeError if that is impossible.

    An infinite number becomes None: JSON has none.
    """
    kind = type(value)
    # The most frequent types first: this runs for every tick.
    if kind in AS_IT_IS:
        return value
    if kind is float:
        return value if isfinite(value) else None
    if isinstance(value, list | tuple):
        return [
            each if (one := type(each)) in AS_IT_IS or (one is float and isfinite(each)) else plain(each)
            for each in value
        ]
    names = recorded_names(kind)  # type: ignore[arg-type]
    if names is None:
        return _rare(value)
    entries: dict[str, Any] = {}
    for attribute, name in names:
        each = getattr(value, attribute)
        if name is BESIDE:
            entries |= dict.fromkeys(ALWAYS_RECORDED.get(kind.__name__, ())) | plain(each)
            continue
        entries[name] = each if type(each) in AS_IT_IS else plain(each)
    for name, default in _left_out(kind):  # type: ignore[arg-type]
        if entries[name] == default:
            del entries[name]
    return entries


def _rare(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((plain(entry) for entry in value), key=repr)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} has no canonical form")


def restored(kind: type[T], value: Any) -> T:
    """Decode the value; InputError names the first fault. A field of type `object` stays plain."""
    return salvaged(kind, value, None)[0]


def salvaged(kind: type[T], value: Any, otherwise: Mapping[str, Any] | None) -> tuple[T, tuple[str, ...]]:
    """Decode what can be read of the value, and return the faults of the rest, which is removed from it.

    A removed entry has the plain value that `otherwise` has in its place, else its default. InputError if
    neither can be read, or `otherwise` is None.
    """
    # Here: the command line starts without it.
    from pydantic import ValidationError

    faults: list[str] = []
    while True:
        try:
            decoded: tuple[T] = _adapter(cast(Any, kind)).validate_json(ENCODER.encode([value]))
            return decoded[0], tuple(faults)
        except ValidationError as error:
            first = error.errors()[0]
            path = first["loc"][1:]
            faults.append(f"/{'/'.join(map(str, path))}: {first['msg']}")
            if otherwise is None or not _replace_faulty(value, path, otherwise):
                raise InputError(faults[0]) from error


def _replace_faulty(value: Any, path: Sequence[Any], otherwise: Mapping[str, Any]) -> bool:
    """Replace the innermost entry of a mapping on the path; False if that changes nothing.

    The path goes on to a missing entry, or to the name of a type, if all that is above it is faulty.
    """
    entries, part = {}, value
    for key in path:
        if isinstance(part, dict) and key in part:
            entries, name = part, key
        elif not (isinstance(part, list) and isinstance(key, int)):
            break
        part = part[key]
    if not entries:
        return False
    faulty = entries.pop(name)
    if entries is value and name in otherwise:
        entries[name] = otherwise[name]
    return name not in entries or entries[name] != faulty


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    """The decoder of a list with one value of the type, by the fields' names in records."""
    from pydantic import ConfigDict, TypeAdapter

    names = {attribute: name for each in _dataclasses(kind) for attribute, name in recorded_names(each) or ()}
    config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: names.get(name, name))
    return TypeAdapter(tuple[kind], config=config)


def _dataclasses(kind: Any) -> set[Any]:
    """The dataclasses that a value of the type may contain, including its own."""
    kinds: set[Any] = set()
    left = [kind]
    while left:
        each = left.pop()
        of = get_origin(each) or each
        left += get_args(each)
        if is_dataclass(of) and of not in kinds:
            kinds.add(of)
            left += get_type_hints(of).values()
    return kinds
