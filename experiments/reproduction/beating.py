"""Our planner against IPA's with one weight set a pipeline: by planning alone, and in the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from experiments.published.compare import SLACK, cheapest, planned
from experiments.published.data import peak_rates
from ipa.control.guards import GuardSettings
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import StageProfile
from ipa.optimize.problem import Compat
from ipa.policies.base import Planner
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.policies.table import PolicyInputs, make_policy
from ipa.profiling.points import Allocation
from ipa.simulate.run import SimResult, SimSetup, simulate

OBJECTIVES = ("default", "paper-v3")
# `ours` weighs accuracy against cores as `ipa` does; the others take the fewest cores at the accuracy that
# `ipa` would have at the same rate, with our latency under random arrivals or with the paper's.
IPA, OURS, AT_TAIL, AT_PAPER = "ipa", "ours", "at its accuracy", "at its accuracy, paper latency"
SYSTEMS = (IPA, OURS, AT_TAIL, AT_PAPER)
COMPATS = {AT_TAIL: Compat.TAIL, AT_PAPER: Compat.PAPER}
# Each new plan is taken at once, as the released loop does: the fewest cores at an accuracy are not what the
# loop's own measure of worth would wait for.
AT_ONCE = GuardSettings(down_after_ticks=1, tolerance_ratio=-1e9)
WORST_S = 40.0
# The goals: cores on the mean of the cells, and violations in each, relative to ipa's.
CORES_GOAL, LATE_GOAL = 0.8, 0.5

Files = Mapping[str, tuple[Pipeline, Mapping[str, StageProfile]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system came to in a cell; `late_ratio` and `p99_s` are None where only plans were made.

    `worst_ratio` is the share of the late or lost requests that came in the 40 s with most of them.
    """

    pipeline: str
    workload: str
    objective: str
    system: str
    cores: float
    pas: float
    late_ratio: float | None = None
    p99_s: float | None = None
    changes: int = 0
    seed: int | None = None
    worst_ratio: float | None = None

    @property
    def cell(self) -> tuple[str, str, str, int | None]:
        """The cell, and the seed in it."""
        return (self.pipeline, self.workload, self.objective, self.seed)


@dataclass(frozen=True, slots=True)
class AtAccuracy:
    """A planner: the fewest cores at no less than the accuracy that another one has at the same rate."""

    other: Planner
    cheapest: Planner
    fallback: Planner

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: tuple[StageConfig, ...] = ()) -> Plan:
        """The plan; the fallback's where the other has none, or nothing is as accurate in time."""
        floor = self.other(pipeline, rate_rps).pas
        if floor is not None:
            bounds = replace(pipeline.bounds, accuracy_floor=floor * (1 - SLACK))
            plan = self.cheapest(replace(pipeline, bounds=bounds), rate_rps, running)
            if plan.stages:
                return plan
        return self.fallback(pipeline, rate_rps, running)


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


def policy_of(system: str, pipeline: Pipeline, profiles: Mapping[str, StageProfile], objective: str) -> Ours:
    """The system as a policy of the control loop."""
    inputs = PolicyInputs(pipeline, profiles, objective, "exact")
    if system in (IPA, OURS):
        policy = make_policy(system, inputs)
        assert isinstance(policy, Ours)
        return policy
    cheap = cheapest(pipeline.objective(objective))
    asked = replace(
        pipeline,
        objectives={objective: cheap},
        default_objective=objective,
        # Any floor will do here: each plan has its own.
        bounds=replace(pipeline.bounds, accuracy_floor=SLACK),
    )
    own = Profiled(asked, profiles, compat=COMPATS[system], allocation=Allocation.FREE, solver="exact")
    planner = AtAccuracy(inputs.published().plan, own.plan, inputs.profiled().plan)
    return Ours(pipeline, planner, name=system)


def simulate_cell(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    objective: str,
    workload: str,
    pattern: Sequence[float],
    seed: int,
) -> Iterator[Outcome]:
    """Each system's run under the same Poisson arrivals, in the same loop, with the same forecasts."""
    for system in SYSTEMS:
        policy = policy_of(system, pipeline, profiles, objective)
        rates = tuple(float(rate) for rate in pattern)
        setup = SimSetup(pipeline, profiles, rates, policy, objective, seed, guards=AT_ONCE)
        result = simulate(setup)
        found = result.summary()
        yield Outcome(
            pipeline.name,
            workload,
            objective,
            system,
            found["cores_mean"],
            found["pas_mean"],
            found["violation_ratio"],
            found["latency_p99_s"],
            found["changes"],
            seed,
            worst_of(result),
        )


def worst_of(result: SimResult) -> float | None:
    """The share of the late or lost requests that came in the 40 s with most of them; None without any."""
    took_s = result.done_s - result.born_s
    late_s = result.born_s[~(took_s <= result.sla_s)]
    if not len(late_s):
        return None
    inside = np.searchsorted(late_s, late_s + WORST_S, side="right") - np.arange(len(late_s))
    return float(inside.max() / len(late_s))


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
    late_half: int | None

    @property
    def met(self) -> bool:
        """Whether all goals are met in all cells."""
        return (
            self.cores_mean_ratio <= CORES_GOAL
            and self.cells == self.no_less_accurate == self.no_more_cores
            and self.late_half in (None, self.cells)
        )


def verdicts(outcomes: Sequence[Outcome]) -> Iterator[Verdict]:
    """Every system but ipa, by objective."""
    by_key = {(each.cell, each.system): each for each in outcomes}
    for objective in dict.fromkeys(each.objective for each in outcomes):
        cells = [each.cell for each in outcomes if each.system == IPA and each.objective == objective]
        for system in SYSTEMS[1:]:
            pairs = [(by_key[cell, IPA], by_key[cell, system]) for cell in cells]
            ratios = [own.cores / ipa.cores for ipa, own in pairs]
            late = [
                own.late_ratio <= LATE_GOAL * ipa.late_ratio
                for ipa, own in pairs
                if own.late_ratio is not None and ipa.late_ratio is not None
            ]
            yield Verdict(
                system,
                objective,
                len(cells),
                fmean(ratios),
                max(ratios),
                sum(own.pas >= ipa.pas * (1 - 1e-6) for ipa, own in pairs),
                sum(ratio <= 1 + SLACK for ratio in ratios),
                sum(late) if late else None,
            )
