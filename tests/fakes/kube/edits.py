"""Edits of an object, as somebody's hand might make them."""

from __future__ import annotations

from typing import Any


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in the value."""
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        found.extend(places(one, (*path, key)))
    return found


def edit(sdep: Any, path: tuple[Any, ...], value: Any) -> bool:
    """True if it could be put there (or dropped); an earlier edit may have taken its place away."""
    place = sdep
    try:
        for key in path[:-1]:
            place = place[key]
        _ = place[path[-1]]
        if value == "drop":
            del place[path[-1]]
        else:
            place[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return False
    return True
