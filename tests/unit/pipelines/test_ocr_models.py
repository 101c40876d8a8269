"""The OCR models on real weights: they find and read what is written on a page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from statistics import fmean

import numpy as np
import pytest

pytest.importorskip("rapidocr", reason="the weights of PP-OCRv6 are not installed (extra `demo`)")
pytest.importorskip("rapidocr_onnxruntime", reason="the weights of PP-OCRv4 are not installed (extra `demo`)")

from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

from pipelines.ocr import bench, models
from pipelines.ocr.client import image_tensor
from pipelines.ocr.pages import Page, make_pages
from pipelines.ocr.runtime import Detect, Recognise
from pipelines.ocr.score import Answer, detection_f1, page_accuracy, recognition_accuracy


@cache
def detector(generation: str) -> models.Detector:
    return models.Detector(generation, 480)


@cache
def recogniser(generation: str) -> models.Recogniser:
    return models.Recogniser(generation, 320)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return make_pages(11, 4)


@pytest.fixture(scope="module")
def detected(pages: list[Page]) -> list[list[models.Found]]:
    return detector("v6")([page.jpeg for page in pages])


def f1(pages: Sequence[Page], detected: Sequence[Sequence[models.Found]]) -> float:
    return fmean(
        detection_f1([line.box for line in page.lines], [it.box for it in lines])
        for page, lines in zip(pages, detected, strict=True)
    )


def test_detectors_find_the_lines_and_a_larger_input_finds_more(
    pages: list[Page], detected: list[list[models.Found]]
) -> None:
    jpegs = [page.jpeg for page in pages]
    assert f1(pages, detected) > 0.85
    assert f1(pages, detector("v4")(jpegs)) > 0.7
    assert f1(pages, models.Detector("v6", 224)(jpegs)) < 0.6


def test_pages_of_one_batch_do_not_influence_each_other(
    pages: list[Page], detected: list[list[models.Found]]
) -> None:
    alone = detector("v6")([pages[2].jpeg])[0]
    assert np.allclose([it.box for it in alone], [it.box for it in detected[2]], atol=1.0)


def test_lines_come_from_top_to_bottom(detected: list[list[models.Found]]) -> None:
    for lines in detected:
        tops = [it.box[1] for it in lines]
        assert tops == sorted(tops)


def test_recognisers_read_the_lines_and_a_wider_input_reads_better() -> None:
    lines = bench.workload("recognise", 11).lines[:12]
    crops = [crop for _, crop in lines]

    def accuracy(reader: models.Recogniser) -> float:
        read = reader(crops)
        return recognition_accuracy([(line.text, it.text) for (line, _), it in zip(lines, read, strict=True)])

    assert accuracy(recogniser("v6")) > 0.95
    assert 0.7 < accuracy(recogniser("v4")) < accuracy(recogniser("v6"))
    assert accuracy(models.Recogniser("v6", 160)) < 0.7


def test_the_product_of_the_stages_accuracies_predicts_the_whole(
    pages: list[Page], detected: list[list[models.Found]]
) -> None:
    measured = []
    for page, lines in zip(pages, detected, strict=True):
        read = recogniser("v6")([it.crop for it in lines])
        answers = [Answer(it.box, text.text) for it, text in zip(lines, read, strict=True)]
        measured.append(page_accuracy(page.lines, answers))
    product = f1(pages, detected) * 0.99  # the recogniser's accuracy on true crops
    assert fmean(measured) == pytest.approx(product, abs=0.05)


def test_a_blank_page_has_no_lines_and_no_crops_read_nothing() -> None:
    import cv2

    _, blank = cv2.imencode(".png", np.full((480, 640, 3), 230, np.uint8))
    assert detector("v6")([blank.tobytes()]) == [[]]
    assert recogniser("v6")([]) == []


def test_pages_of_different_sizes_share_a_batch(pages: list[Page]) -> None:
    import cv2

    tall = np.ascontiguousarray(np.rot90(models.decode(pages[0].jpeg)))
    _, encoded = cv2.imencode(".png", tall)
    one, other = detector("v6")([pages[1].jpeg, encoded.tobytes()])
    assert one and other
    # Lines that stand on end are laid down.
    shapes = [models.decode(it.crop).shape for it in other]
    assert sum(width > height for height, width, _ in shapes) >= len(shapes) - 1


@pytest.mark.parametrize("junk", [b"", b"not a picture"])
def test_what_is_not_a_picture_is_refused(junk: bytes) -> None:
    with pytest.raises(ValueError, match="not a JPEG or PNG"):
        detector("v6")([junk])


def test_the_stages_speak_v2_and_the_boxes_are_handed_on(pages: list[Page]) -> None:
    detected = serve(Detect, "480", [image_tensor("image", [page.jpeg for page in pages[:2]])])
    outputs = {output.name: output for output in detected.outputs}
    assert set(outputs) == {"crop", "box", "fan_out"}
    fan_out = outputs["fan_out"].data.root
    assert outputs["crop"].shape == [sum(fan_out)]
    assert outputs["box"].shape == [sum(fan_out), 4]

    inputs = [outputs[name].model_dump(exclude_none=True) for name in ("crop", "box")]
    read = {output.name: output for output in serve(Recognise, "320", inputs).outputs}
    assert set(read) == {"text", "box", "score"}
    assert read["box"].data.root == outputs["box"].data.root
    assert all(0.0 <= score <= 1.0 for score in read["score"].data.root)
    words = {word for page in pages[:2] for line in page.lines for word in line.text.lower().split()}
    assert len(words & set(" ".join(read["text"].data.root).lower().split())) > len(words) / 2


def serve(runtime: type, size_px: str, inputs: list[dict]) -> InferenceResponse:  # type: ignore[type-arg]
    parameters = ModelParameters(extra={"generation": "v6", "size_px": size_px})
    model = runtime(ModelSettings(name="stage", implementation=runtime, parameters=parameters))

    async def once() -> InferenceResponse:
        await model.load()
        try:
            return await model.predict(InferenceRequest(inputs=[RequestInput(**it) for it in inputs]))
        finally:
            await model.unload()

    return asyncio.run(once())
