"""What a schema cannot say: names that must exist, numbers that must agree.

These checks run beside the structural ones, so that all problems come at once: each looks only at parts that
are of the right form, and leaves the rest to the schema's message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

from ipa.files.document import Document, Pointer, shown_key
from ipa.files.limits import check_limits
from ipa.files.naming import check_fan_out, check_graph
from ipa.files.quantities import READ_WRITE, parse_duration_s, parse_rate_rps
from ipa.files.words import unknown
from ipa.model.pipeline import Goal
from ipa.model.resources import BESIDE_CORES

# Quantities that must not be zero. A batch_timeout may be, and a threshold.
_POSITIVE = {
    **dict.fromkeys(("latency", "latency_mean", "drop_after", "sla", "readiness"), parse_duration_s),
    **dict.fromkeys(("load", "throughput", "rate"), parse_rate_rps),
    **{each.name: READ_WRITE[each.unit][0] for each in BESIDE_CORES},
}


def check_pipeline(document: Document) -> None:
    """Note every contradiction in a pipeline file; none if a list in it is longer than allowed."""
    if document.is_oversized:
        return
    data = _mapping(document.data)
    stages = list(_entries(data.get("stages"), ("stages",)))
    names = _check_unique(document, stages, "name", "stage")
    check_graph(document, data.get("graph"), stages)
    if len(set(names)) == len(names):
        containers = [(pointer, {"container": stage.get("name"), **stage}) for pointer, stage in stages]
        _check_unique(document, containers, "container", "container")
    for pointer, stage in stages:
        variants = list(_entries(stage.get("variants"), (*pointer, "variants")))
        _check_unique(document, variants, "name", "variant")
        for place, variant in variants:
            _check_positive(document, _mapping(variant.get("seldon")), (*place, "seldon"))
        check_fan_out(document, stage.get("fan_out"), (*pointer, "fan_out"), stage)
    _check_positive(document, data, ())
    _check_positive(document, _mapping(data.get("sla")), ("sla",))
    _check_positive(document, _mapping(data.get("fallback")), ("fallback",))
    _check_positive(document, _mapping(data.get("bounds")), ("bounds",))
    check_limits(document, data, stages)
    _check_objectives(document, data)
    _check_shape(document, _mapping(data.get("seldon")))


def _check_shape(document: Document, seldon: dict[str, Any]) -> None:
    if seldon.get("shape") == "split" and "image" not in seldon:
        message = "shape split needs `image`: that of its router and queues, with ipa-serving installed"
        document.problem(("seldon", "shape"), message)


def _check_objectives(document: Document, data: dict[str, Any]) -> None:
    objectives = data.get("objectives")
    if not isinstance(objectives, dict) or not objectives:
        return
    has_floor = "accuracy_floor" in _mapping(data.get("bounds"))
    for name, objective in objectives.items():
        _check_objective(document, _mapping(objective), ("objectives", name), has_floor=has_floor)
    default = data.get("default_objective", "default")
    if isinstance(default, str) and default not in objectives:
        place: Pointer = ("default_objective",) if "default_objective" in data else ("objectives",)
        document.problem(
            place, f"default_objective is {default!r}, which is unknown; {unknown(default, objectives)}"
        )


def _check_objective(
    document: Document, objective: dict[str, Any], pointer: Pointer, *, has_floor: bool
) -> None:
    _check_positive(document, objective, pointer)
    if objective.get("goal") == Goal.CHEAPEST and not has_floor:
        message = f"goal {Goal.CHEAPEST} needs a floor; add bounds.accuracy_floor, such as 0.7"
        document.problem((*pointer, "goal"), message)
    accuracy = _mapping(objective.get("accuracy"))
    rule = accuracy.get("rule")
    if "rank_floor" in accuracy and rule in ("product", "sum", "mean"):
        message = f"rank_floor has no meaning for the rule {rule!r}; remove it or take rank-product"
        document.problem((*pointer, "accuracy", "rank_floor"), message, at_key=True)


def check_profile(document: Document) -> None:
    """Note every contradiction in a profile file; none if a list in it is longer than allowed."""
    if document.is_oversized:
        return
    data = _mapping(document.data)
    _check_date(document, data.get("measured_on"))
    _check_positive(document, data, ())
    variants = list(_entries(data.get("variants"), ("variants",)))
    _check_unique(document, variants, "variant", "variant")
    for pointer, variant in variants:
        _check_positive(document, variant, pointer)
        _check_points(document, list(_entries(variant.get("points"), (*pointer, "points"))))


def _check_points(document: Document, points: list[tuple[Pointer, dict[str, Any]]]) -> None:
    seen: dict[tuple[Any, Any], Pointer] = {}
    for pointer, point in points:
        _check_positive(document, point, pointer)
        key = (point.get("cores"), point.get("batch"))
        if not all(_is_number(part) for part in key):
            continue
        if key in seen:
            line = document.marks.get(seen[key], (0, 0))[0]
            first = f"on line {line}" if line else "above"
            document.problem(pointer, f"cores {key[0]} and batch {key[1]} were already measured {first}")
        seen.setdefault(key, pointer)


def _check_date(document: Document, text: Any) -> None:
    if not isinstance(text, str):
        return
    try:
        date.fromisoformat(text)
    except ValueError:
        if len(text) == len("2026-11-24") and text.replace("-", "").isdigit():
            document.problem(("measured_on",), f'measured_on is "{text}", a day that does not exist')


def _check_positive(document: Document, values: dict[str, Any], pointer: Pointer) -> None:
    for key, parse in _POSITIVE.items():
        text = values.get(key)
        if isinstance(text, str) and _is_zero(text, parse):
            document.problem((*pointer, key), f'{key} is "{text}"; it must be greater than zero')


def _is_zero(text: str, parse: Callable[[str], float]) -> bool:
    try:
        return parse(text) == 0
    except ValueError:
        return False  # malformed: the schema has said so


def _check_unique(
    document: Document, entries: Iterable[tuple[Pointer, dict[str, Any]]], key: str, word: str
) -> list[str]:
    """The names under `key`; those that occur before are noted."""
    names: list[str] = []
    seen: set[str] = set()
    for pointer, entry in entries:
        name = entry.get(key)
        if not isinstance(name, str):
            continue
        if name in seen:
            document.problem((*pointer, key), f"{word} {shown_key(name)} occurs twice; rename or remove one")
        seen.add(name)
        names.append(name)
    return names


def _entries(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, dict[str, Any]]]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                yield (*pointer, index), entry


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
