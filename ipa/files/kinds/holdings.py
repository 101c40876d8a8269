"""The keys of resources in files: one for each of `DIMENSIONS`, and `accelerators`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import not_
from typing import Any, Self

from pydantic import Field, create_model

from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import (
    AcceleratorPrices,
    Accelerators,
    Maybe,
    PositiveMemory,
    PositiveNumber,
    Price,
)
from ipa.model.resources import BESIDE_CORES, BY_NAME, DIMENSIONS, Prices

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
