"""The engine's defaults are those of the service's settings."""

from __future__ import annotations

import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import PlannerProvenance
from ipa.model.observation import LoadHistory
from ipa.settings import Settings

# A service reads the load between ticks and corrects profiles; the engine alone does neither.
OFF = {"peek_s", "correct_profiles"}
OWN = {"max_conflicts", "max_drifts"}


def test_guards_take_the_defaults_of_the_settings() -> None:
    guards, settings = GuardSettings(), Settings()
    names = set(GuardSettings.__dataclass_fields__) - OFF - OWN
    assert {name: getattr(guards, name) for name in names} == {
        name: getattr(settings, name) for name in names
    }
    assert not any(getattr(guards, name) for name in OFF)
    assert PlannerProvenance().deadline_s == settings.solver_deadline_s


@pytest.mark.parametrize(
    ("last_s", "mean"),
    [(5.0, 40.0), (10.0, 35.0), (12.0, 35.0), (20.0, 25.0), (0.0, 40.0), (1000.0, 25.0)],
)
def test_the_mean_of_the_last_seconds_counts_whole_steps(last_s: float, mean: float) -> None:
    load = LoadHistory(5.0, (10.0, 20.0, 30.0, 40.0))
    assert load.mean_rps(last_s) == pytest.approx(mean)
