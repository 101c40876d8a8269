"""Whole runs in which replicas are slower than their profiles say, or as measured, or quicker."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ipa.control.engine.guards import GuardSettings
from ipa.forecast.arrivals import steps
from ipa.model.decision import Action
from ipa.model.profile import Slowdown, StageProfile
from ipa.simulate.cluster import KUBERNETES
from ipa.simulate.metrics import ON_CLUSTER
from ipa.simulate.run import ForecastSettings, SimResult, SimSetup, simulate
from tests.fakes.policy_contract import with_points
from tests.fakes.world import PIPELINE, PROFILES

# Ten minutes at a rate that fills a plan.
RATES = tuple(float(rate) for rate in steps((12.0, 600)))
# The variation of service times in a right profile: the p99 is 1.8 times the mean.
TAIL = 1.8


def varied(profile: StageProfile) -> StageProfile:
    """The profile with a p99 above its mean."""
    return with_points(
        profile, lambda it: replace(it, latency_s=TAIL * it.latency_s, latency_mean_s=it.latency_s)
    )


VARIED = {name: varied(profile) for name, profile in PROFILES.items()}


@cache
def run(slower: float, *, correct: bool = True, on_cluster: bool = False, seed: int = 3) -> SimResult:
    """A run of profiles of which the truth is `slower` times as slow."""
    slowdowns = tuple(
        Slowdown(name, it.name, slower) for name in PROFILES for it in PIPELINE.stages[0].variants
    )
    setup = SimSetup(
        PIPELINE,
        VARIED,
        RATES,
        seed=seed,
        forecast=ForecastSettings("window"),
        guards=GuardSettings(correct_profiles=correct),
        truth={name: profile.slowed(slowdowns) for name, profile in VARIED.items()},
        keep_inputs=True,
    )
    if on_cluster:
        setup = replace(setup, cluster=KUBERNETES, metrics=ON_CLUSTER)
    return simulate(setup)


def late_ratio(result: SimResult) -> float:
    return float(result.summary()["violation_ratio"])


def corrected(result: SimResult) -> list[str]:
    """The slower variants that plans were made with."""
    return [it.detail for it in result.decisions if "x its profile" in it.detail]


def test_profiles_that_are_thirty_percent_too_fast_are_found_out_and_planned_with() -> None:
    alone, plain = run(1.3), run(1.3, correct=False)
    assert corrected(alone) and not corrected(plain)
    assert late_ratio(alone) < 0.6 * late_ratio(plain)
    first = next(it.tick for it in alone.decisions if "x its profile" in it.detail)
    assert first <= 6


def test_on_a_cluster_windows_are_longer_and_it_is_found_all_the_same() -> None:
    alone, plain = run(1.3, on_cluster=True), run(1.3, correct=False, on_cluster=True)
    assert corrected(alone)
    assert late_ratio(alone) < late_ratio(plain)


def test_right_profiles_are_not_corrected_whatever_chance_does() -> None:
    for seed in range(2):
        right, plain = run(1.0, seed=seed), run(1.0, correct=False, seed=seed)
        assert corrected(right) == []
        # Plans may be for less of a margin, as nobody is late; never for more.
        assert right.core_seconds <= plain.core_seconds
        assert late_ratio(right) <= late_ratio(plain) + 0.001


def test_profiles_that_are_too_slow_are_learned() -> None:
    """Cores come back, and nobody is late for it."""
    quick, plain = run(0.7), run(0.7, correct=False)
    assert any("x its profiled batch time" in it.detail for it in quick.decisions)
    assert quick.core_seconds < plain.core_seconds
    late = [result.summary()["violation_ratio"] for result in (quick, plain)]
    assert late[0] <= late[1] + 0.001


def test_plans_come_to_rest() -> None:
    changes = [it.tick for it in run(1.3).decisions if it.action is Action.APPLY]
    assert len([tick for tick in changes if tick > 30]) <= 2
