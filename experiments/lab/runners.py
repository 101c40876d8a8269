"""The runners by name: a new kind of experiment is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments.lab.experiment import Experiment
from experiments.lab.pool import Work
from experiments.lab.units import Finished, Unit

Units = Callable[[Experiment, Path], tuple[list[Unit], list[str]]]
Parts = Callable[[Experiment, Sequence[Finished], Path], list[str]]
Headline = Callable[[Experiment, Sequence[Finished]], str]


@dataclass(frozen=True, slots=True)
class Runner:
    """What an experiment needs: its runs (and what was left out), the work of one, and its report.

    `units` and `parts` are also told where the published data is, if it is there at all. `work` is imported
    by workers by name.
    """

    units: Units
    work: Work
    parts: Parts
    headline: Headline


_MODULES: Mapping[str, tuple[str, str]] = {
    "simulate": ("experiments.lab.simulated", "experiments.lab.simulated_page"),
    "forecast": ("experiments.lab.forecasts", "experiments.lab.forecasts_page"),
    "fleet": ("experiments.lab.fleets", "experiments.lab.fleets_page"),
}


def runner_of(name: str) -> Runner:
    """The runner of that name; a schema says which there are."""
    making, page = (import_module(module) for module in _MODULES[name])
    return Runner(making.units, making.work, page.parts, page.headline)
