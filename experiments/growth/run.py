"""Simulated pipelines under the production loop and store, in virtual time."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.growth.sizes import StoreSizes, sizes_of
from ipa.adapters.store import Store, open_store
from ipa.adapters.store.store import Changes
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.tick import made_of
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.control.store_admin import Retention
from ipa.files.pipelines import packaged_example
from ipa.forecast.arrivals import request_times
from ipa.model.decision import Action, Mode
from ipa.policies.table import PolicyInputs, make_policy
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import ON_CLUSTER, MetricsSettings
from ipa.simulate.realtime import moving_load
from ipa.simulate.run import ForecastSettings, SimSetup, first_configs, forecaster_of
from ipa.simulate.world import SimWorld

Floats = NDArray[np.float64]
TICK_S = 10.0
DAY_S = 86_400
# A person pauses each pipeline this often, for some ticks, and says why.
PAUSE_TICKS, PAUSED_TICKS = 400, 6
# Bytes as they are written are counted over so many ticks after the first; all that is before is sealed.
WARM_TICKS, COUNTED_TICKS = 64, 512
# The store is kept this often: as the service does, every quarter of a minute of its ticks would be.
KEEP_TICKS = 50
# Under a load that moves as a day does: its noise, and how often it bursts.
NOISE_RATIO, BURST_S, BURST_EVERY_S = 0.08, 90, 5400


@dataclass(frozen=True, slots=True)
class GrowthSetup:
    """The running pipelines. `load` is "demo", that of `ipa demo` (a wave in six minutes), or "day", a day's.

    `cluster` is how Prometheus sees a pipeline on Kubernetes; else it is a pipeline on this machine.
    """

    folder: Path
    pipelines: int = 2
    ticks: int = 2000
    load: str = "day"
    cluster: bool = False
    low_rps: float = 2.0
    high_rps: float = 18.0
    retention: Retention = field(default_factory=Retention)


@dataclass(slots=True)
class Growth:
    """The measurement: bytes of the file after rows of a kind, and memory (MB) as it went on."""

    setup: GrowthSetup
    holds: int = 0
    changes: int = 0
    acts: int = 0
    hold_bytes: float = 0.0
    tick_ms: float = 0.0
    memory_mb: list[float] = field(default_factory=list)
    longest_write_ms: float = 0.0
    stats: StoreSizes | None = None
    pruned: StoreSizes | None = None
    verify_s: float = 0.0
    is_whole: bool = False


def day_load(low_rps: float, high_rps: float, seconds: int, seed: int) -> Floats:
    """Rates per second that go up and down once a day, with noise and a burst each hour and a half."""
    at_s = np.arange(seconds)
    middle, swing = (high_rps + low_rps) / 2, (high_rps - low_rps) / 2
    wave = middle - swing * np.cos(2 * np.pi * (at_s / DAY_S + seed / 7))
    noise = np.random.default_rng(seed).normal(0.0, NOISE_RATIO * middle, seconds)
    bursts = np.where(at_s % BURST_EVERY_S < BURST_S, 0.3 * high_rps, 0.0)
    rates: Floats = np.maximum(wave + noise + bursts, low_rps / 2)
    return rates


def grow(setup: GrowthSetup) -> Growth:
    """Run the loops, keep the store as the service does, and measure."""
    growth = Growth(setup)
    path = setup.folder / "growth.sqlite3"
    with ExitStack() as resources:
        store = open_store(f"sqlite:///{path}", retention=setup.retention)
        resources.callback(store.close)
        loops = [_loop(setup, store, index) for index in range(setup.pipelines)]
        began_s = time.monotonic()
        before = 0
        for tick in range(setup.ticks):
            for index, (loop, world) in enumerate(loops):
                growth.acts += _act(store, loop.pipeline.name, tick, index)
                decision = loop.tick_once()
                growth.changes += decision.action is Action.APPLY
                growth.holds += decision.action is Action.HOLD
                world.clock.wait(TICK_S)
            if tick == WARM_TICKS:
                before = _size(path)
            if tick == WARM_TICKS + COUNTED_TICKS:
                # Before anything is sealed: what rows take as they are written.
                growth.hold_bytes = (_size(path) - before) / (COUNTED_TICKS * setup.pipelines)
            if tick % KEEP_TICKS == KEEP_TICKS - 1:
                report = store.prune(loops[0][1].clock.now())
                growth.longest_write_ms = max(growth.longest_write_ms, 1000 * report.longest_write_s)
                growth.memory_mb.append(_memory_mb())
        growth.tick_ms = 1000 * (time.monotonic() - began_s) / (setup.ticks * setup.pipelines)
        # As if all of it were older than every decision is kept.
        later = loops[0][1].clock.now() + timedelta(seconds=setup.retention.decisions_s + DAY_S)
        # First all of it sealed, and nothing removed.
        store.prune(
            later, Retention(decisions_s=2 * (setup.retention.decisions_s + DAY_S), decisions_bytes=None)
        )
        growth.stats = sizes_of(store)
        store.prune(later)
        growth.pruned = sizes_of(store)
        began_s = time.monotonic()
        verified = [store.verify(loop.pipeline.name, full=True) for loop, _ in loops]
        growth.verify_s = time.monotonic() - began_s
        growth.is_whole = all(each.decisions for each in verified)
    return growth


def _loop(setup: GrowthSetup, store: Store, index: int) -> tuple[ControlLoop, SimWorld]:
    pipeline, profiles = packaged_example()
    pipeline = replace(pipeline, name=f"{pipeline.name}-{index}")
    seconds = math.ceil((setup.ticks + 1) * TICK_S)
    made = moving_load if setup.load == "demo" else day_load
    rates = tuple(made(setup.low_rps, setup.high_rps, seconds, index))
    simulated = SimSetup(pipeline, profiles, rates, seed=index)
    inputs = PolicyInputs(pipeline, profiles, None, "exact", 5.0)
    world = SimWorld(
        pipeline,
        GroundTruth(pipeline, profiles),
        first_configs(simulated, inputs),
        request_times(rates, "poisson", seed=(index, 1)),
        cluster=ClusterSettings(),
        metrics=ON_CLUSTER if setup.cluster else MetricsSettings(),
        seed=index,
    )
    store.set_control(
        pipeline.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE, "kim", "growth")
    )
    loop = ControlLoop(
        pipeline,
        LoopPorts(world.clock, world.metrics, world.workload, store, store),
        policy=make_policy("ours", inputs),
        predict=inputs.predictor(),
        forecaster=forecaster_of(ForecastSettings(), rates, world.clock.monotonic_s),
        settings=GuardSettings(tick_s=TICK_S, correct_profiles=True),
        window_s=120.0,
        run_id=f"{index:08x}",
        made_of=made_of(inputs),
        on_decision=(Changes(store.note),),
    )
    return loop, world


def _act(store: Store, pipeline: str, tick: int, index: int) -> int:
    """The acts of a person at this tick; their number."""
    at = (tick + 37 * index) % PAUSE_TICKS
    control = PipelineControl(mode=Mode.ACTIVE)
    if at == PAUSE_TICKS // 2:
        paused = replace(control, paused=True, paused_reason=f"release {tick}", paused_by="kim")
        store.set_control(pipeline, paused, Attribution(ControlAction.PAUSE, "kim", f"release {tick}"))
        return 1
    if at == PAUSE_TICKS // 2 + PAUSED_TICKS:
        store.set_control(pipeline, control, Attribution(ControlAction.RESUME, "kim", "done"))
        return 1
    return 0


def _size(path: Path) -> int:
    """The bytes of the database, its log written back."""
    other = sqlite3.connect(path)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages, free, page_bytes = (
        other.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    other.close()
    return int((pages - free) * page_bytes)


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def projected_bytes(
    stats: StoreSizes, pruned: StoreSizes, retention: Retention, per_day: float, days: int
) -> float:
    """The bytes of a record that grows by `per_day` decisions, after so many days.

    `stats` are those of a store whose decisions are all sealed, `pruned` those of it without its holds.
    """
    full, lasting = stats.sealed_bytes / stats.decisions, pruned.sealed_bytes / stats.decisions
    full_days = min(days, retention.decisions_s / DAY_S)
    if retention.decisions_bytes is not None:
        full_days = min(full_days, retention.decisions_bytes / (per_day * full))
    return per_day * (full_days * full + (days - full_days) * lasting)
