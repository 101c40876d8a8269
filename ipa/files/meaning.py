"""Checks across the fields of a file: names that must exist, numbers that must agree.

They run beside the check of each field, so that all problems come at once: what is not of the right form is
None here, and is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ipa.files.document import Document, Pointer, shown_key
from ipa.files.kinds.targets import target_sections
from ipa.files.limits import check_limits
from ipa.files.naming import check_fan_out, check_graph
from ipa.files.words import unknown
from ipa.model.pipeline import Goal

Entries = list[tuple[Pointer, dict[str, Any]]]
# The rules of accuracy that rank nothing.
_UNRANKED = ("product", "sum", "mean")


def check_pipeline(document: Document) -> None:
    """Note every contradiction in a pipeline file; none if a list in it is longer than allowed."""
    data = document.sound()
    if document.is_oversized or data is None:
        return
    stages = _entries(data, "stages", ())
    names = _check_unique(document, stages, "name", "stage")
    check_graph(document, data.get("graph"), stages)
    if len(set(names)) == len(names):
        containers = [(pointer, {"container": stage.get("name"), **stage}) for pointer, stage in stages]
        _check_unique(document, containers, "container", "container")
    for pointer, stage in stages:
        _check_unique(document, _entries(stage, "variants", pointer), "name", "variant")
        check_fan_out(document, stage.get("fan_out"), (*pointer, "fan_out"), stage)
    check_limits(document, data, stages)
    _check_objectives(document, data)
    for name, target in target_sections().items():
        if target.check is not None:
            target.check(document, data.get(name) or {})


def _check_objectives(document: Document, data: dict[str, Any]) -> None:
    objectives = data.get("objectives")
    if not objectives:
        return
    has_floor = "accuracy_floor" in (data.get("bounds") or {})
    for name, objective in objectives.items():
        _check_objective(document, objective or {}, ("objectives", name), has_floor=has_floor)
    default = data.get("default_objective", "default")
    if default is not None and default not in objectives:
        place: Pointer = ("default_objective",) if "default_objective" in data else ("objectives",)
        document.problem(
            place, f"default_objective is {default!r}, which is unknown; {unknown(default, objectives)}"
        )


def _check_objective(
    document: Document, objective: dict[str, Any], pointer: Pointer, *, has_floor: bool
) -> None:
    if objective.get("goal") == Goal.CHEAPEST and not has_floor:
        message = f"goal {Goal.CHEAPEST} needs a floor; add bounds.accuracy_floor, such as 0.7"
        document.problem((*pointer, "goal"), message)
    accuracy = objective.get("accuracy") or {}
    rule = accuracy.get("rule")
    if "rank_floor" in accuracy and rule in _UNRANKED:
        message = f"rank_floor has no meaning for the rule {rule!r}; remove it or take rank-product"
        document.problem((*pointer, "accuracy", "rank_floor"), message, at_key=True)


def check_profile(document: Document) -> None:
    """Note every contradiction in a profile file; none if a list in it is longer than allowed."""
    data = document.sound()
    if document.is_oversized or data is None:
        return
    variants = _entries(data, "variants", ())
    _check_unique(document, variants, "variant", "variant")
    for pointer, variant in variants:
        _check_points(document, _entries(variant, "points", pointer))


def _check_points(document: Document, points: Entries) -> None:
    seen: dict[tuple[Any, Any], Pointer] = {}
    for pointer, point in points:
        key = (point.get("cores"), point.get("batch"))
        if None in key:
            continue
        if key in seen:
            line = document.marks.get(seen[key], (0, 0))[0]
            first = f"on line {line}" if line else "above"
            document.problem(pointer, f"cores {key[0]} and batch {key[1]} were already measured {first}")
        seen.setdefault(key, pointer)


def _check_unique(
    document: Document, entries: Iterable[tuple[Pointer, dict[str, Any]]], key: str, word: str
) -> list[str]:
    """The names under `key`; those that occur before are noted."""
    names: list[str] = []
    seen: set[str] = set()
    for pointer, entry in entries:
        name = entry.get(key)
        if name is None:
            continue
        if name in seen:
            document.problem((*pointer, key), f"{word} {shown_key(name)} occurs twice; rename or remove one")
        seen.add(name)
        names.append(name)
    return names


def _entries(data: dict[str, Any], key: str, pointer: Pointer) -> Entries:
    """The entries of a list with their places, without those that are not of the right form."""
    found = enumerate(data.get(key) or ())
    return [((*pointer, key, index), entry) for index, entry in found if entry is not None]
