"""Scores of the OCR pipeline, on answers whose score is known."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ocr.client import page_bodies, read_answer, score_answer
from pipelines.ocr.pages import HEIGHT_PX, MAX_LINES, MIN_LINES, WIDTH_PX, Line, make_page, make_pages
from pipelines.ocr.score import (
    Answer,
    character_accuracy,
    detection_f1,
    edit_distance,
    match,
    overlap,
    page_accuracy,
)

ABOVE, BELOW = (10.0, 10.0, 110.0, 30.0), (10.0, 60.0, 110.0, 80.0)
LINES = (Line("invoice", ABOVE), Line("total 12", BELOW))
texts = st.text("abc", max_size=8)
boxes = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


def v2(texts: list[str], boxes: list[float]) -> dict[str, object]:
    return {"outputs": [{"name": "text", "data": texts}, {"name": "box", "data": boxes}]}


@pytest.mark.parametrize(
    ("left", "right", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)]
)
def test_edit_distance(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == distance


@given(texts, texts, texts)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert 0.0 <= character_accuracy(a, b) <= 1.0


@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
def test_every_box_is_matched_once_at_most_and_only_to_what_it_overlaps(
    truth: list[tuple[float, float, float, float]], detected: list[tuple[float, float, float, float]]
) -> None:
    pairs = match(truth, detected)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(overlap(truth[i], detected[j]) >= 0.5 for i, j in pairs)
    assert 0.0 <= detection_f1(truth, detected) <= 1.0
    assert detection_f1(truth, detected) == detection_f1(detected, truth)


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0


def test_a_page_counts_lines_missed_misread_and_made_up() -> None:
    perfect = [Answer(line.box, line.text) for line in LINES]
    nothing = Answer((300.0, 300.0, 400.0, 320.0), "nothing")
    assert page_accuracy(LINES, perfect) == 1.0
    assert page_accuracy(LINES, perfect[:1]) == pytest.approx(2 / 3)
    assert page_accuracy(LINES, [*perfect, nothing]) == pytest.approx(4 / 5)
    assert page_accuracy(LINES, [perfect[0], Answer(BELOW, "total")]) == pytest.approx((1 + 5 / 8) / 2)
    assert page_accuracy((), []) == 1.0


def test_page_accuracy_is_detection_f1_times_the_accuracy_of_the_lines_found() -> None:
    answers = [Answer(ABOVE, "invoide"), Answer((0.0, 200.0, 50.0, 220.0), "x")]
    f1 = detection_f1([line.box for line in LINES], [answer.box for answer in answers])
    assert page_accuracy(LINES, answers) == pytest.approx(f1 * character_accuracy("invoice", "invoide"))


def test_pages_are_the_same_for_the_same_seed_and_hold_what_they_say() -> None:
    assert make_page(3) == make_page(3)
    pages = make_pages(2, 6)
    assert len({page.jpeg for page in pages}) == 6
    for page in pages:
        assert MIN_LINES <= len(page.lines) <= MAX_LINES
        for line in page.lines:
            left, top, right, bottom = line.box
            assert 0 <= left < right <= WIDTH_PX and 0 <= top < bottom <= HEIGHT_PX
        tops = [line.box[1] for line in page.lines]
        assert tops == sorted(tops)


def test_a_request_holds_one_page_and_its_answer_is_scored() -> None:
    body = json.loads(page_bodies(2, 1)[0])
    assert [(it["name"], it["datatype"], it["shape"]) for it in body["inputs"]] == [("image", "BYTES", [1])]
    page = make_pages(2, 1)[0]
    flat = [value for line in page.lines for value in line.box]
    assert score_answer(2, 1, 0, v2([line.text for line in page.lines], flat)) == 1.0
    assert score_answer(2, 1, 0, v2([], [])) == 0.0


def test_boxes_of_an_answer_may_be_nested_and_must_go_with_the_texts() -> None:
    nested = {"outputs": [{"name": "text", "data": ["a"]}, {"name": "box", "data": [[1, 2, 3, 4]]}]}
    assert read_answer(nested) == [Answer((1.0, 2.0, 3.0, 4.0), "a")]
    with pytest.raises(ValueError, match="1 texts do not go with 3 box values"):
        read_answer(v2(["a"], [1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="not text and box"):
        read_answer({"outputs": []})
