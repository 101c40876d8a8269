"""The cells measured together: problems of one size, accuracy rule and latency formula."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ipa.model.pipeline import AccuracyRule
from ipa.optimize.problem import Compat


@dataclass(frozen=True, slots=True)
class Cell:
    """Problems of one size; `batches` and `cores` count the sizes that a replica may have."""

    stages: int
    variants: int
    batches: int = 7
    cores: int = 1
    accuracy: AccuracyRule = AccuracyRule.PRODUCT
    compat: Compat = Compat.PAPER

    def to_json(self) -> dict[str, Any]:
        """The cell as plain JSON values."""
        return {**asdict(self), "accuracy": self.accuracy.value, "compat": self.compat.value}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Cell:
        """The cell that `to_json` wrote."""
        kinds = {"accuracy": AccuracyRule(data["accuracy"]), "compat": Compat(data["compat"])}
        return Cell(**{**data, **kinds})

    def __str__(self) -> str:
        size = f"{self.stages}×{self.variants}×{self.batches}×{self.cores}"
        return f"{size} {self.accuracy.value} {self.compat.value}"
