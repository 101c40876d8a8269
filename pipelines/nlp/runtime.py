"""The three stages as MLServer models, each handing on what a later one needs.

MLServer's own Hugging Face runtime answers under one output name, and forgets the text that it was asked
about: the next stage could not take its answer as a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.dataplane.runtime import StageRuntime, Tensor, TensorSpec
from pipelines.nlp.models import Classifier, TextToText

# As language identification models call French, which the translations are from.
FRENCH = frozenset({"fr", "fra", "french"})
ENGLISH = "en"


class Identify(StageRuntime):
    """`text` BYTES [n] → `text` handed on, `language` BYTES [n]."""

    takes = (TensorSpec("text", "BYTES"),)
    gives = (
        TensorSpec("text", "BYTES"),
        TensorSpec("language", "BYTES"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the classifier that `model` names."""
        self._classifier = Classifier(parameters["model"], self.threads)

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The language of each text, by the model's label."""
        texts = [str(text) for text in inputs["text"]]
        return {"text": texts, "language": self._classifier(texts)}


class Translate(StageRuntime):
    """`text` and `language` BYTES [n] → both: English where the text was French, else as they came."""

    takes = (
        TensorSpec("text", "BYTES"),
        TensorSpec("language", "BYTES"),
    )
    gives = (
        TensorSpec("text", "BYTES"),
        TensorSpec("language", "BYTES"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the translator that `model` names."""
        self._translator = TextToText(parameters["model"], self.threads)

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The texts with the French ones in English; these are translated together."""
        texts = [str(text) for text in inputs["text"]]
        languages = [str(language) for language in inputs["language"]]
        french = [place for place, language in enumerate(languages) if language.lower() in FRENCH]
        for place, translated in zip(french, self._translator([texts[it] for it in french]), strict=True):
            texts[place], languages[place] = translated, ENGLISH
        return {"text": texts, "language": languages}


class Summarise(StageRuntime):
    """`text` BYTES [n], and `language`, which is not read → `text` handed on, `summary` BYTES [n]."""

    takes = (TensorSpec("text", "BYTES"),)
    gives = (
        TensorSpec("text", "BYTES"),
        TensorSpec("summary", "BYTES"),
    )

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the model of summaries that `model` names."""
        self._summariser = TextToText(parameters["model"], self.threads)

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The summary of each text."""
        texts = [str(text) for text in inputs["text"]]
        return {"text": texts, "summary": self._summariser(texts)}
