"""How right an answer is, so that the product of the stages' accuracies predicts the whole.

- detection: F1 of a page. A box found counts once, for the true line it overlaps most, from an
  intersection over union of 0.5 on.
- recognition: character accuracy of a line, 1 − edit distance / the longer of both texts.
- page (end to end): the F1 in which a line found counts for its character accuracy instead of for 1,
  2·Σ character accuracy / (true lines + boxes found). Lines missed and boxes of nothing both cost. So it is
  detection F1 × the mean character accuracy of the lines found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from pipelines.ocr.pages import Line

Box = tuple[float, float, float, float]
MIN_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of an answer: the box and what was read in it."""

    box: Box
    text: str


def page_accuracy(truth: Sequence[Line], answers: Sequence[Answer]) -> float:
    """The accuracy of a whole page, 0 .. 1; a page without lines and without answers is right."""
    pairs = match([line.box for line in truth], [answer.box for answer in answers])
    right = sum(character_accuracy(truth[left].text, answers[found].text) for left, found in pairs)
    return _f1(right, len(truth), len(answers))


def detection_f1(truth: Sequence[Box], found: Sequence[Box]) -> float:
    """The F1 of the boxes of one page, 0 .. 1."""
    return _f1(len(match(truth, found)), len(truth), len(found))


def recognition_accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    """The mean character accuracy of (true text, text read)."""
    return fmean(character_accuracy(true, read) for true, read in pairs)


def character_accuracy(true: str, read: str) -> float:
    """1 − edit distance / the longer length, 0 .. 1."""
    longer = max(len(true), len(read))
    return 1.0 - edit_distance(true, read) / longer if longer else 1.0


def edit_distance(left: str, right: str) -> int:
    """The least number of letters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(right) + 1))
    for place, letter in enumerate(left, start=1):
        above, row[0] = row[0], place
        for column, other in enumerate(right, start=1):
            above, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, above + (letter != other)),
            )
    return row[-1]


def match(truth: Sequence[Box], found: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs (place in truth, place in found) that overlap enough, the best pairs first, each place once."""
    overlaps = sorted(
        ((overlap(a, b), i, j) for i, a in enumerate(truth) for j, b in enumerate(found)), reverse=True
    )
    pairs: list[tuple[int, int]] = []
    taken_truth: set[int] = set()
    taken_found: set[int] = set()
    for ratio, i, j in overlaps:
        if ratio < MIN_OVERLAP:
            break
        if i not in taken_truth and j not in taken_found:
            taken_truth.add(i)
            taken_found.add(j)
            pairs.append((i, j))
    return pairs


def overlap(left: Box, right: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    across = min(left[2], right[2]) - max(left[0], right[0])
    down = min(left[3], right[3]) - max(left[1], right[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return shared / (_area(left) + _area(right) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _f1(right: float, true: int, found: int) -> float:
    return 2.0 * right / (true + found) if true + found else 1.0
