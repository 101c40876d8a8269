"""Metadata of dataclass fields about their form in records (`ipa.control.canonical`), and cache keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Keys of a field's metadata.
RECORDED_AS = "recorded_as"
RECORDED_BESIDE = "recorded_beside"
RECORDED_UNLESS_DEFAULT = "recorded_unless_default"
NOT_RECORDED = "not_recorded"

# A field younger than some records: records lack it at its default, so that equal values keep their digest.
UNLESS_DEFAULT = {RECORDED_UNLESS_DEFAULT: True}
# A field that follows from values with a digest of their own, such as a pipeline's figures from its profiles.
NEVER = {NOT_RECORDED: True}
# A mapping whose entries are recorded beside the other fields, as they were before a target was a plug-in.
BESIDE_OTHERS = {RECORDED_BESIDE: True}


def recorded_as(name: str) -> dict[str, str]:
    """The metadata of a field that has another name in records, as older versions wrote it."""
    return {RECORDED_AS: name}


@dataclass(frozen=True, slots=True, eq=False)
class ById:
    """A key that is equal only for the same object. It holds the object, so that its id is not reused."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value
