"""Canonical JSON text of values, so that equal inputs have equal digests; and values of it again, by type.

JSON distinguishes whole numbers from floats, so the restored value has the same canonical text. An infinite
number is encoded as None and cannot be restored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from functools import cache, lru_cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ipa.model.errors import InputError
from ipa.model.recording import NOT_RECORDED, RECORDED_AS, RECORDED_BESIDE, RECORDED_UNLESS_DEFAULT

# The entries that records have also if there are none: targets were fields once, and digests stay the same.
ALWAYS_RECORDED = {"Pipeline": ("seldon",), "Variant": ("local", "seldon")}
# Instead of a name: the field's entries have names of their own.
BESIDE = ""
# Types that JSON represents directly.
AS_IT_IS = frozenset({str, int, bool, type(None)})
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
T = TypeVar("T")
# The JSON types of each scalar, and its name in errors.
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    NoneType: ((NoneType,), "nothing"),
}


@cache
def recorded_names(kind: Any) -> tuple[tuple[str, str], ...] | None:
    """Each recorded field of a dataclass with its name in records; None if `kind` is no dataclass."""
    if not is_dataclass(kind):
        return None
    kept = (each for each in fields(kind) if NOT_RECORDED not in each.metadata)
    return tuple((each.name, _recorded_name(each)) for each in kept)


def _recorded_name(of: Field[Any]) -> str:
    return BESIDE if RECORDED_BESIDE in of.metadata else str(of.metadata.get(RECORDED_AS, of.name))


@cache
def _left_out(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The names in records of fields that are left out at their default, each with that as plain value."""
    return tuple(
        (
            _recorded_name(each),
            plain(each.default if each.default_factory is MISSING else each.default_factory()),
        )
        for each in fields(kind)
        if RECORDED_UNLESS_DEFAULT in each.metadata
    )


def canonical_json(value: Any) -> str:
    """The value as JSON with sorted keys and no spaces; dataclasses, enums, dates and sets included."""
    return ENCODER.encode(plain(value))


def digest(text: str) -> str:
    """The sha256 of the text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of the canonical text of a value that never changes; made once for the same object."""
    return _digest_of(_Same(value))


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A key that is equal for the same object only. It holds the object, so that its id is not reused."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


@lru_cache(4096)
def _digest_of(same: _Same) -> str:
    return digest(canonical_json(same.value))


def plain(value: Any) -> Any:
    """The value in dicts, lists, strings, numbers and None; TypeError for what is none of these.

    An infinite number is None: JSON has none.
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
    found: dict[str, Any] = {}
    for attribute, name in names:
        each = getattr(value, attribute)
        if name is BESIDE:
            found |= dict.fromkeys(ALWAYS_RECORDED.get(kind.__name__, ())) | plain(each)
            continue
        found[name] = each if type(each) in AS_IT_IS else plain(each)
    for name, default in _left_out(kind):  # type: ignore[arg-type]
        if found[name] == default:
            del found[name]
    return found


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


# The fields of a dataclass by their names in records: attribute, type, and True if a record may lack it, as
# older ones do.
_Parts = dict[str, tuple[str, Any, bool]]


def restored(kind: type[T], value: Any) -> T:
    """Decode the value; InputError names the first fault. A field of type `object` stays plain."""
    return cast(T, _restored(kind, value, ""))


def _restored(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return _restored(_member(get_args(kind), value, where), value, where)
    if origin is Mapping:
        return _mapping(get_args(kind)[1], value, where)
    if origin in (tuple, frozenset):
        return _collection(origin, get_args(kind), value, where)
    if is_dataclass(origin):
        return _instance(origin, get_args(kind), value, where)
    if origin in SCALARS:
        kinds, name = SCALARS[origin]
        is_such = isinstance(value, kinds) and (origin is bool or not isinstance(value, bool))
        return value if is_such else _wrong(value, name, where)
    return value if kind is object else _named(kind, value, where)


def _member(members: Sequence[Any], value: Any, where: str) -> Any:
    """The member of a union that fits the value: dataclasses are distinguished by their fields."""
    if value is None and NoneType in members:
        return NoneType
    others = [each for each in members if each is not NoneType]
    if len(others) == 1:
        return others[0]
    for each in others:
        of = get_origin(each) or each
        if isinstance(value, dict) and is_dataclass(of):
            parts = _parts(cast(Any, of))
            needed = {name for name, (_, _, may_lack) in parts.items() if not may_lack}
            if needed <= value.keys() <= parts.keys():
                return each
    return _wrong(value, " or ".join(str(getattr(each, "__name__", each)) for each in others), where)


def _mapping(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, "a mapping", where)
    return {key: _restored(kind, each, f"{where}/{key}") for key, each in value.items()}


def _collection(origin: Any, kinds: Sequence[Any], value: Any, where: str) -> Any:
    is_fixed = origin is tuple and kinds[-1] is not Ellipsis
    if not isinstance(value, list) or (is_fixed and len(value) != len(kinds)):
        return _wrong(value, f"a list of {len(kinds)}" if is_fixed else "a list", where)
    each_kind = kinds if is_fixed else [kinds[0]] * len(value)
    pairs = zip(each_kind, value, strict=True)
    return origin(_restored(kind, each, f"{where}/{at}") for at, (kind, each) in enumerate(pairs))


def _instance(kind: Any, arguments: Sequence[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, f"a {kind.__name__}", where)
    parts = _parts(kind)
    unknown = ", ".join(sorted(value.keys() - parts.keys()))
    lacking = ", ".join(
        name for name, (_, _, may_lack) in parts.items() if not may_lack and name not in value
    )
    if unknown or lacking:
        words = [f"lacks {lacking}"] if lacking else []
        words += [f"has unknown {unknown}"] if unknown else []
        raise InputError(f"{where or '/'} {' and '.join(words)}")
    variables = dict(zip(getattr(kind, "__parameters__", ()), arguments, strict=False))
    found = {}
    for name, each in value.items():
        attribute, of, _ = parts[name]
        found[attribute] = _restored(variables.get(of, of), each, f"{where}/{name}")
    return kind(**found)


def _named(kind: Any, value: Any, where: str) -> Any:
    """An enumeration's member, or a time."""
    try:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(value)
        if kind is datetime:
            return datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return _wrong(value, f"a {kind.__name__}", where)
    raise TypeError(f"a {kind} cannot be restored")


def _wrong(value: Any, wanted: str, where: str) -> Any:
    said = "is infinite or missing" if value is None else f"is {str(value)[:40]!r}"
    raise InputError(f"{where or '/'} {said} instead of {wanted}")


@cache
def _parts(kind: Any) -> _Parts:
    hints, names = get_type_hints(kind), dict(recorded_names(kind) or ())
    found: _Parts = {}
    for each in fields(kind):
        if each.name in names:
            may_lack = each.default is not MISSING or each.default_factory is not MISSING
            found[names[each.name]] = each.name, hints[each.name], may_lack
    return found
