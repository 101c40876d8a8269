"""What `ipa profile` sends to one stage alone, and how right its answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from pipelines.ocr.client import box_tensor, image_tensor, lines
from pipelines.ocr.models import cut, decode
from pipelines.ocr.pages import Line, Page, make_pages
from pipelines.ocr.score import detection_f1, recognition_accuracy

PAGES = 60
# What a good detector leaves around the ink of a line.
CROP_MARGIN_PX = 3

Item = list[dict[str, Any]]
Outputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class DetectBench:
    """Whole pages; right is F1 of the boxes, the mean over pages."""

    pages: Sequence[Page]

    @property
    def items(self) -> list[Item]:
        """One page an item."""
        return [[image_tensor("image", [page.jpeg])] for page in self.pages]

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The mean F1 of the answers to all items."""
        return fmean(
            detection_f1(
                [line.box for line in page.lines],
                [found.box for found in lines([""] * (len(answer["crop"])), answer["box"])],
            )
            for page, answer in zip(self.pages, answers, strict=True)
        )


@dataclass(frozen=True, slots=True)
class RecogniseBench:
    """Lines cut out where they truly are; right is the character accuracy, the mean over lines."""

    lines: Sequence[tuple[Line, bytes]]

    @property
    def items(self) -> list[Item]:
        """One line an item."""
        return [[image_tensor("crop", [crop]), box_tensor([line.box])] for line, crop in self.lines]

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The mean character accuracy of the answers to all items."""
        return recognition_accuracy(
            [(line.text, answer["text"][0]) for (line, _), answer in zip(self.lines, answers, strict=True)]
        )


def workload(stage: str, seed: int) -> DetectBench | RecogniseBench:
    """The items and the score of that stage; ValueError for a stage that this pipeline does not have."""
    pages = make_pages(seed, PAGES)
    if stage == "detect":
        return DetectBench(pages)
    if stage == "recognise":
        return RecogniseBench([(line, _true_crop(page, line)) for page in pages for line in page.lines])
    raise ValueError(f"the OCR pipeline has no stage {stage!r}")


def _true_crop(page: Page, line: Line) -> bytes:
    left, top, right, bottom = line.box
    near, far = (
        (left - CROP_MARGIN_PX, top - CROP_MARGIN_PX),
        (right + CROP_MARGIN_PX, bottom + CROP_MARGIN_PX),
    )
    corners = np.array([near, (far[0], near[1]), far, (near[0], far[1])], dtype=np.float32)
    return cut(decode(page.jpeg), corners)
