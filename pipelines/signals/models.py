"""Classes as Seldon's microservice serves them: no base class, `predict` alone; NumPy is all that they need.

MODEL_VARIANT=fine seldon-core-microservice pipelines.signals.models.Recognise --service-type MODEL
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Samples of a signal, and how often its form comes in them.
LENGTH = 256
LEAST_CYCLES, MOST_CYCLES = 2.5, 9.5
SHAPES = ("sine", "pulse", "ramp")
# Where in a cycle a pulse falls, and a ramp turns.
LEAST_TURN, MOST_TURN = 0.1, 0.5
# Of the robust fit: weight of its steps beside its distances, the distance that counts half, and its rounds.
STIFFNESS, HALF_AT, ROUNDS = 0.1, 0.5, 15
MEDIAN_OF = 5
# How many numbers of cycles, and turns of each, a recogniser compares with.
TEMPLATES: Mapping[str, tuple[int, int]] = {"coarse": (30, 3), "fine": (200, 16)}
# The environment variable by which the SeldonDeployment tells a container which variant it is.
VARIANT = "MODEL_VARIANT"


def wave(shape: str, cycles: float, turn: float, phase: float) -> Floats:
    """An undisturbed signal, between -1 and 1."""
    at = (np.arange(LENGTH) / LENGTH * cycles + phase) % 1.0
    if shape == "sine":
        return np.sin(2 * np.pi * at)
    if shape == "pulse":
        return np.where(at < turn, 1.0, -1.0)
    return np.where(at < turn, at / turn, (1 - at) / (1 - turn)) * 2 - 1


class Clean:
    """Removes noise and spikes by a moving `median`, or by a `robust` fit that takes much longer."""

    def __init__(self, variant: str = "") -> None:
        ways: dict[str, Callable[[Floats], Floats]] = {"median": _median, "robust": _robust}
        self._clean = ways[variant or os.environ[VARIANT]]

    def predict(self, X: Floats, names: object = None, meta: object = None) -> Floats:
        """The signals, one a row, without what disturbs them."""
        return np.stack([self._clean(row) for row in np.asarray(X, dtype=np.float64)]).round(4)

    def class_names(self) -> list[str]:
        """None: the microservice would number the samples."""
        return []


class Recognise:
    """The shape of a signal (its number in SHAPES) and its cycles, by the most similar of many templates."""

    def __init__(self, variant: str = "") -> None:
        cycles, turns = TEMPLATES[variant or os.environ[VARIANT]]
        grid = [
            (number, each, turn)
            for number, shape in enumerate(SHAPES)
            for each in np.linspace(LEAST_CYCLES, MOST_CYCLES, cycles)
            for turn in (np.linspace(LEAST_TURN, MOST_TURN, turns) if shape != "sine" else (MOST_TURN,))
        ]
        rows = np.stack([wave(SHAPES[number], each, turn, 0.0) for number, each, turn in grid])
        self._answers = np.array([(number, each) for number, each, _ in grid])
        self._spectra = np.conj(np.fft.rfft(_unit(rows), axis=1))

    def predict(self, X: Floats, names: object = None, meta: object = None) -> Floats:
        """Shape and cycles of each signal."""
        spectra = np.fft.rfft(_unit(np.asarray(X, dtype=np.float64)), axis=1)
        # The correlation with each template at the phase that fits best.
        best = [np.argmax(np.fft.irfft(self._spectra * one, n=LENGTH, axis=1).max(axis=1)) for one in spectra]
        return self._answers[best]

    def class_names(self) -> list[str]:
        """The names of the columns of an answer."""
        return ["shape", "cycles"]


def _unit(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.linalg.norm(centred, axis=-1, keepdims=True))


def _median(row: Floats) -> Floats:
    padded = np.pad(row, MEDIAN_OF // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_OF), axis=-1)


def _robust(row: Floats) -> Floats:
    """The fit whose steps are small and whose distances count less the larger they are."""
    steps = np.diff(np.eye(LENGTH), axis=0)
    stiff = STIFFNESS * steps.T @ steps
    fit: Floats = row
    weights = np.ones(LENGTH)
    for _ in range(ROUNDS):
        fit = np.asarray(np.linalg.solve(np.diag(weights) + stiff, weights * row), dtype=np.float64)
        weights = 1 / (1 + ((row - fit) / HALF_AT) ** 2)
    return fit
