"""What reports of experiments show: figures with intervals, what is judged, and the time that is left."""

from __future__ import annotations

import pytest

from experiments.lab.markup import figure, judged, signless
from experiments.lab.progress import Progress, words_of
from ipa.report.stats import Mean


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
