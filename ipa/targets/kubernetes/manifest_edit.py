"""Objects of a pipeline in a file of a repository: read, and changed in place with a small diff."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml

from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.layout import Layout, Operation, differences


class Manifest:
    """The text of a file that holds the layout's objects, perhaps among other documents.

    InputError if the text is not YAML or one of them is incomplete, NotFoundError if one is missing.
    """

    def __init__(self, layout: Layout, text: str, path: str) -> None:
        self._layout, self._text, self._path = layout, text, path
        self._documents = _load_documents(text, path)
        self._at = {name: self._find(name) for name in self._layout.names}
        self._objects = {name: self._documents[at] for name, at in self._at.items()}

    def configs(self) -> tuple[StageConfig, ...]:
        """The configurations in the manifest. DriftError lists values that the pipeline cannot have."""
        try:
            return self._layout.observe(self._objects).configs
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"{self._path}: its {self._layout.kind.kind} is incomplete: {type(error).__name__} {error}",
                hint=f"`{self._layout.command}` prints a complete one.",
            ) from error

    def changed(self, wanted: Sequence[StageConfig]) -> str:
        """The text with these configurations; the same text if it has them already.

        Only the values that differ are replaced, so that comments and layout stay. If fields are added or
        removed, the file is written anew; InputError if that would lose comments.
        """
        self.configs()
        documents = list(self._documents)
        operations: list[tuple[int, Operation]] = []
        for name, changed in self._layout.changes(self._objects, wanted).items():
            at = self._at[name]
            operations += ((at, each) for each in differences(documents[at], changed))
            documents[at] = changed
        if not operations:
            return self._text
        # A value may be no YAML in its place.
        with suppress(InputError):
            text = self._splice(operations)
            if text is not None and _load_documents(text, self._path) == documents:
                return text
        # What is left of the text without its values: has it a comment?
        rest = list(self._text)
        for token in yaml.scan(self._text, yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken):
                start, end = token.start_mark.index, token.end_mark.index
                rest[start:end] = " " * (end - start)
        if "#" in rest:
            words = (f"{it['op']} {it['path']} {it.get('value', '')}".rstrip() for _, it in operations)
            raise InputError(
                f"{self._path} would lose its comments, because the change adds or removes fields",
                problems=[Problem(each) for each in words],
                hint="Make these changes by hand, or remove the comments.",
            )
        is_marked = self._text.startswith("---") or None
        return yaml.safe_dump_all(documents, sort_keys=False, explicit_start=is_marked, allow_unicode=True)

    def _splice(self, operations: Sequence[tuple[int, Operation]]) -> str | None:
        """The text with each value replaced in place; None if other operations are needed too."""
        nodes = list(yaml.compose_all(self._text, yaml.SafeLoader))
        spans = []
        for at, each in operations:
            node = _node(nodes[at], each["path"]) if each["op"] == "replace" else None
            if not isinstance(node, yaml.ScalarNode):
                return None
            value = each["value"]
            # Quoted as the one it replaces.
            quotes = node.style if isinstance(value, str) and node.style in ("'", '"') else None
            dumped = yaml.safe_dump(value, default_style=quotes, width=float("inf"), allow_unicode=True)
            text = str(dumped).removesuffix("...\n").rstrip("\n")
            spans.append((node.start_mark.index, node.end_mark.index, text))
        text = self._text
        for start, end, value in sorted(spans, reverse=True):
            text = text[:start] + value + text[end:]
        return text

    def _find(self, wanted: str) -> int:
        """The index of the named document; one without a namespace belongs to the pipeline's."""
        names, own = [], self._layout.namespace
        for index, document in enumerate(self._documents):
            metadata = _metadata(document, self._layout.kind)
            if metadata is None:
                continue
            namespace = metadata.get("namespace") or own
            if (metadata.get("name"), namespace) == (wanted, own):
                return index
            names.append(f"{namespace}/{metadata.get('name')}")
        raise NotFoundError(
            f"{self._path} has no {self._layout.kind.kind} {own}/{wanted}",
            hint=f"The file has: {', '.join(names) or 'none'}. `{self._layout.command}` prints one.",
        )


def objects_in(text: str, path: str, kind: ResourceKind) -> list[dict[str, Any]]:
    """Every object of the kind among the documents of a file; InputError if it is not YAML."""
    return [document for document in _load_documents(text, path) if _metadata(document, kind) is not None]


def _load_documents(text: str, path: str) -> list[Any]:
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        words = getattr(error, "problem", None) or "it cannot be read"
        problem = Problem(f"not YAML: {words}", path, line, column)
        raise InputError(f"{path} is not YAML", problems=[problem]) from error
    except (ValueError, RecursionError) as error:
        # Values that no type holds, such as a thirteenth month, and nesting beyond the stack.
        raise InputError(f"{path} cannot be read as YAML: {error}") from error


def _metadata(document: Any, kind: ResourceKind) -> Json | None:
    is_one = isinstance(document, dict) and document.get("kind") == kind.kind
    metadata = document.get("metadata") if is_one else None
    return metadata if isinstance(metadata, dict) else None


def _node(node: Any, pointer: str) -> Any:
    """The node at that JSON pointer, None if there is none."""
    for escaped in pointer.split("/")[1:]:
        token = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in reversed(node.value) if key.value == token), None)
        elif isinstance(node, yaml.SequenceNode):
            node = node.value[int(token)]
        else:
            return None
    return node
