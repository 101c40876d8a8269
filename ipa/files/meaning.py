"""Checks across the fields of a file: names that must exist, numbers that must agree.

They run even if fields are malformed, so that one run lists all problems: a malformed value is None
here, and is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ipa.files.document import Document, Pointer, shown_key, unknown
from ipa.files.graph import Node, check_flow, read_nodes
from ipa.files.targets import target_sections
from ipa.model.pipeline import StageKind

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
    _check_runnable(document, data)
    for name, target in target_sections().items():
        if target.check is not None:
            target.check(document, data.get(name) or {})


def _check_runnable(document: Document, data: dict[str, Any]) -> None:
    """Note a pipeline that cannot run without a reason, or that can and gives one."""
    has_reason = data.get("not_runnable_because") is not None
    if data.get("runnable") is False and not has_reason:
        document.problem(
            ("runnable",), "runnable is false; add not_runnable_because: what is missing to run it"
        )
    elif has_reason and data.get("runnable") is not False:
        message = "not_runnable_because has no meaning without `runnable: false`; add that, or remove this"
        document.problem(("not_runnable_because",), message, at_key=True)


def _check_objectives(document: Document, data: dict[str, Any]) -> None:
    objectives = data.get("objectives")
    if not objectives:
        return
    for name, objective in ((name, each or {}) for name, each in objectives.items()):
        accuracy = objective.get("accuracy") or {}
        rule = accuracy.get("rule")
        if "rank_floor" in accuracy and rule in _UNRANKED:
            message = f"rank_floor has no meaning for the rule {rule!r}; remove it or take rank-product"
            document.problem(("objectives", name, "accuracy", "rank_floor"), message, at_key=True)
    default = data.get("default_objective", "default")
    if default is not None and default not in objectives:
        place: Pointer = ("default_objective",) if "default_objective" in data else ("objectives",)
        document.problem(
            place, f"default_objective is {default!r}, which is unknown; {unknown(default, objectives)}"
        )


def check_profile(document: Document) -> None:
    """Note every contradiction in a profile file; none if a list in it is longer than allowed."""
    data = document.sound()
    if document.is_oversized or data is None:
        return
    variants = _entries(data, "variants", ())
    _check_unique(document, variants, "variant", "variant")
    for place, variant in variants:
        first_places: dict[tuple[Any, Any], Pointer] = {}
        for pointer, point in _entries(variant, "points", place):
            key = (point.get("cores"), point.get("batch"))
            if None not in key and first_places.setdefault(key, pointer) != pointer:
                line = document.marks.get(first_places[key], (0, 0))[0]
                first = f"on line {line}" if line else "above"
                document.problem(pointer, f"cores {key[0]} and batch {key[1]} were already measured {first}")


def _check_unique(
    document: Document, entries: Iterable[tuple[Pointer, dict[str, Any]]], key: str, word: str
) -> list[str]:
    """The names under `key`; repeated ones are noted."""
    names = [(pointer, name) for pointer, entry in entries if (name := entry.get(key)) is not None]
    first = {name: pointer for pointer, name in reversed(names)}
    for pointer, name in names:
        if first[name] != pointer:
            document.problem((*pointer, key), f"{word} {shown_key(name)} occurs twice; rename or remove one")
    return [name for _, name in names]


def _entries(data: dict[str, Any], key: str, pointer: Pointer) -> Entries:
    """The entries of a list with their places, without malformed ones."""
    numbered = enumerate(data.get(key) or ())
    return [((*pointer, key, index), entry) for index, entry in numbered if entry is not None]


def check_limits(
    document: Document, data: dict[str, Any], stages: Iterable[tuple[Pointer, dict[str, Any]]]
) -> None:
    """Note bounds that contradict each other, pins beyond them, and several variants if only one may be."""
    bounds = data.get("bounds") or {}
    _check_replicas(document, bounds, {}, ("bounds",))
    _check_transition(document, bounds)
    for pointer, stage in stages:
        own = stage.get("bounds") or {}
        _check_replicas(document, own, bounds, (*pointer, "bounds"))
        mine, allowed = own.get("batch_sizes"), bounds.get("batch_sizes")
        if mine and allowed and not any(size in allowed for size in mine):
            message = (
                f"batch_sizes has none of bounds.batch_sizes of the pipeline; take from {_listed(allowed)}"
            )
            document.problem((*pointer, "bounds", "batch_sizes"), message)
        _check_pin(document, stage, own, bounds, pointer)
    graph = data.get("graph")
    count = 1 if graph is None else len(graph)
    if data.get("sets") and count != 1:
        document.problem(("sets",), f"sets needs a pipeline of one stage, not of {count}; remove it")


def _check_transition(document: Document, bounds: dict[str, Any]) -> None:
    """Note a limit of cores for a change that is below the limit of cores at rest."""
    if "transition_cores" not in bounds:
        return
    pointer, cores, most = ("bounds", "transition_cores"), bounds.get("cores"), bounds["transition_cores"]
    if "cores" not in bounds:
        document.problem(pointer, "transition_cores has no meaning without cores; add bounds.cores")
    elif cores is not None and most is not None and most < cores:
        document.problem(pointer, f"transition_cores {most} is below cores {cores}; it must be at least that")


def _check_replicas(document: Document, own: dict[str, Any], whole: dict[str, Any], pointer: Pointer) -> None:
    """Note a stage's own limits that are wider than the pipeline's, and so have no effect."""
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
        sizes, least, most = (limits.get(key) for key in ("batch_sizes", "min_replicas", "max_replicas"))
        if size is not None and sizes and size not in sizes:
            message = f"batch_size {size} is not in bounds.batch_sizes of the {owner}"
            document.problem((*place, "batch_size"), f"{message}; take one of {_listed(sizes)}")
        if _is_below(most, replicas):
            message = f"replicas {replicas} is above bounds.max_replicas {most} of the {owner}"
            document.problem((*place, "replicas"), message)
        if _is_below(replicas, least):
            message = f"replicas {replicas} is below bounds.min_replicas {least} of the {owner}"
            document.problem((*place, "replicas"), message)


def variant_names(stage: dict[str, Any]) -> list[str]:
    """The names of a stage's variants, without malformed ones."""
    names = (variant.get("name") for variant in stage.get("variants") or () if variant is not None)
    return [name for name in names if name is not None]


