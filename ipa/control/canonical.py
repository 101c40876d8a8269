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

SCALARS = frozenset({str, int, bool})


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def canonical_json(value: Any) -> str:
    """The value as JSON with sorted keys and no spaces; dataclasses, enums, dates and sets included."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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
    if kind is float:
        return value if isfinite(value) else None
    if value is None or kind in SCALARS:
        return value
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in _names(kind)}  # type: ignore[arg-type]
    return _rare(value)


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
