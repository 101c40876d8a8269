"""The runners by name: a kind of experiment is one object that makes cells, computes one, and reports."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.experiment.cells import CellOutcome, ExperimentCell, Finished
from ipa.experiment.experiment import Experiment
from ipa.plugins import Registry
from ipa.report.blocks import Block


@dataclass(frozen=True, slots=True)
class ExperimentRunner:
    """A kind of experiment.

    `cells` returns the cells in a fixed order, and notes on what was left out. `work` computes the outcome
    of a cell from its payload and series; workers import it. `blocks` returns the report's contents. `words`
    describes each cell in a sentence.
    """

    cells: Callable[[Experiment], tuple[list[ExperimentCell], list[str]]]
    work: Callable[[Mapping[str, Any], Mapping[str, array[float]]], CellOutcome]
    blocks: Callable[[Experiment, Sequence[Finished]], list[Block]]
    words: Callable[[Experiment], str] = lambda experiment: ""


SIMULATE = "simulate"
RUNNERS = Registry("ipa.runners", "runner", {SIMULATE: "ipa.experiment.simulated_page:RUNNER"})


def runner_of(name: str) -> ExperimentRunner:
    """The runner of that name, or of module:attribute. Errors: UsageError, PluginError."""
    found = RUNNERS.load(RUNNERS.admit(name))
    if not isinstance(found, ExperimentRunner):
        raise RUNNERS.find(name).fault("is no ipa.experiment.runners.ExperimentRunner")
    return found
