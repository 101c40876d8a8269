"""Checks a document against the published JSON Schema and says what is wrong in words.

The schemas beside this file are the one place that knows the keys of the files.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from ipa.files.document import MAX_SHOWN, Document, Pointer, shown_key
from ipa.files.sections import with_sections

KINDS = ("pipeline", "profile", "guardrails")
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
}
# Keyword of the schema -> what it demands; {limit} is the keyword's value.
_DEMANDS = {
    "minimum": "at least {limit}",
    "exclusiveMinimum": "greater than {limit}",
    "maximum": "at most {limit}",
    "exclusiveMaximum": "less than {limit}",
    "maxLength": "at most {limit} characters long",
    "maxItems": "no more than {limit} entries",
    "maxProperties": "no more than {limit} keys",
}


def schema_text(kind: str) -> str:
    """The published JSON Schema (draft 2020-12) of `pipeline`, `profile` or `guardrails` files."""
    return resources.files(__package__).joinpath("schema", f"{kind}.schema.json").read_text("utf-8")


def _is_finite(_: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _members_within(keyword: str, limit: str) -> Callable[..., Iterable[Any]]:
    """The check of that keyword, which leaves alone the members of what has more than its limit.

    The limit's own check says so; to say what is wrong with each member too would take seconds.
    """
    check = Draft202012Validator.VALIDATORS[keyword]

    def checked(validator: Any, wanted: Any, instance: Any, schema: Mapping[str, Any]) -> Iterable[Any]:
        if isinstance(instance, list | dict) and len(instance) > schema.get(limit, len(instance)):
            return ()
        return check(validator, wanted, instance, schema) or ()

    return checked


def _unique_items(validator: Any, wanted: bool, instance: Any, schema: Mapping[str, Any]) -> Iterable[Any]:
    """Check `uniqueItems` in linear time; jsonschema compares each entry with all others."""
    is_list = isinstance(instance, list) and len(instance) <= schema.get("maxItems", len(instance))
    if wanted and is_list and first_twice(instance) is not None:
        yield ValidationError("entries are not unique")


def first_twice(items: list[Any]) -> int | None:
    """The index of the first entry that equals one before it, as JSON has it; None if there is none."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        is_whole = isinstance(item, float) and item.is_integer()
        text = json.dumps(int(item) if is_whole else item, sort_keys=True)
        if text in seen:
            return index
        seen.add(text)
    return None


# JSON as Python reads it has NaN and infinities, which every comparison of a schema lets pass.
_Validator = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "items": _members_within("items", "maxItems"),
        "uniqueItems": _unique_items,
        "propertyNames": _members_within("propertyNames", "maxProperties"),
        "additionalProperties": _members_within("additionalProperties", "maxProperties"),
    },
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite),
)


@cache
def _validator(kind: str) -> Any:
    schema = json.loads(schema_text(kind))
    if kind == "pipeline":
        schema = with_sections(schema)
    return _Validator(_inlined(schema, schema.get("$defs", {})))


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with the definitions in the place of what refers to them.

    To follow a reference takes longer than to check most values, and is done for each value again.
    """
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _inlined(each, definitions) for key, each in schema.items() if key not in ("$ref", "$defs")}
    if "$ref" in schema:
        made = {**_inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions), **made}
    return made


def check_structure(document: Document, kind: str) -> None:
    """Note every place where the document does not follow the schema of its kind."""
    _check(document, _validator(kind))


def check_schema(document: Document, schema: Mapping[str, Any]) -> None:
    """Note every place where the document does not follow a schema of the caller's own (draft 2020-12).

    Its keywords are those that `_explain` has words for: no `oneOf` and the like.
    """
    _check(document, _Validator(schema))


def _check(document: Document, validator: Any) -> None:
    for error in validator.iter_errors(document.data):
        _explain(document, tuple(error.absolute_path), error)


def _explain(document: Document, pointer: Pointer, error: Any) -> None:
    keyword, schema, value = error.validator, error.schema, error.instance
    shown = document.shown(pointer, value)
    name = _name(pointer)
    if keyword == "additionalProperties":
        _explain_unknown(document, pointer, schema, value)
    elif keyword == "required":
        for key in (key for key in error.validator_value if key not in value):
            if f"'{key}' is a required property" == error.message:
                document.problem(pointer, f"{name} lacks the key {key!r}")
    elif keyword == "propertyNames" or "propertyNames" in error.absolute_schema_path:
        place = (*pointer, value)
        document.problem(
            place, f"key {shown_key(value)}: expected {schema.get('title', 'another name')}", at_key=True
        )
    elif keyword in ("type", "pattern"):
        wanted = (schema.get("title") if pointer else "") or _type_name(schema["type"])
        document.problem(pointer, f"{name} is {shown}{_remark(schema, value)}; expected {wanted}")
    elif keyword == "enum":
        near = difflib.get_close_matches(str(value)[:MAX_SHOWN], error.validator_value, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(str, error.validator_value))
        document.problem(pointer, f"{name} is {shown}; expected one of {known}{hint}")
    elif keyword == "const":
        document.problem(pointer, f"{name} is {shown}; expected {json.dumps(error.validator_value)}")
    elif keyword == "uniqueItems":
        index = first_twice(value)
        assert index is not None
        document.problem((*pointer, index), f"{name} has {document.shown((), value[index])} twice")
    elif keyword in ("minItems", "minProperties", "minLength"):
        document.problem(pointer, f"{name} is empty; expected {schema.get('title', 'at least one entry')}")
    else:
        document.is_oversized |= keyword in ("maxItems", "maxProperties")
        demand = _DEMANDS[keyword].format(limit=error.validator_value)
        title = f": {schema['title']}" if "title" in schema else ""
        document.problem(pointer, f"{name} is {shown}; it must be {demand}{title}")


def _explain_unknown(document: Document, pointer: Pointer, schema: Any, value: dict[str, Any]) -> None:
    known = schema["properties"]
    for key in (key for key in value if key not in known):
        near = difflib.get_close_matches(key[:MAX_SHOWN], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        document.problem((*pointer, key), f"unknown key {shown_key(key)}; {hint}", at_key=True)


def _name(pointer: Pointer) -> str:
    """A value's name in a message: its last key, with the index of an entry of a list."""
    if not pointer:
        return "the file"
    if isinstance(pointer[-1], int):
        return f"entry {pointer[-1] + 1} of {_name(pointer[:-1])}"
    return str(pointer[-1])


def _type_name(types: str | list[str]) -> str:
    names = [types] if isinstance(types, str) else types
    return " or ".join(_TYPE_NAMES.get(name, name) for name in names)


def _remark(schema: Any, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and "x-quantity" in schema:
        return ", which has no unit"
    if schema.get("type") == "string" and "x-quantity" not in schema and (number or isinstance(value, bool)):
        return f", which is {'a number' if number else 'a boolean'}: put it in quotes to mean text"
    return ""
