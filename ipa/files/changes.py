"""The difference between two versions of a pipeline in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Changes named in a message, and characters of a value in it.
MOST_CHANGES, MOST_SHOWN = 20, 60
ABSENT = "absent"


def changes_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that differ, as `sla.latency: 1s → 800ms`; entries of a list have their names as keys."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    keys = [*before, *(key for key in after if key not in before)]
    found = [
        f"{key}: {before.get(key, ABSENT)} → {after.get(key, ABSENT)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]
    more = len(found) - MOST_CHANGES
    return (*found[:MOST_CHANGES], f"and {more} more") if more > 0 else tuple(found)


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values in the tree by their places, as text."""
    if isinstance(value, list) and value and all(isinstance(it, Mapping) and "name" in it for it in value):
        value = {each["name"]: {key: it for key, it in each.items() if key != "name"} for each in value}
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(f"{place}.{key}" if place else str(key), each)
        return
    text = str(value)
    yield place, text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
