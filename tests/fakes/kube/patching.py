"""JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386) and kubectl's, apart from the code under test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.layout import patch_of
from ipa.targets.seldon.manifest import changed


class PatchError(Exception):
    """An operation could not be applied, or a test failed."""


def json_patch(document: Any, operations: list[dict[str, Any]]) -> Any:
    """The document after the operations; PatchError and no change where one fails."""
    result = deepcopy(document)
    for operation in operations:
        op, tokens = operation["op"], _tokens(operation["path"])
        match op:
            case "test":
                if not _same(_get(result, tokens), operation["value"]):
                    raise PatchError(f"testing value {operation['path']} failed: test failed")
            case "add" | "replace":
                _put(result, tokens, deepcopy(operation["value"]), insert=op == "add")
            case "remove":
                _get(result, tokens)
                parent = _get(result, tokens[:-1])
                del parent[_key(parent, tokens[-1])]
            case _:
                raise PatchError(f"unexpected kind: {op}")
    return result


def merge_patch(document: Any, patch: Any, merge: Callable[[Any, Any], Any] | None = None) -> Any:
    """The document after the merge patch: objects merge, null removes, anything else replaces.

    `merge` is for the values of objects, itself if not given.
    """
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = (merge or merge_patch)(result.get(key), value)
    return result


def strategic_patch(document: Any, patch: Any) -> Any:
    """The document after kubectl's patch: as the merge patch, but lists of named things merge by the name."""
    if isinstance(patch, dict):
        # The others are directives.
        values = {key: value for key, value in patch.items() if not key.startswith("$")}
        return merge_patch(document, values, strategic_patch)
    if not isinstance(patch, list) or not all(isinstance(each, dict) and "name" in each for each in patch):
        return deepcopy(patch)
    named = {each["name"]: each for each in document or ()}
    for each in patch:
        if each.get("$patch") == "delete":
            named.pop(each["name"], None)
        else:
            named[each["name"]] = strategic_patch(named.get(each["name"]), each)
    return list(named.values())


def _tokens(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise PatchError(f"not a pointer: {pointer}")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _key(parent: Any, token: str) -> Any:
    if isinstance(parent, list):
        if not token.isdecimal() or int(token) >= len(parent):
            raise PatchError(f"no index {token}")
        return int(token)
    if not isinstance(parent, dict) or token not in parent:
        raise PatchError(f"no key {token}")
    return token


def _get(value: Any, tokens: list[str]) -> Any:
    for token in tokens:
        value = value[_key(value, token)]
    return value


def _put(document: Any, tokens: list[str], value: Any, *, insert: bool) -> None:
    parent, token = _get(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list) and insert:
        index = len(parent) if token == "-" else int(token)
        if index > len(parent):
            raise PatchError(f"no index {token}")
        parent.insert(index, value)
    elif isinstance(parent, dict) and insert:
        parent[token] = value
    else:
        parent[_key(parent, token)] = value


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def patch_to(pipeline: Pipeline, live: dict[str, Any], wanted: Sequence[StageConfig]) -> list[dict[str, Any]]:
    """The patch that the code under test sends to have the live SeldonDeployment run the configurations."""
    return patch_of(live, changed(pipeline, live, wanted))
