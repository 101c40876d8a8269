"""Files by the forms of their keys (`ipa.model.forms`): read with all faults listed, written, described."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, replace
from enum import Enum
from functools import cache
from importlib import resources
from itertools import pairwise
from math import isfinite
from textwrap import dedent
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from ipa.files.document import MAX_SHOWN, Document, Pointer, first_twice, resolve_plain, shown_key
from ipa.model.forms import BOOLEAN, NUMBER, TEXT, Key, RefusedError, ValueForm

KINDS = ("pipeline", "profile")
# A longer list is refused for its length alone.
MOST_UNIQUE = 1000
# The value of what has faults.
FAULTY = object()
_TYPES = {dict: "object", list: "array", tuple: "array", str: "string", bool: "boolean", int: "integer"}
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
}
# Keywords of the schema for numbers: the comparison that breaks them, and what they demand.
_DEMANDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, limit: value < limit, "at least"),
    "exclusiveMinimum": (lambda value, limit: value <= limit, "greater than"),
    "maximum": (lambda value, limit: value > limit, "at most"),
    "exclusiveMaximum": (lambda value, limit: value >= limit, "less than"),
}


def schema_text(kind: str) -> str:
    """The published JSON Schema (draft 2020-12) of `pipeline` or `profile`."""
    return resources.files("ipa.files").joinpath("schema", f"{kind}.schema.json").read_text("utf-8")


def key_of(field: str) -> str:
    """The key of a field: the field's name without its unit, which the value carries."""
    return field.removesuffix("_s").removesuffix("_rps").removesuffix("_gib")


