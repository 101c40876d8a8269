"""The requests that `ipa profile` and the benchmarks send, and the accuracy of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.text.data import Passage, passages
from pipelines.text.models import lines_f1

Item = list[dict[str, Any]]
Outputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class TextBench:
    """One passage an item."""

    passages: Sequence[Passage]
    request: Callable[[Passage], Item]
    score: Callable[[Passage, Outputs], float]

    @property
    def items(self) -> list[Item]:
        """The inputs of the stage for each passage."""
        return [self.request(it) for it in self.passages]

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The mean score of the answers to all items."""
        return fmean(self.score(it, answer) for it, answer in zip(self.passages, answers, strict=True))


def workload(stage: str, seed: int) -> TextBench:
    """The items and the score of that stage: a passage of each object, from lines that no model learnt."""
    test = passages(training=False, draws=1, seed=seed)
    if stage == "extract":
        return TextBench(test, passage_request, prose_f1)
    if stage == "topic":
        return TextBench(test, lambda it: [text("prose", it.prose)], topic_accuracy)
    if stage == "answer":
        return TextBench(test, lambda it: [text("prose", it.prose), text("topic", it.topic)], answer_accuracy)
    raise ValueError(f"the text pipeline has no stage {stage!r}")


def passage_request(passage: Passage) -> Item:
    """The inputs of the pipeline for one passage."""
    return [text("passage", passage.text)]


def pipeline_accuracy(passage: Passage, outputs: Outputs) -> float:
    """The accuracy of the whole, 0 .. 1: F1 of the prose × right topic × truth among the names suggested.

    So that the product of the stages' accuracies predicts it.
    """
    right = topic_accuracy(passage, outputs) * answer_accuracy(passage, outputs)
    return prose_f1(passage, outputs) * right


def prose_f1(passage: Passage, outputs: Outputs) -> float:
    """The F1 of the lines told to be prose."""
    told = set(outputs["prose"][0].splitlines())
    return lines_f1(passage.is_prose, [line in told for line in passage.lines])


def topic_accuracy(passage: Passage, outputs: Outputs) -> float:
    """1 if the topic is right, else 0."""
    return float(outputs["topic"][0] == passage.topic)


def answer_accuracy(passage: Passage, outputs: Outputs) -> float:
    """1 if the truth is among the names suggested, else 0."""
    return float(passage.name in outputs["answer"][0].split())


def text(name: str, value: str) -> dict[str, Any]:
    """The V2 tensor of one text."""
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}