def _is_below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


def _listed(sizes: Iterable[int | None]) -> str:
    return ", ".join(str(size) for size in sizes if size is not None)


def check_graph(document: Document, graph: Any, stages: Sequence[tuple[Pointer, dict[str, Any]]]) -> None:
    """Note every problem of the graph that its schema cannot express."""
    if not stages:
        return
    entries = {stage["name"]: stage for _, stage in stages if stage.get("name") is not None}
    nodes = read_nodes(graph)
    named = [
        *[_is_known(document, node, nodes, list(entries)) for node in nodes],
        *[_are_parents_known(document, node, nodes, entries) for node in nodes],
    ]
    graph_names = {node.name for node in nodes}
    for pointer, stage in stages:
        name = stage.get("name")
        if graph is not None and name is not None and name not in graph_names:
            document.problem((*pointer, "name"), f"stage {name!r} is not in the graph; add it or remove it")
    if nodes and all(named) and document.is_sound("graph"):
        fan_outs = {name: stage["fan_out"] for name, stage in entries.items() if "fan_out" in stage}
        is_whole = all(document.is_sound(*pointer, "fan_out") for pointer, _ in stages)
        check_flow(document, nodes, fan_outs if is_whole else None)


def _is_known(document: Document, node: Node, nodes: Sequence[Node], names: list[str]) -> bool:
    """True if a node is a stage named once; a router or combiner needs no entry among the stages."""
    if node is not next(other for other in nodes if other.name == node.name):
        document.problem(node.pointer, f"graph names stage {node.name!r} twice")
        return False
    if node.name in names or node.kind in (StageKind.ROUTER, StageKind.COMBINER):
        return True
    message = f"graph names stage {node.name!r}, which is unknown; {unknown(node.name, names)}"
    if "did you mean" not in message and isinstance(node.pointer[-1], str):
        message += "; without variants it must be of type router or combiner"
    document.problem(node.pointer, message, at_key=True)
    return False


def _are_parents_known(
    document: Document, node: Node, nodes: Sequence[Node], entries: dict[str, dict[str, Any]]
) -> bool:
    known = [other.name for other in nodes]
    for name, arrow in node.after.items():
        if name in known:
            check_fan_out(document, arrow.fan_out, (*arrow.pointer, "fan_out"), entries.get(name))
        elif name not in entries:  # else it is said of the stage that it is not in the graph
            message = f"stage {node.name!r} comes after {name!r}, which is unknown; {unknown(name, known)}"
            document.problem(arrow.pointer, message, at_key=True)
    return all(name in known for name in node.after)


def check_fan_out(document: Document, fan_out: Any, pointer: Pointer, sender: dict[str, Any] | None) -> None:
    """Note every fan-out by variant that does not name exactly the variants of the sending stage."""
    if not isinstance(fan_out, dict) or not fan_out:
        return
    if sender is None:
        document.problem(pointer, "fan_out names variants, and the stage before has none; write one number")
        return
    names = variant_names(sender)
    for name in fan_out if names else ():
        if name not in names:
            message = f"fan_out names variant {name!r}, which is unknown; {unknown(name, names)}"
            document.problem((*pointer, name), message, at_key=True)
    missing = [repr(name) for name in dict.fromkeys(names) if name not in fan_out]
    if missing:
        document.problem(pointer, f"fan_out lacks {', '.join(missing)}; name every variant of the stage")
