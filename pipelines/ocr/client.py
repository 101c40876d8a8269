"""Asking the pipeline: a page as a request body, and the lines of an answer with their accuracy."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pipelines.ocr.pages import Page, make_pages
from pipelines.ocr.score import Answer, page_accuracy

BOX_VALUES = 4


def image_tensor(name: str, pictures: Sequence[bytes]) -> dict[str, Any]:
    """Pictures as a V2 input of that name, one an item."""
    return {
        "name": name,
        "datatype": "BYTES",
        "shape": [len(pictures)],
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(picture).decode("ascii") for picture in pictures],
    }


def box_tensor(boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Boxes as the V2 input `box`, one an item."""
    values = [float(value) for box in boxes for value in box]
    return {"name": "box", "datatype": "FP32", "shape": [len(boxes), BOX_VALUES], "data": values}


def request_body(pages: Sequence[bytes]) -> bytes:
    """A V2 request that asks for the text of these pages (JPEG or PNG)."""
    return json.dumps({"inputs": [image_tensor("image", pages)]}).encode()


def page_bodies(seed: int, count: int) -> list[bytes]:
    """One request a page of `make_pages(seed, count)`."""
    return [request_body([page.jpeg]) for page in make_pages(seed, count)]


def read_answer(answer: Mapping[str, Any]) -> list[Answer]:
    """The lines of a V2 answer to one page; ValueError where it is not one."""
    outputs = {output["name"]: output["data"] for output in answer.get("outputs", [])}
    if not outputs.keys() >= {"text", "box"}:
        raise ValueError(f"the answer has the outputs {sorted(outputs)}, not text and box")
    return lines(outputs["text"], outputs["box"])


def lines(texts: Sequence[str], boxes: Sequence[Any]) -> list[Answer]:
    """Texts with their boxes; those may be flat or nested, as V2 allows."""
    flat: list[float] = []
    for value in boxes:
        flat.extend(value if isinstance(value, list) else [value])
    if len(flat) != BOX_VALUES * len(texts):
        raise ValueError(f"{len(texts)} texts do not go with {len(flat)} box values")
    quads = zip(*(flat[place::BOX_VALUES] for place in range(BOX_VALUES)), strict=True)
    return [
        Answer((left, top, right, bottom), text)
        for text, (left, top, right, bottom) in zip(texts, quads, strict=True)
    ]


def score_answer(seed: int, count: int, number: int, answer: Mapping[str, Any]) -> float:
    """The accuracy, 0 .. 1, of a V2 answer to page `number` of `make_pages(seed, count)`."""
    return page_accuracy(_pool(seed, count)[number].lines, read_answer(answer))


@cache
def _pool(seed: int, count: int) -> list[Page]:
    return make_pages(seed, count)
