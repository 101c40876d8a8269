"""A YAML document as plain values, each with its line and column.

Nothing is constructed: libyaml's events are read here by YAML 1.2's core schema (`no` is text, `1e3` a
number), without its surprises: numbers are decimal, keys are text and unique, tags, anchors and aliases are
refused. ruamel.yaml has positions too, and takes 17 to 70 times as long (docs/adr/0009).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ipa.files.reading import read_bytes
from ipa.model.errors import InputError, Problem

# A profile of 20 variants, 6 core sizes and 7 batch sizes takes 100 KB.
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 100_000
# Keys of all mappings together: six times those of the profile above. Each costs more than a value of a list.
MAX_KEYS = 20_000
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
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_OPENED = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
# YAML's printable set, less what only hides in text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]")

_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)

Pointer = tuple[str | int, ...]
Mark = tuple[int, int]


@dataclass(slots=True)
class Document:
    """Plain values and their places. A document made from a mapping has no places: all lines are 0."""

    path: str
    data: Any
    marks: dict[Pointer, Mark] = field(default_factory=dict)
    key_marks: dict[Pointer, Mark] = field(default_factory=dict)
    # Numbers and booleans as they were written, for places where text is meant.
    texts: dict[Pointer, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    # True if a list or mapping has more entries than its kind allows.
    is_oversized: bool = False
    # Places of values that are not of their kind's form.
    unsound: set[Pointer] = field(default_factory=set)
    # True if a message begins with its value's path, since such files are often one line.
    shows_pointers: bool = False

    def problem(self, pointer: Pointer, message: str, *, at_key: bool = False) -> None:
        """Note a problem at a value or its key; for an absent value, at its parent.

        InputError if there are too many.
        """
        mark = self.key_marks.get(pointer) if at_key else None
        near = pointer
        while mark is None:
            mark = self.marks.get(near) if near else self.marks.get(near, (0, 0))
            near = near[:-1]
        if self.shows_pointers and pointer:
            message = f"{to_json_pointer(pointer)}: {message}"
        self.problem_at(mark, message, to_json_pointer(pointer))

    def problem_at(self, mark: Mark, message: str, json_pointer: str = "") -> None:
        """Note a problem at a place of the text. InputError if there are too many."""
        self.problems.append(Problem(message, self.path, *mark, json_pointer))
        if len(self.problems) >= MAX_PROBLEMS:
            self.raise_problems()

    def shown(self, pointer: Pointer, value: Any) -> str:
        """The value for a message: as it was written, shortened."""
        text = self.texts.get(pointer) or _begin_of(value)
        return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."

    def sound(self) -> Any:
        """The data, with None in place of each value of the wrong form."""
        return _sound(self.data, self.unsound, ()) if self.unsound else self.data

    def is_sound(self, *keys: str | int) -> bool:
        """True if the value there, and all values in it, have the right form."""
        return not any(place[: len(keys)] == keys for place in self.unsound)

    def raise_problems(self) -> None:
        """InputError with all problems in the order of the file, if there are any."""
        if self.problems:
            problems = sorted(set(self.problems), key=lambda p: (p.line, p.column, p.pointer, p.message))
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            if len(self.problems) >= MAX_PROBLEMS:
                count += " or more"
            raise InputError(f"{self.path or 'the input'} has {count}", problems=problems)


def first_twice(items: list[Any]) -> int | None:
    """The index of the first entry that equals an earlier one as JSON; None if there is none."""
    texts: set[str] = set()
    for index, item in enumerate(items):
        is_whole = isinstance(item, float) and item.is_integer()
        text = json.dumps(int(item) if is_whole else item, sort_keys=True)
        if text in texts:
            return index
        texts.add(text)
    return None


def _sound(value: Any, unsound: set[Pointer], pointer: Pointer) -> Any:
    if pointer in unsound:
        return None
    if isinstance(value, dict):
        return {key: _sound(each, unsound, (*pointer, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_sound(each, unsound, (*pointer, index)) for index, each in enumerate(value)]
    return value


def _begin_of(value: Any) -> str:
    """The start of the value as JSON, long enough to show and to tell whether it must be shortened."""
    if isinstance(value, str):
        value = value[: MAX_SHOWN + 1]
    # Each part has a character at least.
    return "".join(islice(_ENCODER.iterencode(value), MAX_SHOWN + 1))


def shown_key(key: str) -> str:
    """The key for a message, shortened."""
    return repr(key if len(key) <= MAX_SHOWN else f"{key[: MAX_SHOWN - 3]}...")


def to_json_pointer(pointer: Pointer) -> str:
    """The pointer in the form of RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in pointer)


def resolve_plain(text: str) -> Any:
    """Resolve an unquoted scalar to None, a boolean, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return int(text)
    if _FLOAT.fullmatch(text) and len(text) <= _MAX_DIGITS and math.isfinite(float(text)):
        return float(text)
    return text


def check_within(path: Path, folder: Path) -> None:
    """InputError if a link leads out of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        problem = Problem(f"this link leads out of {folder}; put the file itself there", str(path), 1, 1)
        raise InputError(f"{path} is not in {folder}", problems=[problem])


