"""The published runs in the simulator: the production loop, settings and habits of the released one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean

from experiments.reproduction.runs import LoggedRun
from experiments.reproduction.settings import repeated, settings_of
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.simulate.run import ForecastSettings, SimSetup, simulate


@dataclass(frozen=True, slots=True)
class LoopRun:
    """A simulated run beside its log.

    `cores` and `pas` are means over the decisions, as the log's; `paid_cores` over time, pods that start and
    drain included; `late_ratio` the share of requests late or lost.
    """

    series: str
    pipeline: str
    workload: str
    system: str
    log_cores: float
    log_pas: float
    cores: float
    pas: float
    paid_cores: float
    late_ratio: float
    changes: int

    @property
    def off(self) -> tuple[float, float]:
        """The distance of cores and PAS from the log, relative to it."""
        return self.cores / self.log_cores - 1, self.pas / self.log_pas - 1


def loop_run(
    run: LoggedRun,
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    pattern: Sequence[float],
    seed: int = 0,
) -> LoopRun:
    """The run with foresight, its requests in a burst at each second's start."""
    published = settings_of(run.settings, pipeline, profiles)
    rates = tuple(float(rate) for rate in pattern)
    setup = SimSetup(pipeline, profiles, rates, seed=seed, forecast=ForecastSettings("foresight"))
    result = simulate(repeated(setup, published))
    summary = result.summary()
    decided = [decision.configs for decision in result.decisions if decision.configs]
    cores = fmean(sum(config.total_cores for config in configs) for configs in decided)
    pas = fmean(
        prod(profiles[config.stage].variant(config.variant).accuracy for config in configs)
        for configs in decided
    )
    return LoopRun(
        *run.cell[:2],
        run.workload,
        run.system,
        run.log.cores,
        run.log.pas,
        cores,
        pas,
        summary["cores_mean"],
        summary["violation_ratio"],
        summary["changes"],
    )
