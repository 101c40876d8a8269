"""What `ipa profile` sends to one stage alone, and how right its answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.digits.data import canvases, crops

Item = list[dict[str, Any]]
Outputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class DigitsBench:
    """One row an item; right is an answer equal to the expected row."""

    name: str
    inputs: NDArray[np.float32]
    output: str
    expected: NDArray[Any]

    @property
    def items(self) -> list[Item]:
        """One image, or one piece of it, an item."""
        return [[tensor(self.name, row)] for row in self.inputs]

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The share of right answers to all items."""
        given = np.array([answer[self.output] for answer in answers], dtype=np.float32)
        return float(np.isclose(given, self.expected.reshape(given.shape)).all(axis=1).mean())


def workload(stage: str, seed: int) -> DigitsBench:
    """The items and the score of that stage: the test digits, each at one place that the seed draws."""
    test = canvases(training=False, placements=1, seed=seed)
    exact = crops(test.images, test.corners)
    if stage == "locate":
        return DigitsBench("image", test.images, "crop", exact)
    if stage == "classify":
        return DigitsBench("crop", exact, "digit", test.labels)
    raise ValueError(f"the digits pipeline has no stage {stage!r}")


def tensor(name: str, row: NDArray[np.float32]) -> dict[str, Any]:
    """The V2 tensor of one item."""
    return {"name": name, "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
