"""An experiment.yaml as values, and the runners, which make its cells, compute each, and report."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa.experiment.cells import CellOutcome, ExperimentCell, Finished
from ipa.plugins import Registry
from ipa.report.blocks import Block
from ipa.simulate.registry import AS_PROFILED


@dataclass(frozen=True, slots=True)
class PipelineArm:
    """A pipeline by name or path, and the values that replace those of its file."""

    pipeline: str
    name: str = ""
    objective: str | None = None
    accuracy_floor: float | None = None
    cores: float | None = None
    # Old and new replicas of a change together, if that may be more.
    transition_cores: float | None = None


@dataclass(frozen=True, slots=True)
class WorkloadArm:
    """A load: a named one (`like`), a trace file, or a file of the published data.

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
    is the policy that the others are compared with. The forecaster AUTHORS is that of each policy's authors.
    `minutes` None: as long as its trace. `settings` are the values of settings of the service by environment
    variable, or those of a runner that is not part of ipa. Pipelines and profiles lie in the two folders.
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
    worlds: tuple[str, ...] = (AS_PROFILED,)
    reference: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False


@dataclass(frozen=True, slots=True)
class ExperimentRunner:
    """A kind of experiment.

    `cells` returns the cells in a fixed order, and notes on what was left out. `work` computes the outcome of
    a cell from its payload and series; workers import it. `blocks` returns the report's contents. `words`
    describes each cell in a sentence.
    """

    cells: Callable[[Experiment], tuple[list[ExperimentCell], list[str]]]
    work: Callable[[Mapping[str, Any], Mapping[str, array[float]]], CellOutcome]
    blocks: Callable[[Experiment, Sequence[Finished]], list[Block]]
    words: Callable[[Experiment], str] = lambda experiment: ""


SIMULATE, AUTHORS = "simulate", "authors"
RUNNERS = Registry("ipa.runners", "runner", {SIMULATE: "ipa.experiment.simulated_page:RUNNER"})


def runner_of(name: str) -> ExperimentRunner:
    """The runner of that name, or of module:attribute. Errors: UsageError, PluginError."""
    runner = RUNNERS.load(RUNNERS.admit(name))
    if not isinstance(runner, ExperimentRunner):
        raise RUNNERS.find(name).fault("is not an ipa.experiment.runners.ExperimentRunner")
    return runner
