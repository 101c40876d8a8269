"""The true performance of replicas in a simulation: their profiles, without a planner's margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log, prod

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Bounds, Pipeline, Stage, StageBounds
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.policies.planning import planning_problem
from ipa.profiling.points import BATCH_SIZES, Allocation, under_load
from ipa.queueing.service import ServiceTime, service_of
from ipa.simulate.cluster import Serving

# InfAdapter's ResNets were ready after 6.4 to 8.5 s; used for variants whose start was not measured.
READINESS_S = 7.0
AS_PLANNED: Mapping[str, Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class SlowPeriod:
    """A period in which batches take `ratio` times as long: a neighbour on the machine, or throttling.

    It concerns one stage or variant if given, else all. Batches that began before it are not slowed.
    """

    start_s: float
    end_s: float
    ratio: float
    stage: str = ""
    variant: str = ""

    def holds(self, config: StageConfig, at_s: float) -> bool:
        """True if batches of the configuration that begin then are slow."""
        return (
            self.start_s <= at_s < self.end_s
            and self.stage in ("", config.stage)
            and self.variant in ("", config.variant)
        )


class GroundTruth:
    """Service times, start-up times and accuracies of a pipeline's possible configurations.

    They come from the same fits as planning, at every batch size that may be planned with and the powers of
    two, but without the objective's margins and limits. `readiness_s` is for variants whose profile has none.
    `slow` are the periods in which batches take longer.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        readiness_s: float = READINESS_S,
        slow: Sequence[SlowPeriod] = (),
    ) -> None:
        plain = replace(
            pipeline.objective(), latency_margin_ratio=0.0, throughput_margin_ratio=0.0, max_batch_size=None
        )
        free = replace(
            pipeline,
            stages=tuple(_unbounded(stage, pipeline.bounds) for stage in pipeline.stages),
            bounds=Bounds(),
            objectives={plain.name: plain},
            default_objective=plain.name,
        )
        self._problem = planning_problem(free, profiles, 1.0, allocation=Allocation.FREE)
        self._points = {
            (stage.name, point.variant, point.batch_size, point.cores): point
            for stage in self._problem.stages
            for point in stage.points
        }
        self._accuracies = {key[:2]: point.accuracy for key, point in self._points.items()}
        self._readiness_s = readiness_s
        self._percentile = pipeline.sla.percentile
        self._services: dict[tuple[str, str, int, float], ServiceTime] = {}
        self._slow = tuple(slow)
        self._moments_s = sorted({at_s for each in slow for at_s in (each.start_s, each.end_s)})

    def next_moment_s(self, after_s: float) -> float:
        """The first moment after that time at which a slow period begins or ends; infinite without one."""
        return next((at_s for at_s in self._moments_s if at_s > after_s), inf)

    def service(self, config: StageConfig, at_s: float = -inf) -> ServiceTime:
        """The service time of one replica, of batches that begin then; by default outside of slow periods.

        NotFoundError for a variant on cores that were not measured.
        While variants are replaced, an old one may be given a batch size at which only the new one was
        measured: the line through a single item and the nearest measured batch is then extrapolated.
        """
        key = _key(config)
        if key not in self._services:
            point = self._point(config)
            single = self._points.get((config.stage, config.variant, 1, config.cores))
            has_waiting = (
                point.latency_mean_s is None and point.capacity_rps * point.latency_s > point.batch_size
            )
            service = under_load(point, self._percentile) if has_waiting else service_of(point, single)
            if point.batch_size not in (1, config.batch_size):
                slope_s = (service.full_s - service.one_s) / (point.batch_size - 1)
                full_s = service.one_s + slope_s * (config.batch_size - 1)
                service = replace(service, full_s=max(full_s, service.one_s))
            self._services[key] = service
        known, ratio = self._services[key], prod(it.ratio for it in self._slow if it.holds(config, at_s))
        return known if ratio == 1 else replace(known, full_s=known.full_s * ratio, one_s=known.one_s * ratio)

    def startup_s(self, config: StageConfig) -> float:
        """The time until a new replica serves."""
        return self._point(config).readiness_s or self._readiness_s

    def pas(
        self, serving: Mapping[str, Serving], served: Mapping[str, Mapping[str, int]] = AS_PLANNED
    ) -> float:
        """The pipeline's accuracy with those pods.

        A stage's is the mean over the items that its variants `served`, if given, else the mean weighted by
        its pods' capacities.
        """
        means = (
            self._accuracy(name, serving[name], served.get(name, {})) if name in serving else 1.0
            for name in (stage.name for stage in self._problem.stages)
        )
        return self._problem.graph.accuracy(list(means))

    def _accuracy(self, stage: str, serving: Serving, served: Mapping[str, int]) -> float:
        planned = [
            (config.variant, config.replicas * self._point(config).capacity_rps) for _, config in serving
        ]
        weighted = list(served.items()) or planned
        total = sum(weight for _, weight in weighted)
        parts = (weight * self._accuracies[stage, variant] for variant, weight in weighted)
        return sum(parts) / total if total else 0.0

    def _point(self, config: StageConfig) -> OperatingPoint:
        """The point of the configuration, or of the nearest batch size of the same variant and cores."""
        point = self._points.get(_key(config))
        if point is not None:
            return point
        same = [
            point
            for (stage, variant, _, cores), point in self._points.items()
            if (stage, variant, cores) == (config.stage, config.variant, config.cores)
        ]
        if not same:
            raise NotFoundError(
                f"{config} was not measured, so its performance is not known",
                hint="Measure it, or start with a configuration of the profiles.",
            )
        return min(same, key=lambda point: abs(log(point.batch_size / config.batch_size)))


def _key(config: StageConfig) -> tuple[str, str, int, float]:
    return config.stage, config.variant, config.batch_size, config.cores


def _unbounded(stage: Stage, bounds: Bounds) -> Stage:
    """The stage with every batch size that it may get."""
    allowed = stage.limits(bounds).batch_sizes or ()
    pinned = stage.pin.batch_size
    sizes = {*BATCH_SIZES, *allowed, *(() if pinned is None else (pinned,))}
    return replace(stage, unbatched="", bounds=StageBounds(batch_sizes=tuple(sorted(sizes))))
