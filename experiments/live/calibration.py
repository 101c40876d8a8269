"""Calibration: the slowdowns of variants on this machine whose profiles are of another one.

A few batches of each are measured as its profile was, on one number of cores and one or two batch sizes of
the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean, median

from ipa.model.errors import IpaError
from ipa.model.profile import (
    AS_MEASURED,
    LEAST_SLOWDOWN,
    MOST_SLOWDOWN,
    ProfilePoint,
    Slowdown,
    Slowdowns,
    StageProfile,
    VariantProfile,
    ratios_of,
)
from ipa.profiling.measure import (
    MIN_BATCHES,
    WARM_UP_BATCHES,
    Item,
    MeasuredReplica,
    MeasurementBench,
    MeasurementEffort,
    ServedReplica,
    hardware_of,
    measure_batches,
    summarise,
)

# A point is measured in rounds, where there is time: the median of their means is not that of a moment in
# which something else ran.
CALIBRATION_ROUNDS, CALIBRATION_EFFORT = 3, MeasurementEffort(repeats=30, budget_s=0.25, warm_up_s=0.0)
# Below one core a replica shares a CPU by its quota, and a few batches say little.
CALIBRATION_CORES = 1.0
CALIBRATION_BATCHES = MIN_BATCHES + WARM_UP_BATCHES


@dataclass(frozen=True, slots=True)
class Calibration:
    """The slowdowns measured on this machine of variants whose profiles are of another one.

    `profiled_on` are the machines of these profiles, `machine` is this one; empty if it is unknown. `detail`
    says what was not measured, and why.
    """

    machine: str = ""
    profiled_on: tuple[str, ...] = ()
    slowdowns: Slowdowns = AS_MEASURED
    detail: str = ""

    def ratio(self, stage: str, variant: str) -> float:
        """The slowdown of the variant; 1 if it was not measured."""
        return ratios_of(self.slowdowns, stage).get(variant, 1.0)


def calibrate(
    bench: MeasurementBench,
    profiles: Sequence[StageProfile],
    items: Mapping[str, Sequence[Item]],
    until_s: float,
    now_s: Callable[[], float],
) -> Calibration:
    """The calibration of all variants of these profiles, which are of another machine; `items` by stage.

    Quick variants come first, so that what they leave of the time is there for slow ones. No measurement
    begins that would end after `until_s` by the profile. A variant that was not measured takes the mean
    slowdown of its stage, or of all stages.
    """
    ratios: dict[tuple[str, str], float] = {}
    left_out: dict[tuple[str, str], str] = {}
    waiting = sorted(
        ((stage, variant) for stage in profiles for variant in stage.variants),
        key=lambda each: _least_s(each[1]),
    )
    for place, (stage, variant) in enumerate(waiting):
        key = stage.stage, variant.variant
        left_s = until_s - now_s()
        if _least_s(variant) > left_s:
            left_out[key] = "no time"
            continue
        end_s = now_s() + left_s / (len(waiting) - place)
        points = _points(variant)
        try:
            with bench.serve(*key, points[0].cores, left_s) as replica:
                ratios[key] = _measured(replica, items[stage.stage], points, end_s, now_s)
        except IpaError as error:
            left_out[key] = error.message
    return Calibration(
        machine=bench.hardware,
        profiled_on=hardware_of(profiles),
        slowdowns=tuple(
            Slowdown(stage.stage, variant.variant, ratio)
            for stage in profiles
            for variant in stage.variants
            if ratios and (ratio := _slowdown_ratio(ratios, stage.stage, variant.variant)) != 1
        ),
        detail=_words(left_out),
    )


def _slowdown_ratio(ratios: dict[tuple[str, str], float], stage: str, variant: str) -> float:
    """The variant's slowdown to a hundredth: as measured, else the mean of its stage, else of all."""
    alike = [ratio for (of, _), ratio in ratios.items() if of == stage]
    ratio = ratios.get((stage, variant)) or geometric_mean(alike or ratios.values())
    return round(min(max(ratio, LEAST_SLOWDOWN), MOST_SLOWDOWN), 2)


def _measured(
    replica: ServedReplica,
    items: Sequence[Item],
    points: Sequence[ProfilePoint],
    end_s: float,
    now_s: Callable[[], float],
) -> float:
    """The mean over the points of the measured time of a batch over the profiled one.

    The first is measured in any case; by it the time of the next is known, which is left out if that would
    end after `end_s`.
    """
    ratios: list[float] = []
    for place, point in enumerate(points):
        due_s = now_s() + (end_s - now_s()) / (len(points) - place)
        batch_s = _mean_s(point) * max(ratios, default=1.0)
        if ratios and CALIBRATION_BATCHES * batch_s > due_s - now_s():
            break
        means_s: list[float] = []
        while len(means_s) < CALIBRATION_ROUNDS and (
            not means_s or now_s() + CALIBRATION_BATCHES * means_s[-1] <= due_s
        ):
            spare_s = (due_s - now_s()) / (CALIBRATION_ROUNDS - len(means_s)) - WARM_UP_BATCHES * batch_s
            effort = replace(CALIBRATION_EFFORT, budget_s=min(CALIBRATION_EFFORT.budget_s, max(spare_s, 0.0)))
            now = measure_point(replica, items, cores=point.cores, batch_size=point.batch_size, effort=effort)
            means_s.append(_mean_s(now))
        ratios.append(median(means_s) / _mean_s(point))
    return geometric_mean(ratios)


def _points(variant: VariantProfile) -> tuple[ProfilePoint, ...]:
    """The smallest and the largest batch size on the most cores up to CALIBRATION_CORES, or on the fewest."""
    cores = {point.cores for point in variant.points}
    at = max((each for each in cores if each <= CALIBRATION_CORES), default=min(cores))
    points = sorted((each for each in variant.points if each.cores == at), key=lambda each: each.batch_size)
    return (points[0], points[-1]) if len(points) > 1 else (points[0],)


def _mean_s(point: ProfilePoint) -> float:
    return point.latency_mean_s or point.latency_s


def _least_s(variant: VariantProfile) -> float:
    """The time of the shortest measurement, by the profile."""
    return (variant.readiness_s or 0.0) + CALIBRATION_BATCHES * _mean_s(_points(variant)[0])


def _words(left_out: dict[tuple[str, str], str]) -> str:
    """The variants that were not measured, with the reason."""
    by_reason: dict[str, list[str]] = {}
    for (stage, variant), reason in left_out.items():
        by_reason.setdefault(reason, []).append(f"{stage}={variant}")
    return "; ".join(
        f"not measured: {', '.join(names)} ({reason})" for reason, names in sorted(by_reason.items())
    )


def measure_point(
    replica: MeasuredReplica,
    items: Sequence[Item],
    *,
    cores: float,
    batch_size: int,
    effort: MeasurementEffort,
) -> ProfilePoint:
    """Measure the point of that batch size once."""
    return summarise(
        [measure_batches(replica, items, batch_size, effort)], cores=cores, batch_size=batch_size
    )
