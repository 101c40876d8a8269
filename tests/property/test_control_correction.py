"""However service times come, ratios stay within bounds, converge, and do not flap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.control.engine.correction import (
    UNCORRECTED,
    Correction,
    learned,
)
from ipa.control.engine.guards import STEP, GuardSettings
from ipa.model.observation import Batches, Measured, Missing, MissingReason, Observation, StageObservation
from ipa.model.profile import LEAST_SLOWDOWN, MOST_SLOWDOWN
from ipa.policies.base import Prediction
from ipa.queueing.service import ServiceTime
from tests.amounts import many
from tests.fakes.world import PIPELINE, SMALLEST

SETTINGS = GuardSettings(correct_profiles=True)
ABSENT = Missing(MissingReason.ABSENT)
WINDOW_S = 10.0


def observation_of(batches: tuple[Batches, ...]) -> Observation:
    stages = tuple(
        StageObservation(config.stage, Measured(config), Measured(1), ABSENT, ABSENT, batches=Measured(each))
        for config, each in zip(SMALLEST, batches, strict=True)
    )
    return Observation("pages", 0.0, ABSENT, ABSENT, ABSENT, stages)


def predicted(spread: float) -> Prediction:
    """By the profile a batch takes a second."""
    return Prediction(1.0, 1.0, 1.0, 1.0, 0.0, 1.0, services=(ServiceTime(1.0, 1.0, spread),) * 2)


def over(ratios: list[float], spread: float, count: float) -> list[Correction]:
    """The knowledge after each tick; every stage sees the same."""
    known, all_known = UNCORRECTED, []
    for tick, ratio in enumerate(ratios):
        observation = observation_of((Batches(count, ratio, 1.0, WINDOW_S),) * 2)
        known = learned(
            known,
            observation,
            lambda configs, rate_rps, slowdowns=(): predicted(spread),
            SETTINGS,
            tick * SETTINGS.tick_s,
            measured={},
            is_broken=False,
        )
        all_known.append(known)
    return all_known


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.floats(0.0, 1.0), st.floats(0.0, 5000.0))
@settings(max_examples=many(50), deadline=None, derandomize=True)
def test_whatever_is_seen_ratios_stay_within_bounds(ratios: list[float], spread: float, count: float) -> None:
    for known in over(ratios, spread, count):
        for slow in known.slowdowns(PIPELINE):
            assert LEAST_SLOWDOWN / STEP <= slow.ratio <= MOST_SLOWDOWN * STEP
            assert slow.ratio != 1
        assert len(known.observed) <= len(SMALLEST)


@given(st.floats(0.2, 3.9), st.floats(0.0, 0.5), st.floats(30.0, 5000.0))
@settings(max_examples=many(50), deadline=None, derandomize=True)
def test_what_stays_as_it_is_is_found_and_kept(ratio: float, spread: float, count: float) -> None:
    steps = [known.observed[0].steps for known in over([ratio] * 300, spread, count) if known.observed]
    # From one side, so it never overshoots by more than rounding, and once there it stays.
    pairs = list(pairwise(steps))
    assert all(before <= after for before, after in pairs) or all(before >= after for before, after in pairs)
    assert steps[-1] == steps[-20]
    ratio, planned = max(ratio, LEAST_SLOWDOWN), STEP ** steps[-1]
    assert ratio / STEP**3 <= planned <= ratio * STEP**3


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1.0), st.sampled_from([12, 60, 600]), st.floats(0.9, 1.7))
@settings(max_examples=many(30), deadline=None, derandomize=True)
def test_random_service_times_neither_correct_a_right_profile_nor_flap_on_a_wrong_one(
    seed: int, spread: float, count: int, true: float
) -> None:
    """An hour of windows of gamma service times; each tick has a window of its own."""
    rng = np.random.default_rng(seed)
    ticks = 360
    if true < 1.02:
        true = 1.0
    means = true * rng.gamma(count / spread, spread / count, ticks)
    steps = [it.observed[0].steps for it in over(means.tolist(), spread, float(count)) if it.observed]
    if true == 1.0:
        assert not any(steps)
        return
    # It may still be rising where a window says little; back and forth it goes seldom.
    backs = sum(after < before for before, after in pairwise(steps))
    assert backs <= 3
