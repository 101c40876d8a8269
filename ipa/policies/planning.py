"""From a pipeline, its profiles and a rate to a plan."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from ipa.model.errors import NotFoundError, UsageError
from ipa.model.pipeline import Bounds, Objective, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.optimize.problem import Compat, Problem, StageProblem
from ipa.optimize.solve import solve
from ipa.profiling.points import Allocation, LatencySource, operating_points

# A request in thirty years; below it the logarithms of the queue's formulas end.
LEAST_RPS = 1e-9
# Stages that are kept as they were fitted, of some 50 kB each.
MOST_FITTED = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What a stage's operating points are fitted from."""

    profile: StageProfile
    stage: Stage
    objective: Objective
    bounds: Bounds
    allocation: Allocation
    source: LatencySource

    def is_same(self, other: _Asked) -> bool:
        """Whether the other gives the same points: the same objects, and equal numbers of a request."""
        return (
            self.profile is other.profile
            and self.stage is other.stage
            and (self.objective, self.bounds) == (other.objective, other.bounds)
            and (self.allocation, self.source) == (other.allocation, other.source)
        )


class _FittedStages:
    """Stages as they were fitted lately: what-ifs of one pipeline differ in rate and SLA alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], tuple[_Asked, StageProblem]] = OrderedDict()

    def of(self, asked: _Asked) -> StageProblem:
        """The stage with its points; fitted where what it was fitted from is not what is kept."""
        # What is kept also keeps its objects, so that no other has their numbers.
        key = (id(asked.profile), id(asked.stage))
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0].is_same(asked):
                self._kept.move_to_end(key)
                return kept[1]
        made = _stage_problem(
            asked.stage,
            operating_points(
                asked.profile,
                asked.stage,
                asked.objective,
                asked.bounds,
                allocation=asked.allocation,
                source=asked.source,
            ),
        )
        with self._lock:
            self._kept[key] = asked, made
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_FITTED:
                self._kept.popitem(last=False)
        return made


_fitted = _FittedStages()


def check_rate(rate_rps: float) -> None:
    """Return where a plan can be asked for this rate; UsageError where it is not finite and above 0."""
    if not LEAST_RPS <= rate_rps < inf:
        raise UsageError(f"the rate must be above 0 and finite, not {rate_rps:g} rps")


def planning_problem(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    *,
    objective: str | None = None,
    compat: Compat = Compat.TAIL,
    allocation: Allocation = Allocation.FREE,
    running: Sequence[StageConfig] = (),
) -> Problem:
    """The problem of carrying `rate_rps` at the named objective (None: the pipeline's default).

    `running` is what runs now, where a change to it counts.
    `ipa-artifact` plans with latencies as measured, as the released program does, else they are fitted.
    Errors: UsageError (a rate that is not above 0), NotFoundError (no such objective, no profile of a stage).
    """
    check_rate(rate_rps)
    missing = [stage.name for stage in pipeline.stages if stage.variants and stage.name not in profiles]
    if missing:
        raise NotFoundError(f"pipeline {pipeline.name!r} has no profile of {', '.join(missing)}")
    wanted = pipeline.objective(objective)
    source = LatencySource.MEASURED if compat is Compat.IPA_ARTIFACT else LatencySource.FITTED
    # An SLA changes no point.
    fitted_for = replace(wanted, sla_s=None)
    stages = tuple(
        _fitted.of(_Asked(profiles[stage.name], stage, fitted_for, pipeline.bounds, allocation, source))
        if stage.variants
        else _stage_problem(stage, ())
        for stage in pipeline.stages
    )
    sla_s = pipeline.sla.latency_s if wanted.sla_s is None else wanted.sla_s
    return Problem(
        pipeline.name,
        rate_rps,
        sla_s,
        stages,
        wanted,
        pipeline.bounds,
        compat,
        pipeline.sla.percentile,
        tuple(running),
    )


def _stage_problem(stage: Stage, points: tuple[OperatingPoint, ...]) -> StageProblem:
    return StageProblem(
        name=stage.name,
        points=points,
        after=stage.after,
        batch_timeout_s=stage.batch_timeout_s,
        kind=stage.kind,
        combine=stage.combine,
        bounds=stage.bounds,
        pin=stage.pin,
    )


def plan_pipeline(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    *,
    objective: str | None = None,
    compat: Compat = Compat.TAIL,
    allocation: Allocation = Allocation.FREE,
    solver: str = "auto",
    deadline_s: float = 5.0,
) -> Plan:
    """The best plan for the rate, checked; an infeasible one says what would make it feasible.

    Errors: those of `planning_problem` and of `ipa.optimize.solve.solve`.
    """
    problem = planning_problem(
        pipeline, profiles, rate_rps, objective=objective, compat=compat, allocation=allocation
    )
    return solve(problem, solver, deadline_s)
