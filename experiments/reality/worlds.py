"""The worlds, and one run of the loop in each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.published.data import PIPELINES, WORKLOADS
from experiments.reality.loads import rates_of
from ipa.control.engine.guards import GuardSettings
from ipa.files import load_pipeline, load_profiles
from ipa.settings import Settings
from ipa.simulate.run import SimResult, SimSetup, in_world, simulate

ROOT = Path(__file__).resolve().parents[2]
AS_PROFILED = "as profiled"
# By name in the tables, the worlds as `ipa simulate --world` takes them.
WORLDS = {
    AS_PROFILED: "as-profiled",
    "all slower": "slow:1.5",
    "all quicker": "slow:0.5",
    "one stage slower": "slow-stage:1.5",
    "one variant slower": "slow-variant:1.5",
    "drifting": "drift:1.5",
    "neighbours": "neighbours:2",
    "bursts": "bursts",
    "late metrics": "late-metrics:10",
    "no room": "no-room",
    "no room and slower": "no-room+slow:1.5",
}

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
    profiles = load_profiles(ROOT / "profiles", cell.pipeline)
    return in_world(
        SimSetup(
            pipeline,
            profiles,
            rates,
            cell.policy,
            seed=cell.seed,
            guards=SERVICE,
            world=WORLDS[cell.world],
        )
    )


def result_of(cell: Cell) -> SimResult:
    """The run."""
    return simulate(setup_of(cell))


def run(cell: Cell) -> Outcome:
    """The figures of the run."""
    summary = result_of(cell).summary()
    return Outcome(
        cell, summary["violation_ratio"], summary["cores_mean"], summary["pas_mean"], summary["changes"]
    )
