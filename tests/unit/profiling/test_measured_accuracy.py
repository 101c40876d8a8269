"""The measured accuracy of a variant: how soon it refutes a wrong profile, how seldom a right one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.control.canonical import canonical_json, restored
from ipa.profiling.measured_accuracy import LEAST, AccuracyInterval, Feedback, MeasuredAccuracy
from tests.amounts import many

PROFILED = MeasuredAccuracy("detect", "small", 0.85)


def judged(
    rng: np.random.Generator, accuracy: float, best: float, agreements: int, labels: int = 5
) -> list[Feedback]:
    """So many labels, each with agreements of other requests before it.

    A better variant is right with probability `best`. Where it is wrong, this one is right a quarter of the
    time, and one in five of its own errors there is the same.
    """
    count = labels * (agreements + 1)
    is_best = rng.random(count) < best
    right = rng.random(count) < np.where(is_best, (accuracy - 0.25 * (1 - best)) / best, 0.25)
    agrees = np.where(is_best, right, ~right & (rng.random(count) < 0.2)).astype(float).tolist()
    given = [Feedback(agrees=each) for each in agrees[labels:]]
    known = agrees[:labels] if agreements else [None] * labels
    return [*given, *(Feedback(float(it), each) for it, each in zip(right[:labels], known, strict=True))]


def months(accuracy: float, agreements: int, count: int, labels: int, each: int = 5) -> Iterator[int]:
    """Of each month the labels until the profile is refuted, `labels` + 1 if it is not."""
    for seed in range(count):
        rng, known = np.random.default_rng((seed, 1)), PROFILED
        while known.labels < labels and not known.interval.contradicts:
            known = known.with_feedback(judged(rng, accuracy, 0.95, agreements, each))
        yield known.labels if known.interval.contradicts else labels + 1


def test_a_profile_wrong_by_five_points_is_found_by_two_hundred_labels() -> None:
    """In the median of 200 runs, with a hundred agreements for each label."""
    assert median(months(0.80, 100, many(200), 1000)) <= 200


def test_agreements_save_most_of_the_labels() -> None:
    assert median(months(0.80, 0, many(100), 3000)) > 3 * 200


def test_a_right_profile_is_blamed_in_at_most_one_of_a_thousand_months() -> None:
    """With ten labels a day, and ten agreements for each."""
    blamed = sum(labels <= 300 for labels in months(0.85, 10, many(1000), 300, 25))
    assert blamed <= max(1, many(1000) / 1000)


@pytest.mark.parametrize("agrees", [0.0, 0.5, 1.0, None])
def test_agreements_that_say_nothing_do_no_harm(agrees: float | None) -> None:
    """The true accuracy stays inside but for ERROR, whatever all agreements are."""
    missed = 0
    for seed in range(many(200)):
        right = np.random.default_rng((seed, 2)).random(400) < 0.7
        others = [] if agrees is None else [Feedback(agrees=agrees)] * 400
        known = PROFILED.with_feedback([*others, *(Feedback(float(each), agrees) for each in right)])
        now = known.interval
        missed += not now.lower <= 0.7 <= now.upper
        assert now.contradicts and now.upper < 0.85 and now.lower <= (now.mean or 0.0) <= now.upper
    # Two of a thousand may be: more than three of two hundred are not chance.
    assert missed <= many(200) * 0.015


def test_an_accuracy_that_changes_begins_anew() -> None:
    known = PROFILED.with_feedback([Feedback(1.0)] * 600)
    assert known.interval.lower > 0.9
    emptied = known
    while emptied.labels:
        emptied = emptied.with_feedback([Feedback(0.0)] * 50)
    assert emptied == PROFILED and emptied.interval == AccuracyInterval(
        "small", 0.85, 0, None, LEAST, 1.0, False
    )
    assert emptied.with_feedback([Feedback(0.0)] * 100).interval.upper < 0.85


@given(
    st.floats(0.001, 1.0),
    st.lists(st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=60),
)
def test_any_feedback_leaves_a_small_value_that_a_record_restores(
    profiled: float, pairs: list[tuple[float | None, float | None]]
) -> None:
    known = MeasuredAccuracy("s", "v", profiled).with_feedback([Feedback(*pair) for pair in pairs])
    text = canonical_json(known)
    assert restored(MeasuredAccuracy, json.loads(text)) == known and len(text) < 4000
    before, after = known.interval, known.with_feedback([Feedback(*pair) for pair in pairs[::-1]])
    assert 0 < before.lower <= before.upper <= 1
    # Bounds never loosen, unless the measurement begins anew.
    if after.labels > known.labels:
        assert before.lower <= after.interval.lower <= after.interval.upper <= before.upper
