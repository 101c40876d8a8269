"""Canvases: handwritten digits (scikit-learn's, 8×8) at random places of a noisy 16×16 image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

CANVAS = 16
DIGIT = 8
BRIGHTEST = 16
NOISE = 6.0
TRAINING_DIGITS = 1200
SEED = 0


@dataclass(frozen=True)
class Canvases:
    """Images [n, 256] in 0 … 16, the digits' top-left corners [n, 2] and the digits [n]."""

    images: NDArray[np.float32]
    corners: NDArray[np.int64]
    labels: NDArray[np.int64]


def canvases(*, training: bool, placements: int, seed: int = SEED) -> Canvases:
    """Every digit of the training or the test part at so many random places. The parts share no digit."""
    digits, labels = load_digits(return_X_y=True)
    # Which digit is in which part does not depend on the seed.
    order = np.random.default_rng(SEED).permutation(len(digits))
    random = np.random.default_rng(seed)
    part = order[:TRAINING_DIGITS] if training else order[TRAINING_DIGITS:]
    chosen = np.repeat(part, placements)
    images = random.uniform(0, NOISE, (len(chosen), CANVAS, CANVAS)).astype(np.float32)
    corners = random.integers(0, CANVAS - DIGIT + 1, (len(chosen), 2))
    for image, digit, (row, column) in zip(images, digits[chosen], corners, strict=True):
        image[row : row + DIGIT, column : column + DIGIT] += digit.reshape(DIGIT, DIGIT)
    return Canvases(np.clip(images, 0, BRIGHTEST).reshape(len(chosen), -1), corners, labels[chosen])


def profiles(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brightness of each column and row [n, 32]: where a digit is shows there."""
    square = images.reshape(-1, CANVAS, CANVAS)
    return np.hstack([square.sum(axis=1), square.sum(axis=2)]) / (DIGIT * DIGIT)


def profiles_and_pixels(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The profiles and every pixel [n, 288]."""
    return np.hstack([profiles(images), images / BRIGHTEST])


def crops(images: NDArray[np.float32], corners: NDArray[np.int64]) -> NDArray[np.float32]:
    """The 8×8 pieces [n, 64] at the corners, which are moved inside the canvas where they are not."""
    windows = np.lib.stride_tricks.sliding_window_view(
        images.reshape(-1, CANVAS, CANVAS), (DIGIT, DIGIT), axis=(1, 2)
    )
    inside = np.clip(corners, 0, CANVAS - DIGIT)
    return windows[np.arange(len(images)), inside[:, 0], inside[:, 1]].reshape(len(images), -1)
