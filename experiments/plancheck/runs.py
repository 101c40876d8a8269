"""Whole runs in the simulator, with the production engine in the loop, with and without the check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.render import aligned
from ipa.files import load_pipelines, load_profiles
from ipa.simulate.arrivals import workload_rates
from ipa.simulate.run import SimSetup, simulate

POLICIES = ("ours", "ours-checked")
# Those that carry the named workloads; the two that are made for this machine do not.
PIPELINES = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run of 20 minutes."""

    pipeline: str
    workload: str
    policy: str
    violation_ratio: float
    latency_p99_s: float
    sla_s: float
    cores_mean: float
    pas_mean: float
    changes: int


def run(cell: tuple[str, str, str]) -> Run:
    """One run: (pipeline, workload, policy)."""
    name, workload, policy = cell
    pipeline, profiles = load_pipelines(Path("pipelines"))[name], load_profiles(Path("profiles"), name)
    setup = SimSetup(pipeline, profiles, tuple(workload_rates(workload)), policy=policy, seed=1)
    seen = simulate(setup).summary()
    return Run(
        name,
        workload,
        policy,
        seen["violation_ratio"],
        seen["latency_p99_s"],
        pipeline.sla.latency_s,
        seen["cores_mean"],
        seen["pas_mean"],
        seen["changes"],
    )


def cells(workloads: Sequence[str]) -> list[tuple[str, str, str]]:
    """All that are to be run."""
    return [(name, load, policy) for name in PIPELINES for load in workloads for policy in POLICIES]


def run_table(runs: Sequence[Run]) -> list[str]:
    """A line a run."""
    lines = [
        ["pipeline", "workload", "policy", "violations", "p99 of the SLA", "cores", "accuracy", "changes"]
    ]
    lines += [
        [
            each.pipeline,
            each.workload,
            each.policy,
            f"{100 * each.violation_ratio:.2f} %",
            f"{100 * each.latency_p99_s / each.sla_s:.0f} %",
            f"{each.cores_mean:.2f}",
            f"{each.pas_mean:.4f}",
            str(each.changes),
        ]
        for each in runs
    ]
    return aligned(lines)
