"""Documents against the declaration of their kind: every fault in words, with its place."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ipa.files.document import MAX_SHOWN, Document, Pointer, shown_key
from ipa.files.kinds.base import FaultBudget, Section, json_schema
from ipa.files.kinds.fields import FORMS, TWICE, WORDED

S = TypeVar("S", bound=Section)
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
}
# Type of an error -> the keyword of the schema that it breaks, and what that demands.
_DEMANDS = {
    "greater_than_equal": ("minimum", "at least {limit}"),
    "greater_than": ("exclusiveMinimum", "greater than {limit}"),
    "less_than_equal": ("maximum", "at most {limit}"),
    "less_than": ("exclusiveMaximum", "less than {limit}"),
    "string_too_long": ("maxLength", "at most {limit} characters long"),
}
# All of a document.
_ALL = object()
_EMPTY = ("too_short", "string_too_short")
# pydantic's mark of an error in a key rather than its value.
_IN_KEY = "[key]"


def check(document: Document, kind: type[S], data: Any = _ALL, at: Pointer = ()) -> S | None:
    """The document, or `data` at a place in it, as its kind; None if it has faults: each is noted."""
    try:
        return kind.model_validate(document.data if data is _ALL else data, context=FaultBudget(document))
    except ValidationError as error:
        schema = json_schema(kind)
        for fault in error.errors(include_url=False):
            _note(document, schema, at, fault)
    return None


def _note(document: Document, schema: Mapping[str, Any], at: Pointer, fault: Mapping[str, Any]) -> None:
    inner: Pointer = tuple(part for part in fault["loc"] if part not in FORMS)
    if inner and inner[-1] == _IN_KEY:
        inner = inner[:-1]
        names = _resolved(schema, _at(schema, inner[:-1])["propertyNames"])
        message = f"key {shown_key(str(inner[-1]))}: expected {names.get('title', 'another name')}"
        document.problem((*at, *inner), message, at_key=True)
    elif fault["type"] == "extra_forbidden":
        message = _unknown(str(inner[-1]), _at(schema, inner[:-1])["properties"])
        document.problem((*at, *inner), message, at_key=True)
    elif fault["type"] == "missing":
        holder = (*at, *inner[:-1])
        document.problem(holder, f"{_name(holder)} lacks the key {inner[-1]!r}")
    else:
        document.unsound.add((*at, *inner))
        _explain(document, _at(schema, inner), (*at, *inner), fault)


def _explain(
    document: Document, schema: Mapping[str, Any], pointer: Pointer, fault: Mapping[str, Any]
) -> None:
    """Note what is wrong with a value."""
    kind, value = fault["type"], fault["input"]
    name, shown = _name(pointer), document.shown(pointer, value)
    if kind == WORDED:
        document.problem(pointer, f"{name} is {shown}{fault['msg']}")
    elif kind == TWICE:
        document.problem(pointer, f"{_name(pointer[:-1])} has {shown} twice")
    elif kind in _EMPTY and not value:
        document.problem(pointer, f"{name} is empty; expected {schema.get('title', 'at least one entry')}")
    elif kind == "too_short":
        document.problem(pointer, f"{name} is {shown}; expected {schema['title']}")
    elif kind == "too_long":
        document.is_oversized = True
        limit, parts = (
            (schema["maxProperties"], "keys") if isinstance(value, dict) else (schema["maxItems"], "entries")
        )
        title = f": {schema['title']}" if "title" in schema else ""
        document.problem(pointer, f"{name} is {shown}; it must be no more than {limit} {parts}{title}")
    elif kind in _DEMANDS:
        keyword, words = _DEMANDS[kind]
        title = f": {schema['title']}" if "title" in schema else ""
        document.problem(
            pointer, f"{name} is {shown}; it must be {words.format(limit=schema[keyword])}{title}"
        )
    elif "enum" in schema:
        near = difflib.get_close_matches(str(value)[:MAX_SHOWN], schema["enum"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(str, schema["enum"]))
        document.problem(pointer, f"{name} is {shown}; expected one of {known}{hint}")
    elif "const" in schema:
        document.problem(pointer, f"{name} is {shown}; expected {json.dumps(schema['const'])}")
    else:
        types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        names = " or ".join(_TYPE_NAMES.get(each, each) for each in types)
        wanted = (schema.get("title") if pointer else "") or names
        document.problem(pointer, f"{name} is {shown}{_remark(schema, value)}; expected {wanted}")


def _at(schema: Mapping[str, Any], pointer: Pointer) -> Mapping[str, Any]:
    """The schema of the value there."""
    found = schema
    for part in pointer:
        if isinstance(part, int):
            found = found["items"]
        else:
            found = found.get("properties", {}).get(part) or found["additionalProperties"]
        found = _resolved(schema, found)
    return found


def _resolved(schema: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    # One that may be null, as JSON of programs has it.
    found = found.get("anyOf", [found])[0]
    if "$ref" not in found:
        return found
    return {**schema["$defs"][found["$ref"].removeprefix("#/$defs/")], **found}


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key[:MAX_SHOWN], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {shown_key(key)}; {hint}"


def _name(pointer: Pointer) -> str:
    """A value's name in a message: its last key, with the index of an entry of a list."""
    if not pointer:
        return "the file"
    if isinstance(pointer[-1], int):
        return f"entry {pointer[-1] + 1} of {_name(pointer[:-1])}"
    return str(pointer[-1])


def _remark(schema: Mapping[str, Any], value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and "x-quantity" in schema:
        return ", which has no unit"
    if schema.get("type") == "string" and "x-quantity" not in schema and (number or isinstance(value, bool)):
        return f", which is {'a number' if number else 'a boolean'}: put it in quotes to mean text"
    return ""
