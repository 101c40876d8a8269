"""An experiment.yaml as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class PipelineArm:
    """A pipeline by name or path, and the values that replace those of its file."""

    pipeline: str
    name: str = ""
    objective: str | None = None
    accuracy_floor: float | None = None
    cores: float | None = None
    # Old and new replicas of a change together, where that may be more.
    transition_cores: float | None = None
    # The throughputs of its profile are the largest Poisson rates whose 99th percentile meets this.
    capacity_within_s: float | None = None
    # By stage: items sent on for each received, one number or by variant.
    fan_out: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkloadArm:
    """A load: one of the named ones (`like`), a trace file, or a file of the published data.

    `at` is the place in a published JSON file, a JSON pointer. Rates are multiplied by `scale`.
    """

    name: str
    like: str | None = None
    trace: str | None = None
    shared: str | None = None
    at: str | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment: every combination of its arms is a cell.

    `slas` are as written: `own`, a multiple of the fastest plan's latency (`1.5x`) or a duration. `reference`
    is the policy that the others are compared with. `minutes` None: as long as its trace. `settings` are
    those of a runner that is not part of ipa. Pipelines and profiles lie in the two folders.
    """

    name: str
    title: str
    runner: str
    path: Path
    pipelines_dir: Path
    profiles_dir: Path
    question: str = ""
    minutes: float | None = 20.0
    seeds: tuple[int, ...] = (1, 2, 3)
    spacing: str = "poisson"
    interval_s: float = 10.0
    pipelines: tuple[PipelineArm, ...] = ()
    workloads: tuple[WorkloadArm, ...] = ()
    slas: tuple[str, ...] = ("own",)
    policies: tuple[str, ...] = ()
    forecasters: tuple[str, ...] = ("ladder",)
    reference: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False