def form_of(hint: Any) -> ValueForm:
    """The form of a type: that of its annotation, else the default one; `X | None` has the form of X."""
    if get_origin(hint) is Annotated:
        return next(each for each in hint.__metadata__ if isinstance(each, ValueForm))
    if type(None) in get_args(hint):
        return form_of(next(each for each in get_args(hint) if each is not type(None)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ValueForm({"enum": [str(each) for each in hint]}, hint, str)
    return {bool: BOOLEAN, str: TEXT, float: NUMBER}[hint]


def section(
    name: str,
    model: type,
    keys: str,
    make: Callable[[Any], Any] | None = None,
    write: Callable[[Any], Any] | None = None,
    /,
    **forms: ValueForm,
) -> ValueForm:
    """The mapping in files that stands for a dataclass, by the annotations of its fields.

    `keys` has the fields in the order of the file: as `field=key` if the key differs from `key_of`, with `!`
    if the key is required although the field has a default, and with `?` if it is not written at its default;
    `...` at the end allows other keys. `make` makes the value from the fields, if it is not the dataclass
    itself; `write` returns the fields of a value. `forms` are the forms of fields whose annotation lacks one,
    and of keys that are not fields.
    """
    hints, known = get_type_hints(model, include_extras=True), {each.name: each for each in fields(model)}
    known_keys = {}
    for word in keys.removesuffix("...").split():
        field, _, key = word.rstrip("?!").partition("=")
        of = known.get(field)
        default = None if of is None or of.default is MISSING else of.default
        if of is not None and of.default_factory is not MISSING:
            default = of.default_factory()
        needed = of is not None and of.default is MISSING and of.default_factory is MISSING
        form = forms[field] if field in forms else form_of(hints[field])
        left_out = default if word.endswith("?") else None
        known_keys[key or key_of(field)] = Key(field, form, needed or word.endswith("!"), left_out)
    schema = {"type": "object", **({} if keys.endswith("...") else {"additionalProperties": False})}
    return ValueForm(schema, make or (lambda given: model(**given)), write, known_keys, name, model)


def file_section(kind: str, form: ValueForm) -> ValueForm:
    """A whole file of that kind: the section with the header, which is not part of the value."""
    header = {"apiVersion": "ipa/v1", "kind": kind}
    keys = {key: Key("", ValueForm({"const": it, "type": "string"}), True) for key, it in header.items()}
    return replace(form, keys=keys | dict(form.keys or {}))


def either(title: str, *forms: ValueForm, make: Callable[[Any], Any] | None = None) -> ValueForm:
    """A value of one of several types; each form is of another type."""
    schema = {key: value for form in forms for key, value in form.schema.items()}
    keys = next((form for form in forms if form.keys is not None), ValueForm())
    types = [form.schema["type"] for form in forms]
    return replace(keys, schema={**schema, "type": types, "title": title}, make=make, name="")


def check(document: Document, form: ValueForm) -> Any:
    """The model's value of the document; None if there are faults, each of which is noted."""
    value = _Reader(document).read(form, document.data, ())
    return None if value is FAULTY else value


def read(document: Document, form: ValueForm) -> Any:
    """The model's value of the document; InputError lists every problem."""
    value = check(document, form)
    document.raise_problems()
    return value


class _Reader:
    """Reads values of a document by their forms, and notes each fault."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._readers: Mapping[str, Callable[[ValueForm, Any, Pointer], Any]] = {
            "object": self._read_mapping,
            "array": self._read_list,
            "string": self._read_text,
        }

    def read(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        """The model's value; FAULTY if it, or a value in it, does not have its form."""
        if form.as_written and (text := self.document.texts.get(at)):
            return text
        value = self._checked(form, value, at)
        if value is FAULTY or value is None or form.make is None:
            return value
        try:
            return form.make(value)
        except RefusedError as error:
            return self._fault(at, f"{name_of(at)} is {self.document.shown(at, value)}{error}")
        except (ValueError, OverflowError):
            return self._wrong(form, value, at)

    def _checked(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        """The value with its parts as the model's values, checked by the keywords for its type."""
        schema = form.schema
        types = schema.get("type", ())
        if "enum" in schema or "const" in schema:
            is_right = value in schema.get("enum", (schema.get("const"),))
            return value if is_right else self._wrong(form, value, at)
        if not types or (value is None and schema.get("nullable")):
            return value
        kind = _TYPES.get(type(value), "")
        if type(value) is float and isfinite(value):
            kind = "number"
            if "integer" in types and value.is_integer():
                kind, value = "integer", int(value)
        if kind == "integer" and "integer" not in types:
            kind = "number"
        if kind not in ((types,) if isinstance(types, str) else types):
            return self._wrong(form, value, at)
        if kind == "object" and form.keys is not None:
            return self._read_keys(form, value, at)
        return self._readers.get(kind, self._read_number)(form, value, at)

    def _read_text(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        schema = form.schema
        if not value and "minLength" in schema:
            return self._empty(schema, at)
        if len(value) > (most := schema.get("maxLength", len(value))):
            return self._demand(schema, value, at, f"at most {most} characters long")
        # A quantity is checked by its parser.
        is_plain = "pattern" in schema and "x-quantity" not in schema
        if is_plain and not re.search(schema["pattern"], value):
            return self._wrong(form, value, at)
        return value

    def _read_number(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        """A number within its bounds; a boolean is not a number."""
        for keyword, (breaks, words) in _DEMANDS.items():
            limit = form.schema.get(keyword)
            if limit is not None and breaks(value, limit):
                return self._demand(form.schema, value, at, f"{words} {limit}")
        return value

    def _read_keys(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        given: dict[str, Any] = {}
        keys, is_whole = form.keys or {}, True
        for name, each in value.items():
            if (key := keys.get(name)) is not None:
                made = self.read(key.form, each, (*at, name))
                is_whole = is_whole and made is not FAULTY
                given |= {key.field: made} if key.field else {}
            elif form.schema.get("additionalProperties") is False:
                near = difflib.get_close_matches(str(name)[:MAX_SHOWN], keys, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(keys)}"
                message = f"unknown key {shown_key(str(name))}; {hint}"
                self.document.problem((*at, name), message, at_key=True)
                is_whole = False
        for name, key in keys.items():
            if key.is_required and name not in value:
                self.document.problem(at, f"{name_of(at)} lacks the key {name!r}")
                is_whole = False
        return given if is_whole else FAULTY

    def _read_mapping(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        schema = form.schema
        if len(value) > schema.get("maxProperties", len(value)):
            return self._too_many(schema, value, at, f"{schema['maxProperties']} keys")
        names, of = schema.get("propertyNames"), schema.get("additionalProperties")
        made, is_whole = {}, True
        for key, each in value.items():
            if names is not None and not re.search(names.schema.get("pattern", ""), str(key)):
                message = f"key {shown_key(str(key))}: expected {names.schema['title']}"
                self.document.problem((*at, key), message, at_key=True)
                is_whole = False
            made[key] = each if of is None else self.read(of, each, (*at, key))
            is_whole = is_whole and made[key] is not FAULTY
        if len(value) < schema.get("minProperties", 0):
            return self._empty(schema, at, value)
        return made if is_whole else FAULTY

    def _read_list(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        schema, of = form.schema, form.schema["items"]
        is_whole = True
        if schema.get("uniqueItems") and len(value) <= MOST_UNIQUE:
            twice = first_twice(value)
            if twice is not None:
                place = (*at, twice)
                shown = self.document.shown(place, value[twice])
                self._fault(place, f"{name_of(at)} has {shown} twice")
                is_whole = False
        if len(value) > schema.get("maxItems", len(value)):
            return self._too_many(schema, value, at, f"{schema['maxItems']} entries")
        made = [self.read(of, each, (*at, index)) for index, each in enumerate(value)]
        if not is_whole or any(each is FAULTY for each in made):
            return FAULTY
        return self._empty(schema, at, value) if len(value) < schema.get("minItems", 0) else made

    def _fault(self, at: Pointer, message: str) -> Any:
        self.document.unsound.add(at)
        self.document.problem(at, message)
        return FAULTY

    def _demand(self, schema: Mapping[str, Any], value: Any, at: Pointer, words: str) -> Any:
        title = f": {schema['title']}" if "title" in schema else ""
        return self._fault(
            at, f"{name_of(at)} is {self.document.shown(at, value)}; it must be {words}{title}"
        )

    def _too_many(self, schema: Mapping[str, Any], value: Any, at: Pointer, words: str) -> Any:
        self.document.is_oversized = True
        return self._demand(schema, value, at, f"no more than {words}")

    def _empty(self, schema: Mapping[str, Any], at: Pointer, value: Any = ()) -> Any:
        shown = self.document.shown(at, value) if value else "empty"
        return self._fault(
            at, f"{name_of(at)} is {shown}; expected {schema.get('title', 'at least one entry')}"
        )

    def _wrong(self, form: ValueForm, value: Any, at: Pointer) -> Any:
        """Note a value of a different type."""
        schema, remark = form.schema, ""
        if "enum" in schema:
            near = difflib.get_close_matches(str(value)[:MAX_SHOWN], schema["enum"], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            expected = f"one of {', '.join(schema['enum'])}{hint}"
        elif "const" in schema:
            expected = json.dumps(schema["const"])
        else:
            types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            names = " or ".join(_TYPE_NAMES[each] for each in types)
            expected = (schema.get("title") if at else "") or names
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and "x-quantity" in schema:
                remark = ", which has no unit"
            elif types == ["string"] and "x-quantity" not in schema and isinstance(value, int | float):
                kind = "a number" if is_number else "a boolean"
                remark = f", which is {kind}: put it in quotes to mean text"
        return self._fault(
            at, f"{name_of(at)} is {self.document.shown(at, value)}{remark}; expected {expected}"
        )


def name_of(at: Pointer) -> str:
    """The name of a value in messages: its last key, with the index of an entry of a list."""
    if not at:
        return "the file"
    return f"entry {at[-1] + 1} of {name_of(at[:-1])}" if isinstance(at[-1], int) else str(at[-1])


def write(form: ValueForm, value: Any) -> Any:
    """The value in the form of its file."""
    if form.write is not None:
        value = form.write(value)
    if form.keys is not None and not isinstance(value, str | list | tuple):
        written = {}
        for name, key in form.keys.items():
            if not key.field:
                each = key.form.schema["const"]
            else:
                each = value.get(key.field) if isinstance(value, Mapping) else getattr(value, key.field)
            if each is not None and each != key.left_out:
                written[name] = write(key.form, each)
        return written
    if isinstance(value, Mapping) and isinstance(of := form.schema.get("additionalProperties"), ValueForm):
        return {key: write(of, each) for key, each in value.items()}
    if isinstance(value, list | tuple) and "items" in form.schema:
        return [write(form.schema["items"], each) for each in value]
    return value


class FlowMapping(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML would read as another type, and indents lists as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if not isinstance(resolve_plain(text), str) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_flow(dumper: yaml.SafeDumper, mapping: FlowMapping) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(FlowMapping, _represent_flow)
# Dates are text to our reader; without this the writer would quote them.
_Dumper.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def dump_yaml(data: dict[str, Any]) -> str:
    """The text of a mapping, in its order."""
    return str(
        yaml.dump(
            data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True, default_flow_style=False
        )
    )


@cache
def descriptions(model: type) -> Mapping[str, str]:
    """The text under each field of a class in its code."""
    body = ast.parse(dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def described(form: ValueForm) -> Iterator[tuple[str, Key, str]]:
    """The keys of a section with their descriptions."""
    texts = {} if form.model is None else descriptions(form.model)
    for name, key in (form.keys or {}).items():
        yield name, key, key.form.schema.get("description") or texts.get(key.field, "")
