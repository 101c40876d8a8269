"""Our planner against IPA's with one weight set a pipeline, by planning alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.published.compare import SLACK, cheapest, planned
from experiments.published.data import peak_rates
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.optimize.problem import Compat
from ipa.profiling.points import Allocation

OBJECTIVES = ("default", "paper-v3")
# `ours` weighs accuracy against cores as `ipa` does; the others take the fewest cores at the accuracy that
# `ipa` would have at the same rate, with our latency under random arrivals or with the paper's.
IPA, OURS, AT_TAIL, AT_PAPER = "ipa", "ours", "at its accuracy", "at its accuracy, paper latency"
SYSTEMS = (IPA, OURS, AT_TAIL, AT_PAPER)
COMPATS = {AT_TAIL: Compat.TAIL, AT_PAPER: Compat.PAPER}
# The goal: cores on the mean of the cells, relative to ipa's.
CORES_GOAL = 0.8


@dataclass(frozen=True, slots=True)
class Outcome:
    """The mean cores and PAS that a system would have in a cell."""

    pipeline: str
    workload: str
    objective: str
    system: str
    cores: float
    pas: float

    @property
    def cell(self) -> tuple[str, str, str]:
        """The cell."""
        return (self.pipeline, self.workload, self.objective)


def plan_cell(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    objective_name: str,
    workload: str,
    pattern: Sequence[float],
) -> Iterator[Outcome]:
    """The mean cores and PAS of each system over the ticks, planned with foresight."""
    objective = pipeline.objective(objective_name)
    ticks = Counter(peak_rates(pattern, 0))
    sums = {system: [0.0, 0.0] for system in SYSTEMS}
    for rate_rps, count in ticks.items():
        ipa = planned(pipeline, profiles, rate_rps, objective, Allocation.BASE, None, Compat.PAPER)
        floor = (ipa.pas or 0.0) * (1 - SLACK)
        plans = {
            IPA: ipa,
            OURS: planned(pipeline, profiles, rate_rps, objective, Allocation.FREE, None, Compat.TAIL),
        }
        for system, compat in COMPATS.items():
            plans[system] = planned(
                pipeline, profiles, rate_rps, cheapest(objective), Allocation.FREE, floor, compat
            )
        for system, plan in plans.items():
            if plan.cost_cores is None or plan.pas is None:
                raise ValueError(f"{pipeline.name} at {rate_rps:g} rps: {system} has no plan")
            sums[system][0] += count * plan.cost_cores
            sums[system][1] += count * plan.pas
    total = sum(ticks.values())
    for system, (cores, pas) in sums.items():
        yield Outcome(pipeline.name, workload, objective_name, system, cores / total, pas / total)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A system against ipa over cells: ratios of cores, and in how many cells each goal is met."""

    system: str
    objective: str
    cells: int
    cores_mean_ratio: float
    cores_worst_ratio: float
    no_less_accurate: int
    no_more_cores: int

    @property
    def met(self) -> bool:
        """True if all goals are met in all cells."""
        return (
            self.cores_mean_ratio <= CORES_GOAL and self.cells == self.no_less_accurate == self.no_more_cores
        )


def verdicts(outcomes: Sequence[Outcome]) -> Iterator[Verdict]:
    """Every system but ipa, by objective."""
    by_key = {(each.cell, each.system): each for each in outcomes}
    for objective in dict.fromkeys(each.objective for each in outcomes):
        cells = [each.cell for each in outcomes if each.system == IPA and each.objective == objective]
        for system in SYSTEMS[1:]:
            pairs = [(by_key[cell, IPA], by_key[cell, system]) for cell in cells]
            ratios = [own.cores / ipa.cores for ipa, own in pairs]
            yield Verdict(
                system,
                objective,
                len(cells),
                fmean(ratios),
                max(ratios),
                sum(own.pas >= ipa.pas * (1 - 1e-6) for ipa, own in pairs),
                sum(ratio <= 1 + SLACK for ratio in ratios),
            )
