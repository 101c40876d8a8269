"""Quantities with their units: "500ms", "20rps", "1GiB".

Decimal arithmetic, so that "227.1ms" and "0.2271s" are the same float and what is written reads back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]{1,2})?) ?([A-Za-z]+)")


@dataclass(frozen=True, eq=False)
class Quantity:
    """A kind of quantity in text: its name, words for it, and its units in terms of the model's.

    As an annotation of a field it is read from text and written as text.
    """

    word: str
    title: str
    units: Mapping[str, Decimal]

    def parse(self, text: Any) -> float:
        """The value in the model's unit; ValueError for anything but a text with one of the units."""
        found = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if found is None or found[2] not in self.units:
            raise ValueError(f"{text!r} is not a number with one of the units {', '.join(self.units)}")
        return float(Decimal(found[1]) * self.units[found[2]])

    def write(self, value: float) -> str:
        """The text that `parse` reads back as this float, in the model's unit; a duration below 1 s in ms."""
        number = Decimal(repr(float(value)))
        is_small = "ms" in self.units and 0 < number < 1
        unit = "ms" if is_small else next(name for name, factor in self.units.items() if factor == 1)
        text = f"{number / self.units[unit]:f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # JSON Schema's `$` means the end; in Python it also means "before a last newline".
        pattern = rf"^[0-9]+(\.[0-9]+)?(e-?[0-9]{{1,2}})? ?({'|'.join(self.units)})$(?!\n)"
        return {"title": self.title, "type": "string", "pattern": pattern, "x-quantity": self.word}


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
