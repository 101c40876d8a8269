"""One declaration of each kind of file: what reads it, writes it and describes it as a JSON Schema.

A field of a section is named as in `ipa.model`, its alias is the key in the file, its default is None where
the key may be absent (the model knows the default then), and its description is that of the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

_HEADER = ("api_version", "kind")
# Between the words of a name.
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")
_REFERENCE = re.compile(r'"#/\$defs/(\w+)"')


class Section(BaseModel):
    """A mapping in a file whose keys are known, and the value of `ipa.model` that it stands for."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        # One pattern for the reader and for the published schema.
        regex_engine="python-re",
        # Docstrings are for readers of the code; a schema's words are each field's description.
        use_attribute_docstrings=False,
    )
    # The class of `ipa.model`, called with the fields that the file has.
    makes: ClassVar[Callable[..., Any]] = dict

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


class FileKind(Section):
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
    """What a section has for a value of the model."""
    if value is None or isinstance(value, Section):
        return value
    if isinstance(value, list | tuple):
        return [_section_of(section, each) for each in value]
    if isinstance(value, Mapping):
        return {key: _section_of(section, each) for key, each in value.items()}
    return section.of(value) if section is not None and is_dataclass(value) else value


class _Generator(GenerateJsonSchema):
    """JSON Schema as people read it: a title only where a field has one, and no null for what is absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("description", None)
        if made.get("title") == schema["cls"].__name__:
            made.pop("title")
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
    found: dict[str, Any] = json.loads(
        _REFERENCE.sub(lambda name: f'"#/$defs/{names[name[1]]}"', json.dumps(made))
    )
    return found
