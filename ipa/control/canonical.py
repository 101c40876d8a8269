"""Values as one canonical text, so that equal inputs have equal digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from enum import Enum
from functools import cache, lru_cache
from math import isfinite
from typing import Any

# What is written as it is.
AS_IT_IS = frozenset({str, int, bool, type(None)})
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def _names(kind: type[Any]) -> tuple[str, ...] | None:
    """The fields of a dataclass; None of what is none."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


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
    """Equal for the same object only; what is kept keeps it, so that no other has its number."""

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
    # What most of it is, first: every tick is written down so.
    if kind in AS_IT_IS:
        return value
    if kind is float:
        return value if isfinite(value) else None
    if isinstance(value, list | tuple):
        return [each if type(each) in AS_IT_IS else plain(each) for each in value]
    names = _names(kind)  # type: ignore[arg-type]
    if names is None:
        return _rare(value)
    found: dict[str, Any] = {}
    for name in names:
        each = getattr(value, name)
        found[name] = each if type(each) in AS_IT_IS else plain(each)
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
