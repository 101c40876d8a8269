"""The signals pipeline: its classes as a microservice calls them, and what is right of their answers."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.signals.bench import SignalBench, body, right, rows, signals
from pipelines.signals.models import LENGTH, SHAPES, VARIANT, Clean, Recognise, wave


def answered(model: Clean | Recognise, bench: SignalBench) -> float:
    """The accuracy of a stage's class."""
    answers = [body(model.predict(rows(item))[0]) for item in bench.items]
    return bench.accuracy(answers)


def test_undisturbed_signals_are_recognised() -> None:
    made = [(number, cycles) for number in range(len(SHAPES)) for cycles in (3.0, 6.0, 9.0)]
    answers = Recognise("fine").predict(np.stack([wave(SHAPES[n], cycles, 0.3, 0.4) for n, cycles in made]))
    assert right(answers, np.array(made)).all()
    assert not right(answers, np.array(made) + 0.5).any()


def test_larger_variants_are_more_accurate() -> None:
    clean, recognise = (SignalBench(stage, signals(30, 7)) for stage in ("clean", "recognise"))
    assert answered(Clean("median"), clean) < answered(Clean("robust"), clean) < 1
    assert answered(Recognise("coarse"), recognise) < answered(Recognise("fine"), recognise) < 1


def test_a_container_is_told_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIANT, "median")
    spiky = np.zeros((1, LENGTH))
    spiky[0, 100] = 9.0
    assert not Clean().predict(spiky).any()
    monkeypatch.setenv(VARIANT, "large")
    with pytest.raises(KeyError, match="large"):
        Clean()


def test_signals_are_those_of_their_seed() -> None:
    assert np.array_equal(signals(5, 3).disturbed, signals(5, 3).disturbed)
    assert not np.array_equal(signals(5, 3).disturbed, signals(5, 4).disturbed)
