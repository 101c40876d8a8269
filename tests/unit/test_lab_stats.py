"""Means over seeds and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.lab.markup import figure, judged, signless
from experiments.lab.progress import Progress, words_of
from experiments.lab.stats import Mean, mean_of, paired, student_t


def test_student_t_is_that_of_the_tables() -> None:
    assert student_t(2) == pytest.approx(4.303, abs=5e-4)
    assert student_t(9) == pytest.approx(2.262, abs=5e-4)


def test_mean_of() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found is not None
    assert found.value == 2
    assert found.half_width == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert mean_of([]) is None
    assert mean_of([float("nan"), 4.0]) == Mean(4.0, None, 1)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(7).normal(5.0, 2.0, (4000, 4))
    held = [found.low <= 5.0 <= found.high for row in samples if (found := mean_of(list(row)))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_paired_takes_out_what_seeds_share() -> None:
    alone = mean_of([10.0, 20.0, 30.0])
    pair = paired([10.0, 20.0, 30.0], [9.0, 19.1, 28.9], relative=False)
    assert alone is not None and alone.half_width is not None
    assert pair is not None and pair.half_width is not None
    assert pair.value == pytest.approx(1.0)
    assert pair.half_width < alone.half_width / 20
    ratio = paired([8.0, 4.0], [10.0, 0.0], relative=True)
    assert ratio == Mean(pytest.approx(-0.2), None, 1)


def test_only_what_is_sure_is_judged() -> None:
    assert judged(Mean(-0.2, 0.1, 3), 0.0, more_is_better=False) == "better"
    assert judged(Mean(-0.2, 0.1, 3), 0.0, more_is_better=True) == "worse"
    assert judged(Mean(-0.2, 0.3, 3), 0.0, more_is_better=False) == ""
    assert judged(Mean(-0.2, None, 1), 0.0, more_is_better=False) == ""


def test_figures() -> None:
    assert figure(Mean(0.12345, 0.004, 3), ".2f", scale=100)[0] == "12.35 <small>± 0.40</small>"
    assert figure(None, ".2f")[0] == "–"
    assert signless("-0.00") == "0.00"
    assert signless("-0.01") == "-0.01"


def test_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    clock = iter([0.0, 20.0, 60.0, 61.0])
    progress = Progress("try", 3, 10.0, stream=sys.stderr, now=lambda: next(clock))
    progress.step("a", 4.0)
    progress.step("b", 4.0, running=2.0)
    progress.step("c", 2.0)
    assert capsys.readouterr().err.splitlines() == [
        "try: 1/3 runs, about 30 s left [a]",
        "try: 2/3 runs, about 7 s left [b]",
        "try: 3/3 runs, took 1 min 01 s [c]",
    ]
    assert words_of(3725) == "1 h 02 min"
