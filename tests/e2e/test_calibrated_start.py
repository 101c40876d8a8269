"""Profiles of another machine, on real model servers: measured at start, and planned for this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

import pytest

from ipa.bootstrap.app import build
from ipa.bootstrap.calibration import calibrated, calibrations_of
from ipa.bootstrap.targets import ServeOptions, target_named
from ipa.control.loop.scheduler import SystemClock
from ipa.files import dump_profile, load_pipelines, load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.profile import Calibration, Slowdown, StageProfile
from ipa.policies.planning import plan_pipeline
from ipa.service.live_state import live_state
from ipa.settings import Settings
from ipa.targets.requests import machine
from tests.fakes.store import FakeStore

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]

ELSEWHERE = "2 cores, a machine twice as quick"
# Closer than the profiles are wrong: at one of them at least the plans differ, however quick the machine is.
RATES_RPS = tuple(50.0 * 1.15**step for step in range(35))


def halved(profile: StageProfile) -> StageProfile:
    slowdowns = tuple(Slowdown(profile.stage, each.variant, 0.5) for each in profile.variants)
    return replace(profile.slowed(slowdowns), hardware=ELSEWHERE)


def mean_ratio(calibration: Calibration, profiles: Mapping[str, StageProfile]) -> float:
    return geometric_mean(
        calibration.ratio(stage.stage, variant.variant)
        for stage in profiles.values()
        for variant in stage.variants
    )


def worth(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> float:
    """The objectives of the plans for all rates together; one without a plan is worth nothing."""
    return sum(plan_pipeline(pipeline, profiles, rate_rps).objective or 0.0 for rate_rps in RATES_RPS)


def test_digits_is_planned_for_this_machine_though_its_profiles_promise_twice_as_much(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside other tests the machine is slower than alone, from one second to the next by other factors."""
    monkeypatch.chdir(root)
    pipeline = load_pipelines(root / "pipelines")["digits"]
    known = load_profiles(root / "profiles", "digits")
    elsewhere = {name: replace(profile, hardware="elsewhere") for name, profile in known.items()}
    now = calibrations_of(
        Settings(),
        target_named("local"),
        {"digits": pipeline},
        {"digits": elsewhere},
        FakeStore(),
        SystemClock(),
    )
    foreign = {name: halved(profile) for name, profile in calibrated(known, now["digits"]).items()}
    (tmp_path / "profiles" / "digits").mkdir(parents=True)
    for name, profile in foreign.items():
        (tmp_path / "profiles" / "digits" / f"{name}.yaml").write_text(dump_profile(profile))
    settings = Settings(
        profiles_dir=tmp_path / "profiles", store_url=f"sqlite:///{tmp_path}/ipa.sqlite3", target="local"
    )
    app = build(settings, ServeOptions(("digits",), folder=tmp_path / "local"))
    try:
        snapshot = app.loops["digits"].snapshot()
        calibration = snapshot.correction.calibration
        assert (calibration.machine, calibration.profiled_on) == (machine(), (ELSEWHERE,))
        assert not calibration.detail
        assert 1.2 < mean_ratio(calibration, foreign) < 3.5
        live = live_state(pipeline, foreign, snapshot, now=SystemClock().now(), tick_s=10.0)
        assert live.calibration == calibration.words
        assert ELSEWHERE in live.calibration
        assert machine() in live.calibration
    finally:
        app.close()
    assert worth(pipeline, calibrated(foreign, calibration)) < worth(pipeline, foreign)
