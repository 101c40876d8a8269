"""Whole runs of a pipeline that nobody measured: its first plan is dear, and soon it is the true one."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.profiling.priors import assumed_profiles
from ipa.simulate.run import ForecastSettings, SimSetup, simulate

NAMES = "detect", "classify"
PIPELINE = Pipeline(
    "shop", chain([Stage(name, (Variant("only"),)) for name in NAMES]), Sla(1.0), {"default": Objective()}
)
RUNNING = [StageConfig(name, "only", 1, 1.0, 1) for name in NAMES]
ASSUMED = assumed_profiles(PIPELINE, RUNNING, {}, {}, [], {}, [NAMES], date(2026, 12, 3))[1]


def changed(ratio: float = 1.0, assumed_ratio: float | None = None) -> dict[str, StageProfile]:
    """The assumed profiles with `ratio` times their times, believed as wide as that."""
    slowed = ((it, it.variants[0].slowed(ratio)) for it in ASSUMED)
    return {it.stage: replace(it, variants=(replace(v, assumed_ratio=assumed_ratio),)) for it, v in slowed}


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_plans_take_the_longest_times_until_batches_are_seen(ratio: float) -> None:
    truth = changed(ratio)

    def cores(profiles: dict[str, StageProfile]) -> list[float]:
        """The cores of each tick."""
        setup = SimSetup(PIPELINE, profiles, (60.0,) * 120, seed=2, truth=truth)
        learning = GuardSettings(correct_profiles=True)
        result = simulate(replace(setup, guards=learning, forecast=ForecastSettings("window")))
        assert result.summary()["violation_ratio"] < 0.01
        return [sum(it.cores * it.replicas for it in each.configs) for each in result.decisions]

    adopted, narrow, measured = cores(changed(1.0, 4.0)), cores(changed(1.0)), cores(truth)
    assert adopted[0] == narrow[0] > measured[0]
    assert adopted[5] == pytest.approx(measured[5], rel=0.12)
    # As wide as that of measured profiles, the belief would never reach so quick a variant.
    assert narrow[-1] > 4 * measured[-1] or ratio > 0.1
