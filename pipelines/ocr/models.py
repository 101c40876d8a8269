"""PP-OCR detection and recognition over onnxruntime: pictures in, boxes and text out.

The weights come inside wheels (rapidocr: PP-OCRv6, rapidocr-onnxruntime: PP-OCRv4); their packages are
located, not imported, since importing them costs a second. Pre- and post-processing follow PaddleOCR's
(`DBPostProcess`, `CTCLabelDecode`) with numpy and OpenCV alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

DETECTORS = {
    "v4": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "v6": ("rapidocr", "models/PP-OCRv6_det_small.onnx"),
}
RECOGNISERS = {
    "v4": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "v6": ("rapidocr", "models/PP-OCRv6_rec_small.onnx"),
}
# PaddleOCR's settings: a pixel is text above 0.3, a box counts from a mean of 0.5 on, boxes grow by 1.6.
PIXEL_THRESHOLD, BOX_THRESHOLD, UNCLIP_RATIO = 0.3, 0.5, 1.6
# Sides of the detector's input are multiples of this (five halvings).
DETECTOR_STEP_PX = 32
# Contours less high than this on the map, and boxes less high than two more after growing, are specks.
SPECK_PX = 3
# Recognisers are trained on lines this high.
LINE_HEIGHT_PX = 48
CROP_JPEG_QUALITY = 95

Image = np.ndarray[Any, np.dtype[np.uint8]]
Box = tuple[float, float, float, float]


def weights(package: str, path: str) -> Path:
    """The file inside an installed package; ModuleNotFoundError says which wheel is missing."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the weights are in the package {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / path


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU with that many threads, which sleep rather than spin between operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning thread would burn the quota of a replica that shares its core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Found:
    """One line that was found: its box on the page and the picture of it, as JPEG."""

    box: Box
    crop: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """What one line says, and the mean probability of its letters."""

    text: str
    score: float


class Detector:
    """Finds the text lines of pages. `size_px` is the longer side of the network's input."""

    def __init__(self, generation: str, size_px: int, threads: int = 1) -> None:
        self._session = open_session(weights(*DETECTORS[generation]), threads)
        self._input = self._session.get_inputs()[0].name
        self._size_px = size_px

    def __call__(self, pages: Sequence[bytes]) -> list[list[Found]]:
        """The lines of each page (JPEG or PNG) from top to bottom; pages of one size go in one run."""
        images = [decode(page) for page in pages]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            groups[self._input_size(image)].append(number)
        found: list[list[Found]] = [[] for _ in pages]
        for size, numbers in groups.items():
            batch = np.stack([normalise(cv2.resize(images[n], size)) for n in numbers])
            maps = self._session.run(None, {self._input: batch})[0][:, 0]
            for number, probability in zip(numbers, maps, strict=True):
                image = images[number]
                found[number] = [Found(bounds(quad), cut(image, quad)) for quad in quads(probability, image)]
        return found

    def _input_size(self, image: Image) -> tuple[int, int]:
        height, width = image.shape[:2]
        ratio = self._size_px / max(height, width)
        steps = (max(1, round(side * ratio / DETECTOR_STEP_PX)) for side in (width, height))
        across, down = (step * DETECTOR_STEP_PX for step in steps)
        return across, down


class Recogniser:
    """Reads lines. `size_px` is the width of the network's input; longer lines are squeezed into it."""

    def __init__(self, generation: str, size_px: int, threads: int = 1) -> None:
        self._session = open_session(weights(*RECOGNISERS[generation]), threads)
        self._input = self._session.get_inputs()[0].name
        self._size_px = size_px
        characters = self._session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._alphabet = ["", *characters, " "]

    def __call__(self, crops: Sequence[bytes]) -> list[Read]:
        """What each picture (JPEG or PNG) says; all of them go in one run."""
        if not crops:
            return []
        batch = np.stack([self._prepare(decode(crop)) for crop in crops])
        probabilities = self._session.run(None, {self._input: batch})[0]
        return [self._decode(line) for line in probabilities]

    def _prepare(self, image: Image) -> np.ndarray[Any, Any]:
        height, width = image.shape[:2]
        resized_px = min(self._size_px, max(1, round(LINE_HEIGHT_PX * width / height)))
        padded = np.zeros((3, LINE_HEIGHT_PX, self._size_px), dtype=np.float32)
        padded[:, :, :resized_px] = normalise(cv2.resize(image, (resized_px, LINE_HEIGHT_PX)))
        return padded

    def _decode(self, line: np.ndarray[Any, Any]) -> Read:
        """The most probable letter of every column, repeats and blanks (letter 0) taken out (CTC)."""
        letters = line.argmax(axis=1)
        kept = letters != 0
        kept[1:] &= letters[1:] != letters[:-1]
        if not kept.any():
            return Read("", 0.0)
        text = "".join(self._alphabet[letter] for letter in letters[kept])
        return Read(text, float(line.max(axis=1)[kept].mean()))


