"""The three stages as model servers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ipa.dataplane.runtime import StageRuntime, Tensor, TensorSpec
from pipelines.text.train import load_model


class Extract(StageRuntime):
    """`passage` BYTES [n] → `prose` BYTES [n], its lines that are no code."""

    takes = (TensorSpec("passage", "BYTES"),)
    gives = (TensorSpec("prose", "BYTES"),)

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the variant that `model` names."""
        self._model = load_model("extract", parameters["model"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The lines of each passage that are prose. All lines of a batch are told apart at once."""
        passages = [str(passage).splitlines() or [""] for passage in inputs["passage"]]
        told = iter(self._model.predict([line for lines in passages for line in lines]))
        return {
            "prose": [
                "\n".join(
                    line for line, is_prose in zip(lines, islice(told, len(lines)), strict=True) if is_prose
                )
                for lines in passages
            ]
        }


class Topic(StageRuntime):
    """`prose` BYTES [n] → `prose` handed on, `topic` BYTES [n], the module that it documents."""

    takes = (TensorSpec("prose", "BYTES"),)
    gives = (
        TensorSpec("prose", "BYTES"),
        TensorSpec("topic", "BYTES"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the variant that `model` names."""
        self._model = load_model("topic", parameters["model"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The topic of each text."""
        prose = [str(text) for text in inputs["prose"]]
        return {"prose": prose, "topic": list(self._model.predict(prose))}


class Answer(StageRuntime):
    """`prose` and `topic` BYTES [n] → both handed on, `answer` BYTES [n], likely names, spaces between."""

    takes = (
        TensorSpec("prose", "BYTES"),
        TensorSpec("topic", "BYTES"),
    )
    gives = (
        TensorSpec("prose", "BYTES"),
        TensorSpec("topic", "BYTES"),
        TensorSpec("answer", "BYTES"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the variant that `model` names."""
        self._model = load_model("answer", parameters["model"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The names within the topic that each text may document."""
        prose, topic = [str(text) for text in inputs["prose"]], [str(name) for name in inputs["topic"]]
        return {
            "prose": prose,
            "topic": topic,
            "answer": [" ".join(names) for names in self._model.suggest(prose, topic)],
        }
