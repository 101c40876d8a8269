"""The two stages as MLServer models."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import cv2
import numpy as np

from ipa.dataplane.runtime import StageRuntime, Tensor, TensorSpec
from pipelines.ocr.models import Detector, Recogniser
from pipelines.ocr.pages import make_page

# Lines a page has on average: what the recogniser is warmed up with.
WARM_LINES = 6


class Detect(StageRuntime):
    """`image` (JPEG or PNG) to one `crop` and `box` a line found; `fan_out` says how many each page has.

    Parameters: `generation` (v4, v6) and `size_px`, the longer side of the network's input.
    """

    takes = (TensorSpec("image", "BYTES", content_type="base64"),)
    gives = (
        TensorSpec("crop", "BYTES", content_type="base64"),
        TensorSpec("box", "FP32", (4,)),
        TensorSpec("fan_out", "INT64"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the weights and run them once, since the first run allocates."""
        cv2.setNumThreads(self.threads)
        self._detector = Detector(parameters["generation"], int(parameters["size_px"]), self.threads)
        self._detector([make_page(0).jpeg])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The lines of every page."""
        found = self._detector([bytes(page) for page in inputs["image"]])
        lines = list(chain.from_iterable(found))
        return {
            "crop": [line.crop for line in lines],
            "box": np.array([line.box for line in lines], dtype=np.float32).reshape(-1, 4),
            "fan_out": np.array([len(page) for page in found], dtype=np.int64),
        }


class Recognise(StageRuntime):
    """`crop` (JPEG or PNG) and `box` to the `text` and its `score`; the box is handed on.

    Parameters: `generation` (v4, v6) and `size_px`, the width of the network's input.
    """

    takes = (
        TensorSpec("crop", "BYTES", content_type="base64"),
        TensorSpec("box", "FP32", (4,)),
    )
    gives = (
        TensorSpec("text", "BYTES"),
        TensorSpec("box", "FP32", (4,)),
        TensorSpec("score", "FP32"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the weights and run them once, since the first run allocates."""
        cv2.setNumThreads(self.threads)
        self._recogniser = Recogniser(parameters["generation"], int(parameters["size_px"]), self.threads)
        self._recogniser([make_page(0).jpeg] * WARM_LINES)

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The text of every line."""
        read = self._recogniser([bytes(crop) for crop in inputs["crop"]])
        return {
            "text": [line.text for line in read],
            "box": np.asarray(inputs["box"], dtype=np.float32),
            "score": np.array([line.score for line in read], dtype=np.float32),
        }
