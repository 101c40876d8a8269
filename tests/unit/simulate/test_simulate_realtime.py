"""The simulated world by the wall clock."""

from __future__ import annotations

import gc
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ipa.bootstrap.targets import ServeOptions, Simulated
from ipa.files.pipelines import packaged_example
from ipa.forecast.arrivals import request_times
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, UsageError
from ipa.model.observation import Measured
from ipa.model.pipeline import Sla
from ipa.model.plan import StageConfig
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.kernel import drive_plain
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.realtime import RealtimeClock, RealtimeWorlds, moving_load
from ipa.simulate.stage import StageSim
from ipa.simulate.world import SimWorld
from ipa.targets.simulated.target import SIMULATED
from tests.fakes.clock import VirtualClock

START = (StageConfig("crop", "yolov5n", 1, 1.0, 2), StageConfig("classification", "resnet18", 1, 1.0, 2))


def test_the_clock_goes_as_fast_as_it_is_told() -> None:
    pace = Simulated(np.empty(0), 20.0, 0, datetime(2026, 1, 1, tzinfo=UTC), time.monotonic() - 3.0)
    stop = threading.Event()
    clock = RealtimeClock(pace, stop)
    assert 60.0 <= clock.monotonic_s() < 60.0 + 20 * 5
    assert (clock.now() - pace.began).total_seconds() == pytest.approx(clock.monotonic_s(), abs=20.0)
    before_s = clock.monotonic_s()
    clock.wait(1.0)
    assert clock.monotonic_s() >= before_s + 1.0
    stop.set()
    clock.wait(1e6)


def test_the_time_stands_still_until_it_begins() -> None:
    pace = Simulated(np.empty(0), 1e9)
    clock = RealtimeClock(pace, threading.Event())
    assert clock.monotonic_s() == 0.0 and clock.now() == pace.began
    pace.begin()
    clock.wait(1.0)
    assert clock.monotonic_s() >= 1.0 and clock.now() > pace.began


def test_the_world_is_where_the_clock_is_whoever_looks() -> None:
    pipeline, profiles = packaged_example()
    clock = VirtualClock()
    world = SimWorld(
        pipeline,
        GroundTruth(pipeline, profiles),
        START,
        request_times([5.0] * 100),
        cluster=ClusterSettings(),
        metrics=MetricsSettings(),
    )
    worlds = RealtimeWorlds({"video": world}, clock)
    # Another SLA is for its loop; another variant would have no service times here.
    worlds.check(replace(pipeline, sla=Sla(9.0), bounds=replace(pipeline.bounds, cores=99.0)))
    fewer = replace(pipeline.stages[0], variants=pipeline.stages[0].variants[1:])
    with pytest.raises(ConflictError, match="stay as they were"):
        worlds.check(replace(pipeline, stages=(fewer, *pipeline.stages[1:])))
    clock.wait(30.0)
    signals = worlds.read(pipeline, 20.0)
    assert world.clock.monotonic_s() == 30.0
    assert isinstance(signals.arrival_rate_rps, Measured)
    assert signals.arrival_rate_rps.value == pytest.approx(5.0, abs=3.0)
    state = worlds.workload.read(pipeline)
    wanted = (StageConfig("crop", "yolov5n", 1, 1.0, 3), START[1])
    change = Change("d-1", "video", state.revision, START, wanted, 60.0)
    assert worlds.workload.write(pipeline, change) != state.revision
    with pytest.raises(ConflictError):
        worlds.workload.write(pipeline, change)
    assert not worlds.workload.read(pipeline).settled
    clock.wait(30.0)
    assert worlds.workload.read(pipeline).settled
    assert worlds.workload.rollout(pipeline, change).phase == "ready"
    assert isinstance(worlds.load(pipeline, 10.0), Measured)


def test_the_load_moves_between_its_ends_and_bursts_above() -> None:
    rates = moving_load(2.0, 18.0, 3600, seed=1)
    assert len(rates) == 3600
    assert rates.min() >= 1.0
    # Each wave begins low.
    assert max(rates[:20].mean(), rates[360:380].mean()) < 5.0
    assert 18.0 < rates.max() < 18.0 * 1.7
    # A newcomer sees it rise within a minute at ten seconds a second.
    assert rates[:360].max() > 15.0
    assert np.array_equal(rates, moving_load(2.0, 18.0, 3600, seed=1))


def test_two_equal_rates_are_steady() -> None:
    assert set(moving_load(6.0, 6.0, 3600, seed=1).tolist()) == {6.0}


def held_bytes(root: object) -> int:
    """The bytes of all that an object holds; functions, types and modules have no part in it."""
    visited: dict[int, object] = {}
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) not in visited and not isinstance(each, (type, FunctionType, ModuleType)):
            visited[id(each)] = each
            base = each.base if isinstance(each, np.ndarray) else None
            waiting += [base] if base is not None else gc.get_referents(each)
    return sum(sys.getsizeof(each) for each in visited.values())


# A row of every table, its columns twice as long as they need be.
BYTES_A_REQUEST = 200


@pytest.mark.parametrize("fan_out", [1.0, 2.5])
def test_a_world_of_hours_holds_a_row_a_request_and_the_batches_of_a_window(fan_out: float) -> None:
    pipeline, profiles = packaged_example()
    first, second = pipeline.stages
    second = replace(second, after=(replace(second.after[0], fan_out=fan_out),))
    pipeline = replace(pipeline, stages=(first, second))
    more = tuple(replace(config, replicas=8) for config in START)
    times_s = request_times([2.0] * 9_000)
    world = SimWorld(
        pipeline,
        GroundTruth(pipeline, profiles),
        more,
        times_s,
        cluster=ClusterSettings(),
        metrics=MetricsSettings(tells_stage_latencies=True),
        kernel=drive_plain,
    )
    held = []
    for until_s in (1800.0, 9_000.0):
        while world.clock.monotonic_s() < until_s:
            world.clock.wait(30.0)
            world.metrics.read(pipeline, 120.0)
        held.append(held_bytes(world))
    assert held[1] - held[0] < BYTES_A_REQUEST * np.count_nonzero(times_s > 1800.0)


def test_a_simulated_service_never_compiles_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []

    def stage(**given: Any) -> StageSim:
        kernels.append(given["kernel"])
        return StageSim(**given)

    monkeypatch.setattr("ipa.simulate.graph.StageSim", stage)
    pipeline, profiles = packaged_example()
    load = Simulated(moving_load(2.0, 18.0, 100))
    site = SimpleNamespace(
        load=load, pipelines={"video": pipeline}, profiles={"video": profiles}, start=lambda _: START
    )
    SIMULATED.open(site)  # type: ignore[arg-type]
    assert kernels == [drive_plain, drive_plain]


def test_without_a_load_there_is_no_simulated_world() -> None:
    with pytest.raises(UsageError, match="needs a load"):
        SIMULATED.open(SimpleNamespace(load=None))  # type: ignore[arg-type]
    options = ServeOptions(simulated=Simulated(moving_load(1.0, 2.0, 10)))
    assert isinstance(SIMULATED.clock(threading.Event(), options.simulated), RealtimeClock)
