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
    bounds = data.get("bounds") or {}
    _check_replicas(document, bounds, {}, ("bounds",))
    _check_transition(document, bounds)
    for pointer, stage in stages:
        own = stage.get("bounds") or {}
        _check_replicas(document, own, bounds, (*pointer, "bounds"))
        _check_batch_sizes(document, own, bounds, (*pointer, "bounds", "batch_sizes"))
        _check_pin(document, stage, own, bounds, pointer)
    graph = data.get("graph")
    count = 1 if graph is None else len(graph)
    if data.get("sets") and count != 1:
        document.problem(("sets",), f"sets needs a pipeline of one stage, not of {count}; remove it")


def _check_transition(document: Document, bounds: dict[str, Any]) -> None:
    """Cores of a change are those beside the cores at rest, so never fewer."""
    if "transition_cores" not in bounds:
        return
    pointer, cores, most = ("bounds", "transition_cores"), bounds.get("cores"), bounds["transition_cores"]
    if "cores" not in bounds:
        document.problem(pointer, "transition_cores has no meaning without cores; add bounds.cores")
    elif cores is not None and most is not None and most < cores:
        document.problem(pointer, f"transition_cores {most} is below cores {cores}; it must be at least that")


def _check_replicas(document: Document, own: dict[str, Any], whole: dict[str, Any], pointer: Pointer) -> None:
    """A stage's own limits replace the pipeline's only where they are tighter."""
    least, most = own.get("min_replicas"), own.get("max_replicas")
    if _is_below(most, least):
        document.problem((*pointer, "max_replicas"), f"max_replicas {most} is below min_replicas {least}")
        return
    if _is_below(limit := whole.get("max_replicas"), least):
        message = f"min_replicas {least} is above bounds.max_replicas {limit} of the pipeline"
        document.problem((*pointer, "min_replicas"), message)
    if _is_below(most, limit := whole.get("min_replicas")):
        message = f"max_replicas {most} is below bounds.min_replicas {limit} of the pipeline"
        document.problem((*pointer, "max_replicas"), message)


def _check_batch_sizes(
    document: Document, own: dict[str, Any], whole: dict[str, Any], pointer: Pointer
) -> None:
    mine, allowed = own.get("batch_sizes"), whole.get("batch_sizes")
    if mine and allowed and not any(size in allowed for size in mine):
        message = f"batch_sizes has none of bounds.batch_sizes of the pipeline; take from {_listed(allowed)}"
        document.problem(pointer, message)


def _check_pin(
    document: Document, stage: dict[str, Any], own: dict[str, Any], whole: dict[str, Any], pointer: Pointer
) -> None:
    pin = stage.get("pin") or {}
    place = (*pointer, "pin")
    variant, names = pin.get("variant"), variant_names(stage)
    if variant is not None and names and variant not in names:
        message = f"pin names variant {variant!r}, which is unknown; {unknown(variant, names)}"
        document.problem((*place, "variant"), message)
    size, replicas = pin.get("batch_size"), pin.get("replicas")
    for owner, limits in (("stage", own), ("pipeline", whole)):
        sizes = limits.get("batch_sizes")
        if size is not None and sizes and size not in sizes:
            message = f"batch_size {size} is not in bounds.batch_sizes of the {owner}"
            document.problem((*place, "batch_size"), f"{message}; take one of {_listed(sizes)}")
        if _is_below(most := limits.get("max_replicas"), replicas):
            message = f"replicas {replicas} is above bounds.max_replicas {most} of the {owner}"
            document.problem((*place, "replicas"), message)
        if _is_below(replicas, least := limits.get("min_replicas")):
            message = f"replicas {replicas} is below bounds.min_replicas {least} of the {owner}"
            document.problem((*place, "replicas"), message)


def variant_names(stage: dict[str, Any]) -> list[str]:
    """The names of a stage's variants, as far as they are of the right form."""
    found = (variant.get("name") for variant in stage.get("variants") or () if variant is not None)
    return [name for name in found if name is not None]


def _is_below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


def _listed(sizes: Iterable[int | None]) -> str:
    return ", ".join(str(size) for size in sizes if size is not None)
