"""The models of the stages over transformers and PyTorch: texts in, labels or texts out, one for each.

A model is a folder with its files, or the name of one that lies in the cache of the Hugging Face hub
(HF_HOME). Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipa.model.errors import NotFoundError

# Beyond it a text is cut: the longest that any of the shipped variants reads.
MOST_TOKENS = 512
# Of an answer; the fine-tuned summaries (XSum) are one sentence.
MOST_NEW_TOKENS = 128


class Classifier:
    """A label for each text."""

    def __init__(self, model: str, threads: int) -> None:
        self._tokenizer, self._model = _loaded("AutoModelForSequenceClassification", model, threads)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The most likely label of each text, by the name that the model gives it."""
        import torch

        if not texts:
            return []
        with torch.inference_mode():
            scores = self._model(**_tokens(self._tokenizer, self._model, texts)).logits
        return [str(self._model.config.id2label[int(best)]) for best in scores.argmax(dim=-1)]


class TextToText:
    """A text for each text: a translation or a summary."""

    def __init__(self, model: str, threads: int) -> None:
        self._tokenizer, self._model = _loaded("AutoModelForSeq2SeqLM", model, threads)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The model's most likely text for each text, without sampling."""
        import torch

        if not texts:
            return []
        with torch.inference_mode():
            tokens = _tokens(self._tokenizer, self._model, texts)
            # The first place of an answer is taken by the token that it starts with.
            most = min(MOST_NEW_TOKENS, _positions(self._model) - 1)
            made = self._model.generate(**tokens, do_sample=False, max_new_tokens=most)
        return [str(text) for text in self._tokenizer.batch_decode(made, skip_special_tokens=True)]


def _tokens(tokenizer: Any, model: Any, texts: Sequence[str]) -> dict[str, Any]:
    """The texts as padded tensors, cut where the model reads no further."""
    most = min(MOST_TOKENS, _positions(model))
    found = tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
    # The models take no others.
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def _positions(model: Any) -> int:
    """The most tokens that the model reads or writes."""
    return int(getattr(model.config, "max_position_embeddings", MOST_TOKENS))


def _loaded(kind: str, model: str, threads: int) -> tuple[Any, Any]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
        loaded = getattr(transformers, kind).from_pretrained(model, local_files_only=True)
    except OSError as error:
        raise NotFoundError(
            f"the model {model!r} is not on this machine: {error}",
            hint="Give a folder with its files, or put it into the cache that HF_HOME names.",
        ) from error
    return tokenizer, loaded.eval()
