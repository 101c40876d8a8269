"""Forms of values in files: the units, bounds and words that the fields of dataclasses carry.

A field's annotation has its form, as in `latency_s: PositiveDuration`; `ipa.files.forms` reads, writes and
describes files by these forms. The text under a field is its description in the published schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any

# JSON Schema's `$` means the end; in Python it also means "before a last newline".
END = r"$(?!\n)"


class RefusedError(ValueError):
    """The error of a `make` whose text follows the field's name and value in the message."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping: the field that it sets, its form, and a value at which it is not written."""

    field: str
    form: ValueForm
    is_required: bool = False
    left_out: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class ValueForm:
    """The form of a value in a file.

    `schema` has the keywords of JSON Schema, those of entries and keys as forms; each applies to values of
    its own type, so a value may have several types. `make` turns a checked value into the model's
    (ValueError: invalid), `write` the model's into the file's. `keys` are the known keys of a mapping; `name`
    is its place in the published schema. With `as_written`, `make` receives the text of a number as it is in
    the file.
    """

    schema: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None
    keys: Mapping[str, Key] | None = None
    name: str = ""
    model: type | None = None
    as_written: bool = False

    def but(self, **keywords: Any) -> ValueForm:
        """The form with these keywords of its schema added or replaced."""
        return replace(self, schema={**self.schema, **keywords})


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]{1,2})?) ?([A-Za-z]+)")


@dataclass(frozen=True, eq=False)
class Quantity:
    """A kind of quantity in text: its name, its description, and its units in terms of the model's.

    Decimal arithmetic makes "227.1ms" and "0.2271s" the same float, and reads back every text it writes.
    """

    word: str
    title: str
    units: Mapping[str, Decimal]

    def parse(self, text: Any) -> float:
        """The value in the model's unit; ValueError for anything but a text with one of the units."""
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in self.units:
            raise ValueError(f"{text!r} is not a number with one of the units {', '.join(self.units)}")
        return float(Decimal(match[1]) * self.units[match[2]])

    def write(self, value: float) -> str:
        """The text that `parse` reads back as this float, in the model's unit; a duration below 1 s in ms."""
        number = Decimal(repr(float(value)))
        is_small = "ms" in self.units and 0 < number < 1
        unit = "ms" if is_small else next(name for name, factor in self.units.items() if factor == 1)
        text = f"{number / self.units[unit]:f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"

    def form(self, *, is_positive: bool = True, most: float = float("inf"), words: str = "") -> ValueForm:
        """The form of such a text; `words` name the quantity that is at most `most`."""

        def make(text: str) -> float:
            value = self.parse(text)
            if is_positive and value == 0:
                raise RefusedError("; it must be greater than zero")
            if value > most:
                raise RefusedError(f"; it must be at most {words}")
            return value

        pattern = rf"^[0-9]+(\.[0-9]+)?(e-?[0-9]{{1,2}})? ?({'|'.join(self.units)}){END}"
        schema = {"title": self.title, "type": "string", "pattern": pattern, "x-quantity": self.word}
        return ValueForm(schema, make, self.write)


DURATION = Quantity(
    "duration",
    'a duration with its unit, such as "500ms", "2s" or "1.5min"',
    {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60)},
)
RATE = Quantity("rate", 'a rate with its unit, such as "20rps"', {"rps": Decimal(1)})
MEMORY = Quantity(
    "memory",
    'a size with its unit, such as "512MiB" or "1.5GiB"',
    {"MiB": Decimal(1) / 1024, "GiB": Decimal(1)},
)


def format_number(value: float) -> int | float:
    """The number as files write it: 4 rather than 4.0."""
    return int(value) if float(value).is_integer() else float(value)


def text(pattern: str, title: str) -> ValueForm:
    """Text that matches the pattern."""
    return ValueForm({"title": title, "type": "string", "pattern": f"^{pattern}{END}"})


def entries(of: ValueForm, most: int, least: int = 1, **keywords: Any) -> ValueForm:
    """A list of such values, a tuple in the model."""
    schema = {"type": "array", "items": of, "minItems": least, "maxItems": most}
    return ValueForm({**schema, **keywords}, tuple)


def mapping(keys: ValueForm, of: ValueForm, most: int = 100, least: int = 1, **keywords: Any) -> ValueForm:
    """A mapping with any keys of that form, and values of one form."""
    schema = {"type": "object", "propertyNames": keys, "additionalProperties": of}
    return ValueForm(
        {**schema, "minProperties": least, "maxProperties": most, **keywords},
        MappingProxyType,
    )


def _day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise RefusedError(", a day that does not exist") from None


ANY = ValueForm()
BOOLEAN = ValueForm({"type": "boolean"})
NUMBER = ValueForm({"type": "number"}, float, format_number)
POSITIVE = NUMBER.but(exclusiveMinimum=0)
WHOLE = ValueForm({"type": "integer"})
TEXT = ValueForm({"type": "string", "maxLength": 10_000})
NAME = text(
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a DNS-1123 name: lower-case letters, digits and '-', at most 63"
)
VARIANT_NAME = text(
    "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?",
    "a name of letters, digits, '.', '_' and '-', at most 128",
)
# The name of a Kubernetes extended resource.
ACCELERATOR_KIND = r"[a-z0-9.-]{1,253}/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
KIND = text(
    ACCELERATOR_KIND,
    "the name of a Kubernetes extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.5gb",
)
PRICE = NUMBER.but(minimum=0, maximum=1_000_000)
# A list in which no entry is twice.
UNIQUE = {"uniqueItems": True}

PositiveNumber = Annotated[float, POSITIVE]
NonNegative = Annotated[float, NUMBER.but(minimum=0)]
Margin = Annotated[float, NUMBER.but(exclusiveMinimum=-1)]
Fraction = Annotated[float, ValueForm({"type": "number", "minimum": 0, "maximum": 1}, float)]
Count = Annotated[int, WHOLE.but(minimum=1)]
BatchSize = Annotated[int, WHOLE.but(minimum=1, maximum=4096)]
BatchSizes = Annotated[
    tuple[int, ...],
    replace(
        entries(WHOLE.but(minimum=1, maximum=4096), 100, **UNIQUE),
        make=lambda sizes: tuple(sorted(sizes)),
    ),
]
Name = Annotated[str, NAME]
VariantName = Annotated[str, VARIANT_NAME]
Line = Annotated[str, TEXT.but(title="a few words", minLength=1)]
_DAY = text("[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date such as 2026-11-24").but(examples=["2026-11-24"])
Day = Annotated[date, replace(_DAY, make=_day, write=str)]
Duration = Annotated[float, DURATION.form(is_positive=False)]
PositiveDuration = Annotated[float, DURATION.form()]
ShortDuration = Annotated[float, DURATION.form(most=60, words="a minute")]
Rate = Annotated[float, RATE.form(is_positive=False)]
PositiveRate = Annotated[float, RATE.form()]
PositiveMemory = Annotated[float, MEMORY.form()]
Accelerators = Annotated[
    Mapping[str, float],
    replace(
        mapping(
            KIND,
            WHOLE.but(minimum=0, maximum=100_000),
            least=0,
            title="a count for each kind of accelerator",
        ),
        # A plain dict can be sent to other processes.
        make=lambda counts: dict(sorted(counts.items())),
    ),
]
