"""The requests that `ipa profile` and the demo send, made-up signals, and the accuracy of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.signals.models import (
    LEAST_CYCLES,
    LEAST_TURN,
    LENGTH,
    MOST_CYCLES,
    MOST_TURN,
    SHAPES,
    Floats,
    Recognise,
    wave,
)

# What disturbs a signal: noise everywhere, and spikes in some places.
NOISE, SPIKE, SPIKES_RATIO = 0.5, 6.0, 0.25
# Cycles this near count as right.
NEAR_CYCLES = 0.2
COUNT = 120

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Signals:
    """Signals, one a row, and what is right of each: the number of its shape, and its cycles."""

    disturbed: Floats
    clean: Floats
    truth: Floats


def signals(count: int, seed: int) -> Signals:
    """Signals drawn at random; the same for the same seed."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, len(SHAPES), count)
    cycles = rng.uniform(LEAST_CYCLES, MOST_CYCLES, count)
    turns, phases = rng.uniform(LEAST_TURN, MOST_TURN, count), rng.random(count)
    clean = np.stack([wave(SHAPES[it[0]], *it[1:]) for it in zip(shapes, cycles, turns, phases, strict=True)])
    is_spike = rng.random((count, LENGTH)) < SPIKES_RATIO
    disturbed = np.where(
        is_spike, rng.normal(0.0, SPIKE, clean.shape), clean + rng.normal(0.0, NOISE, clean.shape)
    )
    return Signals(disturbed.round(3), clean, np.column_stack([shapes, cycles]))


def body(row: Floats) -> dict[str, Any]:
    """The request of one signal, in Seldon's own protocol."""
    return {"data": {"ndarray": [row.tolist()]}}


def rows(answer: Json) -> Floats:
    """The rows of an answer in Seldon's own protocol."""
    return np.asarray(answer["data"]["ndarray"], dtype=np.float64)


def right(found: Floats, truth: Floats) -> NDArray[np.bool_]:
    """True for the rows with the right shape and nearly the right cycles."""
    return (found[:, 0] == truth[:, 0]) & (np.abs(found[:, 1] - truth[:, 1]) < NEAR_CYCLES)


class SignalBench:
    """The bodies of a stage's requests, and the accuracy of its answers."""

    def __init__(self, stage: str, made: Signals) -> None:
        self._stage, self._made = stage, made
        self.items = [body(row) for row in (made.disturbed if stage == "clean" else made.clean)]

    def accuracy(self, answers: Sequence[Json]) -> float:
        """The share of right answers; of `clean` those that are recognised as the undisturbed signal is.

        So that the product of the stages' accuracies predicts the whole pipeline's.
        """
        found = np.concatenate([rows(answer) for answer in answers])
        if self._stage == "recognise":
            return float(right(found, self._made.truth).mean())
        best = Recognise("fine")
        return float(right(best.predict(found), best.predict(self._made.clean)).mean())


def workload(stage: str, seed: int) -> SignalBench:
    """The items of that stage, and their score."""
    return SignalBench(stage, signals(COUNT, seed))
