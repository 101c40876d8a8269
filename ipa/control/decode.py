"""Decodes the results of `canonical.plain` to values, by type.

JSON distinguishes whole numbers from floats, so the restored value has the same canonical text. An infinite
number was encoded as None and cannot be restored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ipa.control.canonical import recorded_names
from ipa.model.errors import InputError

T = TypeVar("T")
# The JSON types of each scalar, and its name in errors.
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    NoneType: ((NoneType,), "nothing"),
}


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
