"""The types of fields in files: their form, their unit, and the words for them in messages and schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import isfinite
from operator import not_
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from ipa.files.document import first_twice
from ipa.files.kinds.base import Section
from ipa.files.quantities import DURATION, MEMORY, RATE, format_number
from ipa.model.pipeline import ALL_VARIANTS
from ipa.model.resources import BESIDE_CORES, BY_NAME, DIMENSIONS, Prices

# JSON Schema's `$` means the end; in Python it also means "before a last newline".
_END = r"$(?!\n)"
# An error with its own words, which follow the name of the field and its value.
WORDED, TWICE = "worded", "twice"


class _NotNull:
    """Refuses null: a field may be absent, and then is None, but null says nothing."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema  # type: ignore[no-any-return]


class _Choice:
    """Takes the value of a StrEnum by its text, and names those there are."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Written as the text that it is.
        written = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.enum_schema(source, list(source), strict=False, serialization=written)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        members: Any = schema
        return {"enum": [str(member) for member in members["members"]]}


def _whole(value: Any) -> Any:
    """JSON Schema's integers include 2.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _resident(value: Any) -> int | str:
    number = _whole(value)
    if value == ALL_VARIANTS or (type(number) is int and number >= 1):
        return number  # type: ignore[no-any-return]
    raise PydanticCustomError("resident", "neither all nor a count")


def _above_zero(value: float) -> float:
    if value == 0:
        raise PydanticCustomError(WORDED, "; it must be greater than zero")
    return value


def _at_most_a_minute(value: float) -> float:
    if value > 60:
        raise PydanticCustomError(WORDED, "; it must be at most a minute")
    return value