def decode(picture: bytes) -> Image:
    """The pixels (height, width, BGR) of a JPEG or PNG; ValueError where it is neither."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if image is None:
        raise ValueError(f"not a JPEG or PNG picture ({len(picture)} bytes)")
    return image


def normalise(image: Image) -> np.ndarray[Any, Any]:
    """Channels first, in -1 .. 1, float32."""
    scaled = np.multiply(image, np.float32(2 / 255), dtype=np.float32)
    scaled -= np.float32(1)
    return scaled.transpose(2, 0, 1)


def quads(probability: np.ndarray[Any, Any], image: Image) -> list[np.ndarray[Any, Any]]:
    """The corners (4×2: top left, top right, bottom right, bottom left) of the lines, from top to bottom.

    Every contour of the thresholded map is framed by its least rectangle, which then grows on all sides by
    area·1.6/perimeter, since the network marks the core of a line (DB: Liao et al., AAAI 2020, equation 10).
    """
    mask = (probability > PIXEL_THRESHOLD).astype(np.uint8)
    mask = cv2.dilate(mask, np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([image.shape[1] / mask.shape[1], image.shape[0] / mask.shape[0]])
    kept = []
    for contour in contours:
        centre, (across, down), angle = cv2.minAreaRect(contour)
        if min(across, down) < SPECK_PX:
            continue
        if mean_inside(probability, cv2.boxPoints((centre, (across, down), angle))) < BOX_THRESHOLD:
            continue
        grown = 2 * across * down * UNCLIP_RATIO / (2 * (across + down))
        corners = cv2.boxPoints((centre, (across + grown, down + grown), angle))
        kept.append(clockwise(corners * scale))
    return sorted(kept, key=lambda corners: (float(corners[:, 1].min()), float(corners[:, 0].min())))


def mean_inside(probability: np.ndarray[Any, Any], corners: np.ndarray[Any, Any]) -> float:
    """The mean of the map inside a quadrilateral."""
    height, width = probability.shape
    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0, (width - 1, height - 1))
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).clip(0, (width - 1, height - 1))
    inside = np.zeros((bottom - top + 1, right - left + 1), dtype=np.uint8)
    cv2.fillPoly(inside, [(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(probability[top : bottom + 1, left : right + 1], inside)[0])


def clockwise(corners: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The corners from the top left on."""
    by_x = corners[np.argsort(corners[:, 0])]
    left, right = (side[np.argsort(side[:, 1])] for side in (by_x[:2], by_x[2:]))
    return np.array([left[0], right[0], right[1], left[1]], dtype=np.float32)


def bounds(corners: np.ndarray[Any, Any]) -> Box:
    """(left, top, right, bottom) around the corners."""
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return left, top, right, bottom


def cut(image: Image, corners: np.ndarray[Any, Any]) -> bytes:
    """The quadrilateral as an upright picture, JPEG; lines that stand on end are laid down."""
    across = max(1, round(float(np.linalg.norm(corners[0] - corners[1]))))
    down = max(1, round(float(np.linalg.norm(corners[0] - corners[3]))))
    target = np.array([[0, 0], [across, 0], [across, down], [0, down]], dtype=np.float32)
    transform = cv2.getPerspectiveTransform(corners, target)
    crop = cv2.warpPerspective(
        image, transform, (across, down), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    if down >= 1.5 * across:
        crop = np.ascontiguousarray(np.rot90(crop))
    _, encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, CROP_JPEG_QUALITY])
    return encoded.tobytes()
