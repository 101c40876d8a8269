"""Names in a pipeline file's graph: stages that exist, and variants in fan-outs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipa.files.document import Document, Pointer
from ipa.files.flow import check_flow
from ipa.files.graph import Node, read_nodes
from ipa.files.limits import variant_names
from ipa.files.words import unknown
from ipa.model.pipeline import StageKind


def check_graph(document: Document, graph: Any, stages: Sequence[tuple[Pointer, dict[str, Any]]]) -> None:
    """Note every problem of the graph that its schema does not show."""
    if not stages:
        return
    entries = {stage["name"]: stage for _, stage in stages if stage.get("name") is not None}
    nodes = read_nodes(graph)
    named = [
        *[_is_known(document, node, nodes, list(entries)) for node in nodes],
        *[_are_parents_known(document, node, nodes, entries) for node in nodes],
    ]
    seen = {node.name for node in nodes}
    for pointer, stage in stages:
        name = stage.get("name")
        if graph is not None and name is not None and name not in seen:
            document.problem((*pointer, "name"), f"stage {name!r} is not in the graph; add it or remove it")
    if nodes and all(named) and document.is_sound("graph"):
        fan_outs = {name: stage["fan_out"] for name, stage in entries.items() if "fan_out" in stage}
        is_whole = all(document.is_sound(*pointer, "fan_out") for pointer, _ in stages)
        check_flow(document, nodes, fan_outs if is_whole else None)


def _is_known(document: Document, node: Node, nodes: Sequence[Node], names: list[str]) -> bool:
    """True if a node is a stage, once; a router or combiner needs no entry among the stages."""
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
    seen = [other.name for other in nodes]
    for name, arrow in node.after.items():
        if name in seen:
            check_fan_out(document, arrow.fan_out, (*arrow.pointer, "fan_out"), entries.get(name))
        elif name not in entries:  # else it is said of the stage that it is not in the graph
            message = f"stage {node.name!r} comes after {name!r}, which is unknown; {unknown(name, seen)}"
            document.problem(arrow.pointer, message, at_key=True)
    return all(name in seen for name in node.after)


def check_fan_out(document: Document, fan_out: Any, pointer: Pointer, sender: dict[str, Any] | None) -> None:
    """Note where a fan-out by variant does not name exactly the variants of the stage that sends."""
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
