"""The planning problem of a pipeline, its profiles and a rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from ipa.model.errors import NotFoundError, UsageError
from ipa.model.pipeline import Bounds, Objective, Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.model.recording import ById
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.profiling.points import Allocation, LatencySource, operating_points

# A request in thirty years; below it the logarithms of the queue's formulas end.
LEAST_RPS = 1e-9
# The API's bound: beyond it no number of replicas is a number.
MOST_RPS = 1e9
# Fitted stages kept in the cache, about 50 kB each.
MOST_FITTED = 256


@lru_cache(MOST_FITTED)
def _fitted(
    profile: ById,
    stage: ById,
    objective: Objective,
    bounds: Bounds,
    allocation: Allocation,
    source: LatencySource,
) -> StageProblem:
    """The stage with its points: what-ifs of one pipeline differ in rate and SLA alone."""
    points = operating_points(
        profile.value, stage.value, objective, bounds, allocation=allocation, source=source
    )
    return _stage_problem(stage.value, _receiving(points, stage.value.request_s))


def _receiving(points: tuple[OperatingPoint, ...], request_s: float) -> tuple[OperatingPoint, ...]:
    """The points of replicas that receive each item of a batch by itself, which takes so long of a core.

    Profiles are measured with batches that come as one request. To receive it takes no longer than the
    quickest answer on these cores.
    """
    if not request_s:
        return points
    quickest_s: dict[float, float] = {}
    for point in points:
        quickest_s[point.cores] = min(point.mean_s, quickest_s.get(point.cores, inf))
    received = []
    for point in points:
        more_s = (point.batch_size - 1) * min(request_s / min(point.cores, 1.0), quickest_s[point.cores])
        received.append(
            replace(
                point,
                latency_s=point.latency_s + more_s,
                latency_mean_s=None if point.latency_mean_s is None else point.latency_mean_s + more_s,
                capacity_rps=point.batch_size / (point.batch_size / point.capacity_rps + more_s),
            )
        )
    return tuple(received)


def check_rate(rate_rps: float) -> None:
    """UsageError if the rate is beyond any real load."""
    if not LEAST_RPS <= rate_rps <= MOST_RPS:
        raise UsageError(f"the rate (--rate) must be above 0 and at most {MOST_RPS:g} rps, not {rate_rps:g}")


def planning_problem(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    *,
    objective: str | None = None,
    compat: Compat = Compat.TAIL,
    allocation: Allocation = Allocation.FREE,
    running: Sequence[StageConfig] = (),
) -> PlanningProblem:
    """The problem of carrying `rate_rps` at the named objective (None: the pipeline's default).

    `running` is the running configuration, if a change to it counts. `ipa-artifact` plans with latencies as
    measured, as the released program does, else they are fitted. Errors: UsageError (a rate that is not above
    0), NotFoundError (no such objective, no profile of a stage).
    """
    check_rate(rate_rps)
    missing = [stage.name for stage in pipeline.stages if stage.variants and stage.name not in profiles]
    if missing:
        raise NotFoundError(f"pipeline {pipeline.name!r} has no profile of {', '.join(missing)}")
    wanted = pipeline.objective(objective)
    source = LatencySource.MEASURED if compat is Compat.IPA_ARTIFACT else LatencySource.FITTED
    # Operating points do not depend on the SLA.
    fitted_for = replace(wanted, sla_s=None)
    stages = tuple(
        _fitted(ById(profiles[stage.name]), ById(stage), fitted_for, pipeline.bounds, allocation, source)
        if stage.variants
        else _stage_problem(stage, ())
        for stage in pipeline.stages
    )
    sla_s = pipeline.sla.latency_s if wanted.sla_s is None else wanted.sla_s
    return PlanningProblem(
        pipeline.name,
        rate_rps,
        sla_s,
        stages,
        wanted,
        pipeline.bounds,
        compat,
        pipeline.sla.percentile,
        tuple(running),
        SIDE_BY_SIDE.of(pipeline),
        prices=pipeline.prices,
    )


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A pipeline and a rate to plan it for: its profiles by stage, and the options of `planning_problem`."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    rate_rps: float
    objective: str | None = None
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE

    def problem(self) -> PlanningProblem:
        """The problem to solve. Errors: those of `planning_problem`."""
        return planning_problem(
            self.pipeline,
            self.profiles,
            self.rate_rps,
            objective=self.objective,
            compat=self.compat,
            allocation=self.allocation,
        )


def _stage_problem(stage: Stage, points: tuple[OperatingPoint, ...]) -> StageProblem:
    return StageProblem(
        name=stage.name,
        points=points,
        after=stage.after,
        batch_timeout_s=stage.batch_timeout_s,
        kind=stage.kind,
        combine=stage.combine,
        bounds=stage.own_bounds,
        pin=stage.pin,
        unbatched=stage.unbatched,
        in_replica=stage.in_replica,
        hop_s=stage.hop_s,
    )