def read_text(path: Path) -> str:
    """The text of a file; NotFoundError if there is none, InputError if it is not UTF-8 or is too large."""
    try:
        raw = read_bytes(path, MAX_BYTES)
    except InputError as error:
        problem = Problem(error.message.replace(f"{path} ", "this ", 1), str(path), 1, 1)
        raise InputError(error.message, hint=error.hint, problems=[problem]) from error
    document = Document(str(path), None)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        mark = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        _refuse(document, mark, f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")
        raise
    return text


def read_document(path: Path) -> Document:
    """The document in a file. Errors: those of `read_text` and `parse`."""
    return parse(read_text(path), str(path))


def parse(
    text: str,
    path: str,
    most_values: int = MAX_VALUES,
    remedy: str = "write less",
    *,
    shows_pointers: bool = False,
) -> Document:
    """The document in the text, with the problems of its form noted.

    InputError if no values can be read: broken YAML, a bomb, several documents, or more values than
    `most_values`, for which the error has the `remedy`.
    """
    document = Document(path, None, shows_pointers=shows_pointers)
    for match in _CONTROL.finditer(text):
        before = text[: match.start()]
        mark = before.count("\n") + 1, match.start() - before.rfind("\n")
        _refuse(document, mark, f"control character U+{ord(match.group()):04X}; remove it")
    # libyaml compares each directive with all before it.
    if text.startswith("%") or "\n%" in text:
        for line, written in enumerate(text.split("\n"), 1):
            if written.startswith("%") and not written.startswith("%YAML"):
                _refuse(document, (line, 1), "a directive is not allowed; remove the line")
    try:
        document.data = _Reader(document, text, most_values, remedy).whole()
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or error.context_mark)
        _refuse(document, mark, f"not YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        _refuse(document, (1, 1), f"not YAML: {error}")
    return document


def _refuse(document: Document, mark: Mark, message: str, json_pointer: str = "") -> None:
    document.problem_at(mark, message, json_pointer)
    document.raise_problems()


def _mark(mark: Any) -> Mark:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


class _Reader:
    """Makes values from events, which it reads only as needed: it stops at the last of many problems."""

    def __init__(self, document: Document, text: str, most_values: int, remedy: str) -> None:
        self.document, self.most_values, self.remedy = document, most_values, remedy
        self.values = self.keys = 0
        self.has_tags = False
        # Nodes and ends of collections.
        self.events = self._pull(text)

    def whole(self) -> Any:
        """The value of the whole document."""
        try:
            value = self._read(next(self.events), ())
        except StopIteration:
            _refuse(self.document, (1, 1), "the file is empty")
        # Read to the end: a second document, or invalid YAML after it, is an error.
        list(self.events)
        if self.has_tags:
            self.document.raise_problems()
        return value

    def _pull(self, text: str) -> Iterator[Any]:
        """The events of the one document in the text."""
        has_begun = False
        event: Any
        for event in yaml.parse(text, Loader=_Loader):
            kind = type(event)
            if kind is yaml.DocumentStartEvent:
                if has_begun:
                    self._fail(event, "a second document begins; put each into its own file")
                has_begun = True
            elif getattr(event, "anchor", None) is not None:
                mark = "*" if kind is yaml.AliasEvent else "&"
                self._fail(event, f"{mark}{event.anchor[:MAX_SHOWN]} is not allowed; write the value itself")
            elif kind in _ENDS:
                yield event
            elif kind is yaml.ScalarEvent or kind in _OPENED:
                if event.tag is not None:
                    self.has_tags = True
                    tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:MAX_SHOWN]
                    words = f"tag {tag} is not allowed; write plain values"
                    self.document.problem_at(_mark(event.start_mark), words)
                yield event

    def _fail(self, event: Any, message: str) -> None:
        _refuse(self.document, _mark(event.start_mark), message)

    def _read(self, event: Any, pointer: Pointer) -> Any:
        """The value that begins with the event, which was just read."""
        document = self.document
        document.marks[pointer] = _mark(event.start_mark)
        self.values += 1
        if self.values > self.most_values:
            self._fail(event, f"more than {self.most_values} values; {self.remedy}")
        kind = type(event)
        if kind in _OPENED and len(pointer) >= MAX_DEPTH:
            self._fail(event, f"nested deeper than {MAX_DEPTH} levels")
        if kind is yaml.MappingStartEvent:
            return self._read_mapping(pointer)
        if kind is yaml.SequenceStartEvent:
            result: list[Any] = []
            while type(event := next(self.events)) is not yaml.SequenceEndEvent:
                result.append(self._read(event, (*pointer, len(result))))
            return result
        if event.style:
            return event.value
        value = resolve_plain(event.value)
        if not isinstance(value, str):
            document.texts[pointer] = event.value
        return value

    def _read_mapping(self, pointer: Pointer) -> dict[str, Any]:
        document = self.document
        result: dict[str, Any] = {}
        while type(event := next(self.events)) is not yaml.MappingEndEvent:
            mark = _mark(event.start_mark)
            self.keys += 1
            if self.keys > MAX_KEYS:
                self._fail(event, f"more than {MAX_KEYS} keys; use fewer")
            if type(event) is not yaml.ScalarEvent:
                self._skip(event)
                document.key_marks[(*pointer, "?")] = mark
                document.problem((*pointer, "?"), "a key must be text", at_key=True)
                self._skip(next(self.events))
                continue
            key = event.value
            place = (*pointer, key)
            if key in result:
                line_of = f"it is already on line {document.key_marks[place][0]}"
                document.key_marks[place] = mark
                document.problem(place, f"duplicate key {shown_key(key)}; {line_of}", at_key=True)
                self._skip(next(self.events))
                continue
            document.key_marks[place] = mark
            result[key] = self._read(next(self.events), place)
        return result

    def _skip(self, event: Any) -> None:
        """Skip the events of the value that begins with this one."""
        depth = 0
        while (depth := depth + (type(event) in _OPENED) - (type(event) in _ENDS)) > 0:
            event = next(self.events)


# Names that are compared and listed, and letters of one: a message is read by people.
MAX_NAMES = 100
MAX_LETTERS = 200


def unknown(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, or some of them."""
    names = list(known)
    near = difflib.get_close_matches(name[:MAX_LETTERS], names[:MAX_NAMES], n=1)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:MAX_NAMES]) or 'none'}{more}"
