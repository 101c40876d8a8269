"""The worlds, and one run of the loop in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path

import numpy as np

from experiments.published.data import PIPELINES, WORKLOADS
from experiments.reality.loads import rates_of
from ipa.control.engine.guards import GuardSettings
from ipa.files import load_pipeline, load_profiles
from ipa.policies.table import PolicyInputs
from ipa.settings import Settings
from ipa.simulate.ground_truth import SlowPeriod
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import SimResult, SimSetup, first_configs, simulate

ROOT = Path(__file__).resolve().parents[2]
AS_PROFILED = "as profiled"
# Wrong profiles are wrong by half, a neighbour takes half of the machine.
SLOW, QUICK, NEIGHBOUR = 1.5, 0.5, 2.0
NEIGHBOURS_S = ((300.0, 360.0), (700.0, 760.0))
# A drift goes from 1 to SLOW in steps of this many seconds.
DRIFT_FROM_S, DRIFT_STEP_S, DRIFT_STEPS = 120.0, 60.0, 10
# Bursts: four times the rate for a fifth of the time, a quarter of it else; the mean is the load's.
BURST_RATIOS, BURST_STAYS_S = (0.25, 4.0), (4.0, 1.0)
LATE = MetricsSettings(scrape_interval_s=5.0, delay_s=10.0, rate_window_s=15.0)

# The service's own loop.
SERVICE = GuardSettings(peek_s=Settings().peek_s, correct_profiles=Settings().correct_profiles)


@dataclass(frozen=True, slots=True)
class Cell:
    """A pipeline under a load, in a world, controlled by a policy in the service's loop."""

    pipeline: str
    workload: str
    world: str
    seed: int
    policy: str = "ours"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run in figures: the share of requests that were late or lost, mean cores and accuracy, changes."""

    cell: Cell
    late_ratio: float
    cores: float
    pas: float
    changes: int


def _slow(*periods: SlowPeriod) -> Callable[[SimSetup], SimSetup]:
    return lambda setup: replace(setup, slow=periods)


def _one_stage(setup: SimSetup) -> SimSetup:
    return replace(setup, slow=(SlowPeriod(0.0, inf, SLOW, setup.pipeline.served[0].name),))


def _one_variant(setup: SimSetup) -> SimSetup:
    """The variant that runs first at the last stage is slow."""
    config = setup.start[-1]
    return replace(setup, slow=(SlowPeriod(0.0, inf, SLOW, config.stage, config.variant),))


def _drifting() -> tuple[SlowPeriod, ...]:
    # Factors of periods that overlap multiply.
    factor = SLOW ** (1 / DRIFT_STEPS)
    return tuple(SlowPeriod(DRIFT_FROM_S + step * DRIFT_STEP_S, inf, factor) for step in range(DRIFT_STEPS))


def _bursts(setup: SimSetup) -> SimSetup:
    """Each second's rate is that of the state in which a Markov process is then."""
    rng = np.random.default_rng((setup.seed, 1))
    ratios: list[float] = []
    while len(ratios) < len(setup.rates_rps):
        for ratio, stay_s in zip(BURST_RATIOS, BURST_STAYS_S, strict=True):
            ratios += [ratio] * int(rng.geometric(1 / stay_s))
    return replace(setup, rates_rps=tuple(np.asarray(setup.rates_rps) * ratios[: len(setup.rates_rps)]))


def _no_room(setup: SimSetup) -> SimSetup:
    """The bound on cores is what the plan of the highest rate takes, a fifth of its throughput in reserve.

    A change finds no cores beside it.
    """
    peak = replace(setup, rates_rps=(max(setup.rates_rps) / 0.8,), start=())
    configs = first_configs(peak, PolicyInputs(setup.pipeline, setup.profiles, setup.objective))
    cores = float(ceil(sum(config.total_cores for config in configs)))
    bounds = replace(setup.pipeline.bounds, cores=cores, transition_cores=cores)
    return replace(setup, pipeline=replace(setup.pipeline, bounds=bounds))


WORLDS: dict[str, Callable[[SimSetup], SimSetup]] = {
    AS_PROFILED: lambda setup: setup,
    "all slower": _slow(SlowPeriod(0.0, inf, SLOW)),
    "all quicker": _slow(SlowPeriod(0.0, inf, QUICK)),
    "one stage slower": _one_stage,
    "one variant slower": _one_variant,
    "drifting": _slow(*_drifting()),
    "neighbours": _slow(*(SlowPeriod(*period, NEIGHBOUR) for period in NEIGHBOURS_S)),
    "bursts": _bursts,
    "late metrics": lambda setup: replace(setup, metrics=LATE),
    "no room": _no_room,
    "no room and slower": lambda setup: replace(_no_room(setup), slow=(SlowPeriod(0.0, inf, SLOW),)),
}


def cells(seeds: int, worlds: tuple[str, ...]) -> list[Cell]:
    """Every run: 20 cells of pipeline and load, in each world."""
    return [
        Cell(pipeline, workload, world, seed)
        for world in worlds
        for pipeline in PIPELINES
        for workload in WORKLOADS
        for seed in range(1, seeds + 1)
    ]


def setup_of(cell: Cell) -> SimSetup:
    """All that the simulator is told."""
    pipeline = load_pipeline(ROOT / "pipelines" / cell.pipeline / "pipeline.yaml")
    rates = tuple(float(rate) for rate in rates_of(cell.workload, cell.seed))
    setup = SimSetup(
        pipeline,
        load_profiles(ROOT / "profiles", cell.pipeline),
        rates,
        cell.policy,
        seed=cell.seed,
        guards=SERVICE,
    )
    start = first_configs(setup, PolicyInputs(pipeline, setup.profiles))
    return WORLDS[cell.world](replace(setup, start=start))


def result_of(cell: Cell) -> SimResult:
    """The run."""
    return simulate(setup_of(cell))


def run(cell: Cell) -> Outcome:
    """The figures of the run."""
    summary = result_of(cell).summary()
    return Outcome(
        cell, summary["violation_ratio"], summary["cores_mean"], summary["pas_mean"], summary["changes"]
    )
