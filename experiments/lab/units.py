"""A run and what comes of it: the unit of work of every experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One run: what tells it from the others (its first columns in the results), and all that it needs.

    Both are plain JSON values; `weight` is how long it takes against others.
    """

    labels: Mapping[str, str | int | float]
    payload: Mapping[str, Any]
    weight: float = 1.0

    @property
    def title(self) -> str:
        """The labels as people read them."""
        values = self.labels.values()
        return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)

    def digest(self, made_with: str) -> str:
        """What its result is filed under: another payload or another code is another run."""
        text = json.dumps([made_with, self.labels, self.payload], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave: its figures (one row), a table by tick, and times that no two runs have alike."""

    row: Row
    ticks: Columns = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; floats read back as they are."""
        return {
            "row": dict(self.row),
            "ticks": {key: list(values) for key, values in self.ticks.items()},
            "timings": dict(self.timings),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` gave."""
        return Outcome(data["row"], data["ticks"], data["timings"])


@dataclass(frozen=True, slots=True)
class Finished:
    """A unit and its outcome."""

    unit: Unit
    outcome: Outcome

    @property
    def row(self) -> Row:
        """Labels and figures as one row."""
        return {**self.unit.labels, **self.outcome.row}
