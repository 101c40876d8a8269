"""The two stages as model servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ipa.dataplane.runtime import StageRuntime, Tensor, TensorSpec
from pipelines.digits.data import crops
from pipelines.digits.train import load_model


class Locate(StageRuntime):
    """`image` FP32 [n, 256] → `crop` FP32 [n, 64]."""

    takes = (TensorSpec("image", "FP32", (256,)),)
    gives = (TensorSpec("crop", "FP32", (64,)),)

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the variant that `model` names."""
        self._model = load_model("locate", parameters["model"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The piece of each canvas that holds the digit."""
        images = np.asarray(inputs["image"], dtype=np.float32)
        corners = np.rint(self._model.predict(images)).astype(np.int64)
        return {"crop": crops(images, corners)}


class Classify(StageRuntime):
    """`crop` FP32 [n, 64] → `digit` INT64 [n]."""

    takes = (TensorSpec("crop", "FP32", (64,)),)
    gives = (TensorSpec("digit", "INT64"),)

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the variant that `model` names."""
        self._model = load_model("classify", parameters["model"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The digit on each piece."""
        crop = np.asarray(inputs["crop"], dtype=np.float32)
        return {"digit": self._model.predict(crop).astype(np.int64)}
