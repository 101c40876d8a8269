"""A stage that answers each item with as many rows as it says, and the stage after it, as MLServer models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ipa.dataplane.runtime import StageRuntime, Tensor

# The rows of an item are its number times this, plus the place of each row.
STRIDE = 100


class Detect(StageRuntime):
    """Item n has n % 4 + 1 rows: `row`, whose values say which item they are of, and `fan_out`."""

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        items = [int(item) for item in np.asarray(inputs["item"]).ravel()]
        rows = [row for item in items for row in rows_of(item)]
        counts = [len(rows_of(item)) for item in items]
        return {"row": np.array(rows, dtype=np.int64), "fan_out": np.array(counts, dtype=np.int64)}


class Read(StageRuntime):
    """Hands each row on; it has no use for `fan_out`, and refuses inputs of different length."""

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        lengths = {name: len(tensor) for name, tensor in inputs.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"inputs differ in length: {lengths}")
        return {"row": np.asarray(inputs["row"])}


def rows_of(item: int) -> list[int]:
    """The rows that are right for the item."""
    return [item * STRIDE + place for place in range(item % 4 + 1)]
