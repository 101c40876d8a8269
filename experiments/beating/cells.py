"""The cells and the systems that are compared in them, and one run of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.published.data import PIPELINES, WORKLOADS
from ipa.control.engine.guards import GuardSettings
from ipa.files import load_pipeline, load_profiles
from ipa.forecast.arrivals import workload_rates
from ipa.settings import Settings
from ipa.simulate.run import ForecastSettings, SimSetup, simulate

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS_FILE = "ipa_workloads.json"
OBJECTIVES = ("paper-v3", "default")

# IPA's released loop learns nothing of the machine's speed.
RELEASED = GuardSettings()
SERVICE = GuardSettings(peek_s=Settings().peek_s, correct_profiles=Settings().correct_profiles)
LADDER = ForecastSettings()
IPA, MEDIAN, OURS, FRUGAL = "ipa", "ipa, median", "ours", "ours-frugal"
OURS_TOLD, TOLD = "ours, told", "ours-frugal, told"


@dataclass(frozen=True, slots=True)
class System:
    """A policy, the loop it runs in, and the forecasts that it plans for ("foresight" knows what comes)."""

    policy: str
    guards: GuardSettings
    forecast: ForecastSettings = LADDER


SYSTEMS = {
    IPA: System("ipa", RELEASED),
    # Its authors' planner takes the point forecast.
    MEDIAN: System("ipa", RELEASED, ForecastSettings(quantile=0.5)),
    OURS: System("ours", SERVICE),
    FRUGAL: System("ours-frugal", SERVICE),
    # Those that are told the true rates.
    OURS_TOLD: System("ours", SERVICE, ForecastSettings("foresight")),
    TOLD: System("ours-frugal", SERVICE, ForecastSettings("foresight")),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run to make."""

    pipeline: str
    workload: str
    objective: str
    system: str
    seed: int
    rates_rps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a system in a cell under a seed; cores are those paid, old and new pods together."""

    pipeline: str
    workload: str
    objective: str
    system: str
    seed: int
    cores: float
    pas: float
    late_ratio: float
    p99_s: float
    changes: int

    @property
    def cell(self) -> tuple[str, str, str]:
        """The cell, whatever the seed."""
        return (self.pipeline, self.workload, self.objective)


def jobs(data: Path, seeds: Mapping[str, int]) -> tuple[list[Job], bool]:
    """Every run, so many seeds for each objective; and whether the loads are the published ones.

    Else they are made up, alike in shape.
    """
    published = data / WORKLOADS_FILE
    known = json.loads(published.read_text("utf-8"))["patterns"] if published.is_file() else None

    def rates(workload: str, seed: int) -> tuple[float, ...]:
        load = workload_rates(workload, seed=seed) if known is None else known[workload]
        return tuple(float(rate) for rate in load)

    return [
        Job(pipeline, workload, objective, system, seed, rates(workload, seed))
        for objective, count in seeds.items()
        for pipeline in PIPELINES
        for workload in WORKLOADS
        for seed in range(1, count + 1)
        for system in SYSTEMS
    ], known is not None


def run(job: Job) -> Outcome:
    """The run, its requests at random in each second."""
    system = SYSTEMS[job.system]
    pipeline = load_pipeline(ROOT / "pipelines" / job.pipeline / "pipeline.yaml")
    result = simulate(
        SimSetup(
            pipeline,
            load_profiles(ROOT / "profiles", job.pipeline),
            job.rates_rps,
            system.policy,
            job.objective,
            job.seed,
            forecast=system.forecast,
            guards=system.guards,
        )
    ).summary()
    return Outcome(
        job.pipeline,
        job.workload,
        job.objective,
        job.system,
        job.seed,
        result["cores_mean"],
        result["pas_mean"],
        result["violation_ratio"],
        result["latency_p99_s"],
        result["changes"],
    )


def by_cell(outcomes: Sequence[Outcome], objective: str) -> Iterator[dict[str, list[Outcome]]]:
    """For each cell of the weights its runs by system, in order."""
    cells = dict.fromkeys(each.cell for each in outcomes if each.objective == objective)
    for cell in cells:
        by_system: dict[str, list[Outcome]] = {}
        for each in outcomes:
            if each.cell == cell:
                by_system.setdefault(each.system, []).append(each)
        yield by_system
