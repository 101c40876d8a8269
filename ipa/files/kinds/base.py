"""One declaration of each kind of file: what reads it, writes it and describes it as a JSON Schema.

A field of a section is named as in `ipa.model`, with the key in the file for an alias. It is None by default
if the key may be absent (the model knows the default then). The text under it is its description.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from itertools import pairwise
from textwrap import dedent
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ipa.files.document import MAX_PROBLEMS, Document

_HEADER = ("api_version", "kind")
# Between the words of a name.
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")
_REFERENCE = re.compile(r'"#/\$defs/(\w+)"')


@dataclass(slots=True)
class FaultBudget:
    """The context of a validation: the document, and the number of faults that are still worth finding."""

    document: Document
    left: int = MAX_PROBLEMS


def _key(name: str) -> str:
    """The key of a field: its value carries the unit that the name ends with."""
    return name.removesuffix("_s").removesuffix("_rps").removesuffix("_gib")


class Section(BaseModel):
    """A mapping in a file whose keys are known, and the value of `ipa.model` that it stands for."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        # One pattern for the reader and for the published schema.
        regex_engine="python-re",
        alias_generator=_key,
        # Built when the first such file is read: no command reads all kinds.
        defer_build=True,
    )
    # The class of `ipa.model`, called with the fields that the file has.
    makes: ClassVar[Callable[..., Any]] = dict

    @model_validator(mode="wrap")
    @classmethod
    def _bounded(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Stop looking once there are more faults than anybody reads.

        pydantic holds the interpreter while it lists faults: a body of a megabyte may have 200 000.
        """
        budget = info.context
        if not isinstance(budget, FaultBudget):
            return handler(data)
        if budget.left <= 0:
            # Refused in any case, so that nobody uses it.
            return data  # type: ignore[no-any-return]
        before = budget.left
        try:
            return handler(_without_many(data, cls))
        except ValidationError as error:
            budget.left = before - error.error_count()
            raise

    def given(self) -> dict[str, Any]:
        """The fields that the file has, as values of `ipa.model`."""
        return {name: built(getattr(self, name)) for name in self.model_fields_set}

    def build(self) -> Any:
        """The value of `ipa.model`."""
        return self.makes(**self.given())

    @classmethod
    def of(cls, value: Any, **fields: Any) -> Self:
        """The section that stands for a value of `ipa.model`; `fields` replace its attributes."""
        found = {}
        for name, field in cls.model_fields.items():
            given = fields[name] if name in fields else getattr(value, name)
            found[name] = _section_of(_section_in(cast(Hashable, field.annotation)), given)
        return cls.model_construct(**found)

    @property
    def is_empty(self) -> bool:
        """True if the section has no key."""
        return all(getattr(self, name) is None for name in type(self).model_fields)

    def to_mapping(self) -> dict[str, Any]:
        """The keys and values as the file has them."""
        return self.model_dump(by_alias=True, exclude_none=True)


class DeclaredFile(Section):
    """A whole file."""

    # Of its schema.
    description_of_kind: ClassVar[str]
    api_version: Literal["ipa/v1"] = Field(alias="apiVersion")

    def given(self) -> dict[str, Any]:
        """As of a section, without the header, which is no part of the value."""
        return {name: value for name, value in super().given().items() if name not in _HEADER}

    @classmethod
    def of(cls, value: Any, **fields: Any) -> Self:
        """As of a section, with the header."""
        header = {name: get_args(cls.model_fields[name].annotation)[0] for name in _HEADER}
        return super().of(value, **header, **fields)


def _without_many(data: Any, section: type[Section]) -> Any:
    """The data without unknown keys beyond those that a message names."""
    if not isinstance(data, dict) or len(data) <= MAX_PROBLEMS:
        return data
    known = {field.alias or name for name, field in section.model_fields.items()}
    unknown = [key for key in data if key not in known]
    return {key: data[key] for key in [*unknown[:MAX_PROBLEMS], *(known & data.keys())]}


def built(value: Any) -> Any:
    """The value of a field as `ipa.model` has it."""
    if isinstance(value, Section):
        return value.build()
    if isinstance(value, list):
        return tuple(map(built, value))
    if isinstance(value, dict):
        return MappingProxyType({key: built(each) for key, each in value.items()})
    return value


@cache
def _section_in(annotation: Hashable) -> type[Section] | None:
    """The section in a type such as `list[Section]`; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _section_of(section: type[Section] | None, value: Any) -> Any:
    """The keys of a section for a value of the model."""
    if value is None or isinstance(value, Section):
        return value
    if isinstance(value, list | tuple):
        return [_section_of(section, each) for each in value]
    if isinstance(value, Mapping):
        return {key: _section_of(section, each) for key, each in value.items()}
    return section.of(value) if section is not None and is_dataclass(value) else value


@cache
def descriptions(section: type[Section]) -> Mapping[str, str]:
    """The text under each field in the code, by key.

    pydantic can read it too, but for every class when it is imported, which takes 50 ms.
    """
    found = {name: field.description for name, field in section.model_fields.items() if field.description}
    for part in reversed(section.__mro__):
        if issubclass(part, Section) and part.__module__ != __name__:
            found |= _texts_in(part)
    return {section.model_fields[name].alias or name: text for name, text in found.items()}


def _texts_in(section: type[Section]) -> dict[str, str]:
    try:
        body = ast.parse(dedent(inspect.getsource(section))).body[0]
    except (OSError, TypeError):
        # Made by `create_model`: it has no source.
        return {}
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


class _Generator(GenerateJsonSchema):
    """JSON Schema as people read it: a title only where a field has one, and no null for what is absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("description", None)
        if made.get("title") == schema["cls"].__name__:
            made.pop("title")
        for key, text in descriptions(cast(type[Section], schema["cls"])).items():
            made["properties"][key]["description"] = text
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        made.pop("patternProperties", None)
        names, values = (self.generate_inner(schema[part]) for part in ("keys_schema", "values_schema"))
        return {**made, "propertyNames": names, "additionalProperties": values}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """One schema of several types, whose keywords each say something of one type only."""
        forms = []
        for choice in schema["choices"].values():
            form = self.generate_inner(choice)
            while "$ref" in form:
                form = self.get_schema_from_definitions(form["$ref"]) or {}
            forms.append(form)
        return {key: value for form in forms for key, value in form.items()} | {
            "type": [form["type"] for form in forms]
        }


@cache
def json_schema(kind: type[Section]) -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of such files, without its address."""
    made = kind.model_json_schema(schema_generator=_Generator)
    definitions = made.pop("$defs", {})
    # `StageBoundsSection` -> `stage_bounds`.
    names = {name: _WORDS.sub("_", name.removesuffix("Section")).lower() for name in definitions}
    made["$defs"] = {names[name]: each for name, each in definitions.items()}
    text = _REFERENCE.sub(lambda name: f'"#/$defs/{names[name[1]]}"', json.dumps(made))
    found: dict[str, Any] = json.loads(text)
    return found