class _Unique:
    """Refuses an entry that is there twice, together with whatever else is wrong with the list."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "uniqueItems": True}

    @staticmethod
    def _read(value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        index = first_twice(value) if isinstance(value, list) and len(value) <= MOST_UNIQUE else None
        if index is None:
            return handler(value)
        twice = PydanticCustomError(TWICE, "twice")
        errors: list[InitErrorDetails] = [{"type": twice, "loc": (index,), "input": value[index]}]
        try:
            handler(value)
        except ValidationError as error:
            errors += [_again(each) for each in error.errors(include_url=False)]
        raise ValidationError.from_exception_data("list", errors)


def _again(error: Any) -> InitErrorDetails:
    """The error as pydantic takes it."""
    found: Any = {key: error[key] for key in ("type", "loc", "input", "ctx") if key in error}
    return cast(InitErrorDetails, found)


@dataclass(frozen=True, eq=False)
class KeyCount:
    """A mapping of at most this many keys, counted before any of them is looked at."""

    most: int = 100
    least: int = 1

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = {**handler(source), "min_length": self.least, "max_length": self.most}
        return core_schema.no_info_before_validator_function(self._count, schema)

    def _count(self, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > self.most:
            raise PydanticCustomError("too_long", "too many keys")
        return value


def _as_written(value: Any, info: ValidationInfo) -> Any:
    """Numbers and booleans of the mapping as the text that they were written as, where that is known."""
    if not isinstance(value, dict):
        return value
    texts = info.context.document.texts_in(value) if info.context else {}
    return {key: texts.get(key) or _text_of(each) for key, each in value.items()}


def _text_of(value: Any) -> Any:
    is_plain = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    return str(value).lower() if is_plain else value


def _day(value: Any) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError(WORDED, ", a day that does not exist") from None


def _text(pattern: str, title: str) -> Any:
    """Text of that form."""
    return Field(title=title, pattern=rf"^{pattern}{_END}")


# A longer list is refused for its length alone.
MOST_UNIQUE = 1000
WHOLE = BeforeValidator(_whole)
UNIQUE = _Unique()
CHOICE = _Choice()
_POSITIVE = AfterValidator(_above_zero)
_ANY_SCALAR = {"title": "text, a number or a boolean", "type": ["string", "number", "boolean"]}

T = TypeVar("T")
# The type of a field that may be absent.
Maybe = Annotated[T | None, _NotNull()]
Number = Annotated[float, PlainSerializer(format_number)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1), WHOLE]
_RESIDENT = {
    "type": ["string", "integer"],
    "title": f"{ALL_VARIANTS}, or a whole number of at least 1",
    "pattern": f"^{ALL_VARIANTS}{_END}",
    "minimum": 1,
}
Resident = Annotated[int | str, PlainValidator(_resident), WithJsonSchema(_RESIDENT)]
BatchSize = Annotated[int, Field(ge=1, le=4096), WHOLE]
BatchSizes = Annotated[list[BatchSize], Field(min_length=1, max_length=100), AfterValidator(sorted), UNIQUE]

Name = Annotated[
    str,
    _text(
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "a DNS-1123 name: lower-case letters, digits and '-', at most 63",
    ),
]
VariantName = Annotated[
    str,
    _text(
        "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?",
        "a name of letters, digits, '.', '_' and '-', at most 128",
    ),
]
Text = Annotated[str, Field(max_length=10_000)]
Line = Annotated[str, Field(title="a few words", min_length=1, max_length=10_000)]
Day = Annotated[
    str,
    _text("[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date such as 2026-11-24"),
    AfterValidator(_day),
    PlainSerializer(str),
]
Duration = Annotated[float, DURATION]
PositiveDuration = Annotated[float, DURATION, _POSITIVE]
ShortDuration = Annotated[PositiveDuration, AfterValidator(_at_most_a_minute)]
Rate = Annotated[float, RATE]
PositiveRate = Annotated[float, RATE, _POSITIVE]
PositiveMemory = Annotated[float, MEMORY, _POSITIVE]
# The name of a Kubernetes extended resource.
ACCELERATOR_KIND = r"[a-z0-9.-]{1,253}/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_Kind = Annotated[
    str,
    _text(
        ACCELERATOR_KIND,
        "the name of a Kubernetes extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.5gb",
    ),
]
Accelerators = Annotated[
    dict[_Kind, Annotated[int, Field(ge=0, le=100_000), WHOLE]],
    KeyCount(least=0),
    Field(title="a count for each kind of accelerator"),
]
Price = Annotated[Number, Field(ge=0, le=1_000_000)]
AcceleratorPrices = Annotated[
    dict[_Kind, Price], KeyCount(least=0), Field(title="a price for each kind of accelerator")
]

_Written = Annotated[str, WithJsonSchema(_ANY_SCALAR)]
Env = Annotated[
    dict[Annotated[str, _text("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")], _Written],
    KeyCount(least=0),
    BeforeValidator(_as_written),
]
Parameters = Annotated[
    dict[Annotated[str, _text("[A-Za-z_][A-Za-z0-9_.-]*", "the name of a parameter")], _Written],
    KeyCount(least=0),
    BeforeValidator(_as_written),
]

# The forms of a field that may have several. In an error's place they are no keys: YAML has no such
# characters, and names none.
SCALAR, LIST, MAPPING = "\0scalar", "\0list", "\0mapping"
FORMS = (SCALAR, LIST, MAPPING)


def form(value: Any) -> str | None:
    """The form of a value; None for one that no field has."""
    if isinstance(value, dict):
        return MAPPING
    if isinstance(value, list):
        return LIST
    return SCALAR if isinstance(value, str | int | float) else None


# The type of an amount by its unit.
AMOUNTS: Mapping[str, Any] = {"cores": PositiveNumber, "GiB": PositiveMemory}


class HoldingSection(Section):
    """A section with resources other than cores (`with_resources`)."""

    def given(self) -> dict[str, Any]:
        """As of a section; the accelerators as what can be sent to other processes."""
        found = super().given()
        if "accelerators" in found:
            found["accelerators"] = dict(sorted(found["accelerators"].items()))
        return found


def _maybe(kind: Any) -> Any:
    return Maybe[kind]  # type: ignore[misc]


def with_resources(
    keys: type[Section], description: str | None = None, of_accelerators: str | None = None
) -> type[Section]:
    """The section with a further key for each resource other than cores, and `accelerators`."""
    found: dict[str, Any] = {
        each.attribute: (_maybe(AMOUNTS[each.unit]), Field(None, alias=each.name, description=description))
        for each in BESIDE_CORES
    }
    found["accelerators"] = (
        _maybe(Accelerators),
        Field(None, exclude_if=not_, description=of_accelerators or description),
    )
    return create_model(f"{keys.__name__}OfResources", __base__=(keys, HoldingSection), **found)


def _priced() -> type[Section]:
    found: dict[str, Any] = {
        each.name: (_maybe(Price), Field(None, description=f"Of one {each.unit.removesuffix('s')}."))
        for each in DIMENSIONS
    }
    found["accelerators"] = (
        _maybe(AcceleratorPrices),
        Field(None, description="Of one accelerator of the kind."),
    )
    return create_model("PricesOfResources", __base__=Section, **found)


class PricesSection(_priced()):  # type: ignore[misc]
    """`prices:`."""

    def build(self) -> Prices:
        """The prices by name; what is absent costs nothing."""
        given = self.given()
        kinds = dict(given.pop("accelerators", {}))
        return Prices(given | kinds, is_money=True)

    @classmethod
    def of(cls, value: Prices, **fields: Any) -> Self:
        """The section of prices in money."""
        named: dict[str, Any] = {name: value.each.get(name) for name in cls.model_fields if name in BY_NAME}
        kinds = {kind: price for kind, price in value.each.items() if kind not in BY_NAME}
        made: Self = cls.model_construct(**named, accelerators=kinds or None)
        return made
