"""What `ipa profile` sends to one stage alone, and how right its answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.digits.data import canvases, crops
from pipelines.digits.train import CLASSIFY, kept, load_model

Item = list[dict[str, Any]]
Outputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class DigitsBench:
    """One row an item, and the score of all answers."""

    name: str
    inputs: NDArray[np.float32]
    output: str
    score: Callable[[NDArray[np.float32]], float]

    @property
    def items(self) -> list[Item]:
        """One image, or one piece of it, an item."""
        return [[tensor(self.name, row)] for row in self.inputs]

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The accuracy of the answers to all items."""
        return self.score(np.array([answer[self.output] for answer in answers], dtype=np.float32))


def workload(stage: str, seed: int) -> DigitsBench:
    """The items and the score of that stage: the test digits, each at one place that the seed draws.

    Classifying is scored on exact crops, locating by what the classifiers make of its crops.
    """
    test = canvases(training=False, placements=1, seed=seed)
    exact = crops(test.images, test.corners)
    if stage == "locate":

        def score(given: NDArray[np.float32]) -> float:
            # Only here: who just sends the items needs no model.
            classifiers = [load_model("classify", variant) for variant in CLASSIFY]
            return kept(classifiers, given, exact, test.labels)

        return DigitsBench("image", test.images, "crop", score)
    if stage == "classify":
        return DigitsBench("crop", exact, "digit", lambda given: float((given.ravel() == test.labels).mean()))
    raise ValueError(f"the digits pipeline has no stage {stage!r}")


def tensor(name: str, row: NDArray[np.float32]) -> dict[str, Any]:
    """The V2 tensor of one item."""
    return {"name": name, "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
