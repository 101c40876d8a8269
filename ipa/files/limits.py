"""Limits of a pipeline file that must leave something to choose, and pins that must keep to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ipa.files.document import Document, Pointer
from ipa.files.words import unknown


def check_limits(
    document: Document, data: dict[str, Any], stages: Iterable[tuple[Pointer, dict[str, Any]]]
) -> None:
    """Note bounds that contradict each other, pins beyond them, and several variants where one must be."""
    bounds = _mapping(data.get("bounds"))
    _check_replicas(document, bounds, {}, ("bounds",))
    _check_transition(document, bounds)
    for pointer, stage in stages:
        own = _mapping(stage.get("bounds"))
        _check_replicas(document, own, bounds, (*pointer, "bounds"))
        _check_batch_sizes(document, own, bounds, (*pointer, "bounds", "batch_sizes"))
        _check_pin(document, stage, bounds, pointer)
    graph = data.get("graph")
    count = len(graph) if isinstance(graph, list | dict) else 1
    if data.get("sets") is True and count != 1:
        document.problem(("sets",), f"sets needs a pipeline of one stage, not of {count}; remove it")


def _check_transition(document: Document, bounds: dict[str, Any]) -> None:
    """Cores of a change are those beside the cores at rest, so never fewer."""
    if "transition_cores" not in bounds:
        return
    pointer, cores, most = ("bounds", "transition_cores"), bounds.get("cores"), bounds["transition_cores"]
    if "cores" not in bounds:
        document.problem(pointer, "transition_cores has no meaning without cores; add bounds.cores")
    elif _is_number(cores) and _is_number(most) and 0 < most < cores:
        document.problem(pointer, f"transition_cores {most} is below cores {cores}; it must be at least that")


def _check_replicas(document: Document, own: dict[str, Any], whole: dict[str, Any], pointer: Pointer) -> None:
    """A stage's own limits replace the pipeline's only where they are tighter."""
    least, most = _count(own.get("min_replicas")), _count(own.get("max_replicas"))
    if least is not None and most is not None and most < least:
        document.problem((*pointer, "max_replicas"), f"max_replicas {most} is below min_replicas {least}")
        return
    limit = _count(whole.get("max_replicas"))
    if least is not None and limit is not None and limit < least:
        message = f"min_replicas {least} is above bounds.max_replicas {limit} of the pipeline"
        document.problem((*pointer, "min_replicas"), message)
    limit = _count(whole.get("min_replicas"))
    if most is not None and limit is not None and most < limit:
        message = f"max_replicas {most} is below bounds.min_replicas {limit} of the pipeline"
        document.problem((*pointer, "max_replicas"), message)


def _check_batch_sizes(
    document: Document, own: dict[str, Any], whole: dict[str, Any], pointer: Pointer
) -> None:
    mine, allowed = own.get("batch_sizes"), whole.get("batch_sizes")
    if not (isinstance(mine, list) and isinstance(allowed, list) and mine and allowed):
        return
    if not any(size in allowed for size in mine):
        shown = ", ".join(str(size) for size in allowed)
        message = f"batch_sizes has none of bounds.batch_sizes of the pipeline; take from {shown}"
        document.problem(pointer, message)


def _check_pin(document: Document, stage: dict[str, Any], whole: dict[str, Any], pointer: Pointer) -> None:
    pin = _mapping(stage.get("pin"))
    place = (*pointer, "pin")
    variant, entries = pin.get("variant"), stage.get("variants")
    names = [
        entry["name"]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]
    if isinstance(variant, str) and names and variant not in names:
        message = f"pin names variant {variant!r}, which is unknown; {unknown(variant, names)}"
        document.problem((*place, "variant"), message)
    size, replicas = _count(pin.get("batch_size")), _count(pin.get("replicas"))
    for owner, limits in (("stage", _mapping(stage.get("bounds"))), ("pipeline", whole)):
        sizes = limits.get("batch_sizes")
        if size is not None and isinstance(sizes, list) and sizes and size not in sizes:
            shown = ", ".join(str(each) for each in sizes)
            message = f"batch_size {size} is not in bounds.batch_sizes of the {owner}; take one of {shown}"
            document.problem((*place, "batch_size"), message)
        least, most = _count(limits.get("min_replicas")), _count(limits.get("max_replicas"))
        if replicas is not None and most is not None and replicas > most:
            message = f"replicas {replicas} is above bounds.max_replicas {most} of the {owner}"
            document.problem((*place, "replicas"), message)
        if replicas is not None and least is not None and replicas < least:
            message = f"replicas {replicas} is below bounds.min_replicas {least} of the {owner}"
            document.problem((*place, "replicas"), message)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> float | None:
    """The value where it is a number of at least one."""
    return value if _is_number(value) and value >= 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
