"""When profiles are measured at start, and when they are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ipa.adapters.forecasting import ForecastSetup
from ipa.bootstrap.app import _start
from ipa.bootstrap.calibration import Bench as BenchOf
from ipa.bootstrap.calibration import calibrated, calibrations_of
from ipa.bootstrap.pipeline_registry import inputs_of, loop_of, policy_of
from ipa.bootstrap.targets import ServeOptions, Target, target_named
from ipa.cli.output import printer
from ipa.cli.views.status_text import status_table
from ipa.control.canonical import plain
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision
from ipa.model.errors import InfeasibleError, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import UNCALIBRATED, Calibration, Slowdown, StageProfile
from ipa.service.live_state import live_state
from ipa.service.status import status_view
from ipa.settings import Settings
from ipa.targets.requests import machine
from tests.fakes.bench import EACH, ITEMS, Bench
from tests.fakes.clock import VirtualClock
from tests.fakes.store import FakeStore
from tests.fakes.world import PIPELINE, PROFILES, scenario

NAME = PIPELINE.name
HERE = {stage: replace(profile, hardware=machine()) for stage, profile in PROFILES.items()}


@contextmanager
def no_bench(pipeline: Pipeline) -> Iterator[None]:
    raise UnavailableError("nothing can be started")
    yield


@contextmanager
def unwanted(pipeline: Pipeline) -> Iterator[None]:
    raise AssertionError("something is measured")
    yield


class Elsewhere(Target):
    """A target of unknown machines."""

    name, title = "elsewhere", "target elsewhere"
    serving = open = None  # type: ignore[assignment]


@contextmanager
def slow_bench(pipeline: Pipeline) -> Iterator[Bench]:
    yield Bench(VirtualClock(), dict.fromkeys(EACH, 2.0), hardware=machine())


def found(
    target: Target, bench: BenchOf = unwanted, store: FakeStore | None = None, **settings: object
) -> Calibration:
    made = calibrations_of(
        replace(Settings(), **settings),  # type: ignore[arg-type]
        target,
        {NAME: PIPELINE},
        {NAME: PROFILES},
        store or FakeStore(),
        VirtualClock(),
        bench,
    )
    return made[NAME]


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipa.bootstrap.calibration._items", lambda *asked: ITEMS)


LOCAL = target_named("local")


@pytest.mark.usefixtures("workload")
def test_profiles_of_another_machine_are_measured() -> None:
    known = found(LOCAL, slow_bench)
    assert known.slowdowns == tuple(Slowdown(*key, 2.0) for key in EACH)
    slower = calibrated(PROFILES, known)
    points = zip(slower["read"].variants[0].points, PROFILES["read"].variants[0].points, strict=True)
    assert all(after.latency_s == 2 * before.latency_s for after, before in points)


def test_profiles_of_this_machine_are_left_as_they_are() -> None:
    made = calibrations_of(
        Settings(), LOCAL, {NAME: PIPELINE}, {NAME: HERE}, FakeStore(), VirtualClock(), unwanted
    )
    assert made == {NAME: UNCALIBRATED}
    assert calibrated(HERE, UNCALIBRATED) == HERE


def test_a_simulated_world_is_as_profiled() -> None:
    assert found(target_named("simulated")) == UNCALIBRATED


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        (Elsewhere(), {}, "not calibrated on target elsewhere"),
        (target_named("kubernetes"), {}, "not calibrated on target kubernetes"),
        (LOCAL, {"calibrate": False}, "IPA_CALIBRATE is off"),
    ],
)
def test_what_is_not_measured_is_told(target: Target, settings: dict[str, object], words: str) -> None:
    known = found(target, **settings)
    assert known.slowdowns == ()
    assert PROFILES["read"].hardware in known.words
    assert words in known.words


def test_without_a_bench_the_service_starts_and_says_so() -> None:
    """The pipeline has no bench.py."""
    known = found(LOCAL)
    assert known.slowdowns == ()
    assert "bench.py" in known.words


@pytest.mark.usefixtures("workload")
def test_servers_that_do_not_start_are_told() -> None:
    known = found(LOCAL, no_bench)
    assert known.slowdowns == ()
    assert "nothing can be started" in known.words


@pytest.mark.usefixtures("workload")
def test_a_restart_finds_the_calibration_in_the_record() -> None:
    store = FakeStore()
    first = found(LOCAL, slow_bench, store)
    run_once(store, first)
    assert found(LOCAL, unwanted, store) == first


@pytest.mark.usefixtures("workload")
@pytest.mark.parametrize("change", ["machine", "profiles", "incomplete"])
def test_one_of_another_machine_or_of_other_profiles_is_not_taken(change: str) -> None:
    store = FakeStore()
    first = found(LOCAL, slow_bench, store)
    known = {"machine": replace(first, machine="another"), "incomplete": replace(first, detail="no time")}
    run_once(store, known.get(change, first), PROFILES if change != "profiles" else HERE)
    with pytest.raises(AssertionError, match="something is measured"):
        found(LOCAL, unwanted, store)


@pytest.mark.usefixtures("workload")
def test_the_loop_plans_with_the_calibration_and_records_it() -> None:
    store = FakeStore()
    loop, decision = run_once(store, found(LOCAL, slow_bench, store))
    assert decision.plan is not None
    # In steps of 5 %.
    assert [stage.slowdown_ratio for stage in decision.plan.stages] == pytest.approx([2.0, 2.0], rel=0.025)
    assert loop.snapshot().correction.calibration.words in live_words(loop)


def test_a_start_rate_that_only_the_profiles_carry_is_started_with_their_plan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A machine may be busy while it is measured; then the service starts all the same."""
    options = ServeOptions(start_rate_rps=40.0)
    slow = Calibration(machine(), ("there",), tuple(Slowdown(*key, 4.0) for key in EACH))
    as_profiled = _start(Settings(), options, PIPELINE, PROFILES, UNCALIBRATED)
    assert _start(Settings(), options, PIPELINE, PROFILES, slow) == as_profiled
    assert "a plan from the profiles as measured" in caplog.text
    slower = Calibration(machine(), ("there",), tuple(Slowdown(*key, 1.5) for key in EACH))
    assert _start(Settings(), options, PIPELINE, PROFILES, slower) != as_profiled
    with pytest.raises(InfeasibleError):
        _start(Settings(), replace(options, start_rate_rps=1e6), PIPELINE, PROFILES, slow)


def live_words(loop: ControlLoop) -> str:
    now = VirtualClock().now()
    live = live_state(PIPELINE, PROFILES, loop.snapshot(), now=now, tick_s=5.0)
    console = printer()
    with console.capture() as captured:
        console.print(status_table(plain(status_view(PIPELINE, PipelineControl(), live, now))))
    return " ".join(captured.get().split()).replace("The profiles were", "the profiles were")


def run_once(
    store: FakeStore, calibration: Calibration, profiles: Mapping[str, StageProfile] = PROFILES
) -> tuple[ControlLoop, Decision]:
    """One tick of a loop with that calibration, on the record."""
    made = scenario(5.0)
    world = LoopPorts(made.clock, made.metrics, made.workload, store, store)
    inputs = inputs_of(Settings(), ServeOptions(), PIPELINE, profiles)
    chosen = policy_of("ours", inputs, 10.0)
    sight = ForecastSetup(lambda *_: made.forecaster, 60.0)
    loop = loop_of(Settings(), sight, chosen, world, (), threading.Event(), calibration)
    return loop, loop.tick_once()
