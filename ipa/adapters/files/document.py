"""One YAML document as plain values, each with its line and column.

Nothing is constructed: the text is composed to nodes, and the nodes are read here as YAML 1.2's core schema
has it (`no` is text, `1e3` a number), less what surprises: numbers are decimal, keys are text and unique,
tags are refused, and aliases cannot blow the document up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ipa.model.errors import InputError, NotFoundError, Problem

# A profile of 20 variants, 6 core sizes and 7 batch sizes takes 100 KB.
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
# Values counted after aliases are followed: what a "billion laughs" document multiplies.
MAX_VALUES = 100_000
# Nobody reads more, and a file of nothing but unknown keys would take a minute to describe.
MAX_PROBLEMS = 200
# Characters of a value in a message.
MAX_SHOWN = 60

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]+|(?<=[0-9])\.)?(?<=[0-9.])([eE][-+]?[0-9]{1,4})?")
# A longer integer is no count of anything, and Python refuses to read it beyond 4300 digits.
_MAX_DIGITS = 30
# YAML's printable set, less what only hides in text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]")

Pointer = tuple[str | int, ...]
Mark = tuple[int, int]


@dataclass(slots=True)
class Document:
    """Plain values and where each stands. A document made from a mapping has no marks: lines are then 0."""

    path: str
    data: Any
    marks: dict[Pointer, Mark] = field(default_factory=dict)
    key_marks: dict[Pointer, Mark] = field(default_factory=dict)
    # Numbers and booleans as they were written, for places where text is meant.
    texts: dict[Pointer, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, pointer: Pointer, message: str, *, at_key: bool = False) -> None:
        """Note a problem at a value, or at its key; of what is absent, at what should hold it.

        InputError where there are very many.
        """
        mark = self.key_marks.get(pointer) if at_key else None
        near = pointer
        while mark is None:
            mark = self.marks.get(near) if near else self.marks.get(near, (0, 0))
            near = near[:-1]
        line, column = mark
        self.problems.append(Problem(message, self.path, line, column, to_json_pointer(pointer)))
        if len(self.problems) >= MAX_PROBLEMS:
            self.raise_problems()

    def shown(self, pointer: Pointer, value: Any) -> str:
        """The value as a message shows it: as it was written, shortened."""
        text = self.texts.get(pointer) or json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."

    def raise_problems(self) -> None:
        """InputError with all problems in the order of the file, if there are any."""
        if self.problems:
            found = sorted(set(self.problems), key=lambda p: (p.line, p.column, p.pointer, p.message))
            count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
            if len(self.problems) >= MAX_PROBLEMS:
                count += " or more"
            raise InputError(f"{self.path or 'the input'} has {count}", problems=found)


def to_json_pointer(pointer: Pointer) -> str:
    """The pointer as RFC 6901 writes it."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in pointer)


def resolve_plain(text: str) -> Any:
    """What an unquoted scalar stands for: None, a boolean, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return int(text)
    if _FLOAT.fullmatch(text) and len(text) <= _MAX_DIGITS and math.isfinite(float(text)):
        return float(text)
    return text


def check_within(path: Path, folder: Path) -> None:
    """Return where the file is in the folder; InputError where a link leads out of it."""
    if not path.resolve().is_relative_to(folder.resolve()):
        problem = Problem(f"this leads out of {folder}; put the file itself there", str(path), 1, 1)
        raise InputError(f"{path} is not in {folder}", problems=[problem])


def read_text(path: Path) -> str:
    """The text of a file; NotFoundError where there is none, InputError where it is no UTF-8 of fair size."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise NotFoundError(f"{path} {what}")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    document = Document(str(path), None)
    if len(raw) > MAX_BYTES:
        document.problem((), f"the file is larger than {MAX_BYTES} bytes; split it")
        document.raise_problems()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        document.marks[()] = (before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        document.problem((), f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")
        document.raise_problems()
        raise
    return text


def parse(text: str, path: str) -> Document:
    """The document in the text, with the problems of its form noted.

    InputError where no values can be had at all: broken YAML, a bomb, more than one document.
    """
    document = Document(path, None)
    _check_characters(text, document)
    _check_events(text, document)
    document.raise_problems()
    node = yaml.compose(text, Loader=_Loader)
    if node is None:
        document.marks[()] = (1, 1)
        document.problem((), "the file is empty")
        document.raise_problems()
    document.data = _Reader(document).read(node, ())
    return document


def _check_characters(text: str, document: Document) -> None:
    for found in _CONTROL.finditer(text):
        before = text[: found.start()]
        document.marks[()] = (before.count("\n") + 1, found.start() - before.rfind("\n"))
        document.problem((), f"control character U+{ord(found.group()):04X}; remove it")
        document.raise_problems()


def _check_events(text: str, document: Document) -> None:
    """Tags, depth and syntax, from the events: before any recursion over the document."""
    depth = 0
    documents = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            document.marks[()] = _mark(event.start_mark)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    document.problem((), "a second document begins; put each into its own file")
                    break
            tag = getattr(event, "tag", None)
            if tag is not None:
                short = tag.replace("tag:yaml.org,2002:", "!!")
                document.problem((), f"tag {short} is not allowed; write plain values")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    document.problem((), f"nested deeper than {MAX_DEPTH} levels")
                    break
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:
        document.marks[()] = _mark(error.problem_mark or error.context_mark)
        document.problem((), f"not YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        document.marks[()] = (1, 1)
        document.problem((), f"not YAML: {error}")
    if not document.problems:
        document.marks.clear()


def _mark(mark: Any) -> Mark:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.values = 0

    def read(self, node: Any, pointer: Pointer) -> Any:
        document = self.document
        document.marks[pointer] = _mark(node.start_mark)
        self.values += 1
        if self.values > MAX_VALUES or len(pointer) > MAX_DEPTH:
            document.problem(pointer, f"aliases make more than {MAX_VALUES} values; write less")
            document.raise_problems()
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, pointer)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*pointer, index)) for index, child in enumerate(node.value)]
        if node.style:
            return node.value
        value = resolve_plain(node.value)
        if not isinstance(value, str):
            document.texts[pointer] = node.value
        return value

    def _read_mapping(self, node: Any, pointer: Pointer) -> dict[str, Any]:
        document = self.document
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                document.key_marks[(*pointer, "?")] = mark
                document.problem((*pointer, "?"), "a key must be text", at_key=True)
                continue
            key = key_node.value
            place = (*pointer, key)
            if key in result:
                first = document.key_marks[place][0]
                line_of = f"it is already on line {first}"
                document.key_marks[place] = mark
                document.problem(place, f"duplicate key {key!r}; {line_of}", at_key=True)
                continue
            document.key_marks[place] = mark
            result[key] = self.read(value_node, place)
        return result
