"""The difference between two versions of a pipeline in words, and the part that says what is wanted of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

# Keys of a pipeline's file that say what is wanted of it, not what it is; `bounds` of its stages are so too.
WISHES = ("sla", "bounds", "default_objective", "objectives")
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


def wishes_of(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The SLA, bounds and objectives of a pipeline, and the bounds of its stages by name."""
    found = {key: mapping[key] for key in WISHES if key in mapping}
    stages = {stage["name"]: stage["bounds"] for stage in mapping["stages"] if "bounds" in stage}
    return {**found, "stages": stages}


def with_wishes(mapping: Mapping[str, Any], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline with these SLA, bounds and objectives instead of its own."""
    kept = {key: value for key, value in mapping.items() if key not in WISHES}
    wanted = {key: value for key, value in wishes.items() if key != "stages"}
    bounds = wishes["stages"]
    stages = [
        {key: value for key, value in stage.items() if key != "bounds"}
        | ({"bounds": bounds[stage["name"]]} if stage["name"] in bounds else {})
        for stage in mapping["stages"]
    ]
    return {**kept, **wanted, "stages": stages}


def merged(target: Any, patch: Any) -> Any:
    """The target with the patch applied (RFC 7396): null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


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
