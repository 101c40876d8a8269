"""Latency over batch size and cores, fitted to measured points.

One fit for each measured core count, as IPA fits l(b) (Ghafouri et al., JSys 2024): quadratic in the batch,
linear if the quadratic would turn negative or fall, constant if the line would too. The fit minimises squares
of *relative* errors, since batch 1 counts as much as batch 64.

Measured on the 1056 points of IPA's five pipelines (median relative error of an inner point left out / of the
points themselves): this 0.22 / 0.16; absolute squares 0.23 / 0.17; one non-negative regression over batch and
cores (1, b, b², 1/c, b/c, b²/c) 0.21 / 0.19. That joint fit misses a core count left out by 0.20 in the
median and 0.60 at the 95th percentile, which is no basis for a plan: between measured core counts there is no
answer, and asking is a DomainError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.polynomial.polynomial import polyfit, polyval
from numpy.typing import NDArray

from ipa.model.errors import DomainError
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, VariantProfile

_Floats = NDArray[np.float64]


class Form(StrEnum):
    """The shape of a fit in the batch size."""

    QUADRATIC = "quadratic"
    LINEAR = "linear"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """l(b) = c₀ + c₁·b + c₂·b² seconds on one core count, between the least and largest measured batch.

    `r2_ratio` is the coefficient of determination on the measured latencies, `max_error_ratio` the largest
    relative error on them. `loo_error_ratio` is the mean relative error on the inner points when each is left
    out and predicted from the others; None with fewer than three batches. `latencies_s` is the fit at each of
    the measured `batch_sizes`, in order.
    """

    cores: float
    form: Form
    coefficients: tuple[float, float, float]
    batch_min: int
    batch_max: int
    r2_ratio: float
    max_error_ratio: float
    loo_error_ratio: float | None
    batch_sizes: tuple[int, ...]
    latencies_s: tuple[float, ...]

    def latency_s(self, batch_size: int) -> float:
        """l(b) in seconds; DomainError outside the measured batch sizes."""
        if not self.batch_min <= batch_size <= self.batch_max:
            raise DomainError(
                f"batch size {batch_size} is outside the measured {self.batch_min}..{self.batch_max} "
                f"on {cores_of(self.cores)}",
                hint="Measure it, or keep to the measured range.",
            )
        c0, c1, c2 = self.coefficients
        return c0 + c1 * batch_size + c2 * batch_size**2


@dataclass(frozen=True, slots=True)
class VariantFit:
    """The fits of one variant by cores, and the points that they were fitted to."""

    variant: str
    fits: Mapping[float, LatencyFit]
    points: Mapping[tuple[float, int], ProfilePoint]

    def at(self, cores: float) -> LatencyFit:
        """The fit on that core count; DomainError if it was not measured."""
        if cores not in self.fits:
            known = ", ".join(f"{size:g}" for size in self.fits)
            raise DomainError(
                f"variant {self.variant!r} was not measured on {cores_of(cores)}",
                hint=f"It was measured on {known}.",
            )
        return self.fits[cores]

    def latency_s(self, batch_size: int, cores: float) -> float:
        """l(b) in seconds; DomainError outside the measured batches and cores."""
        return self.at(cores).latency_s(batch_size)

    def capacity_rps(self, batch_size: int, cores: float) -> float:
        """h(b) in items a second: the measured maximum at that point, else b / l(b).

        If only the mean latency was measured, h(b) is b over that mean. DomainError as for `latency_s`.
        """
        fitted_s = self.latency_s(batch_size, cores)
        point = self.points.get((cores, batch_size))
        if point is not None and point.throughput_rps is not None:
            return point.throughput_rps
        if point is not None and point.latency_mean_s is not None:
            return batch_size / point.latency_mean_s
        return batch_size / fitted_s


# Plans are made every few seconds from the same profiles; a fit is a pure function of its profile.
@lru_cache(maxsize=512)
def fit_variant(profile: VariantProfile) -> VariantFit:
    """The fits of a variant's measured points, one for each core count."""
    by_cores: dict[float, list[ProfilePoint]] = {}
    for point in profile.points:
        by_cores.setdefault(point.cores, []).append(point)
    fits = {cores: _fit_cores(cores, points) for cores, points in sorted(by_cores.items())}
    points = {(point.cores, point.batch_size): point for point in profile.points}
    return VariantFit(profile.variant, MappingProxyType(fits), MappingProxyType(points))


def _fit_cores(cores: float, points: Sequence[ProfilePoint]) -> LatencyFit:
    ordered = sorted(points, key=lambda point: point.batch_size)
    batches = np.array([point.batch_size for point in ordered], dtype=np.float64)
    latencies = np.array([point.latency_s for point in ordered], dtype=np.float64)
    form, coefficients = _best(batches, latencies)
    predicted = np.asarray(polyval(batches, coefficients), dtype=np.float64)
    c0, c1, c2 = (float(value) for value in coefficients)
    return LatencyFit(
        cores=cores,
        form=form,
        coefficients=(c0, c1, c2),
        batch_min=ordered[0].batch_size,
        batch_max=ordered[-1].batch_size,
        r2_ratio=_r2(latencies, predicted),
        max_error_ratio=float(np.max(np.abs(predicted / latencies - 1))),
        loo_error_ratio=_leave_one_out(batches, latencies),
        batch_sizes=tuple(point.batch_size for point in ordered),
        latencies_s=tuple(c0 + c1 * point.batch_size + c2 * point.batch_size**2 for point in ordered),
    )


def _best(batches: _Floats, latencies: _Floats) -> tuple[Form, _Floats]:
    """The richest form that stays positive and never falls between the least and largest batch."""
    for form, degree in ((Form.QUADRATIC, 2), (Form.LINEAR, 1)):
        if len(batches) > degree:
            coefficients = np.zeros(3)
            coefficients[: degree + 1] = polyfit(batches, latencies, degree, w=1 / latencies)
            if _is_sound(coefficients, batches[0], batches[-1]):
                return form, coefficients
    return Form.CONSTANT, np.array([float(np.mean(latencies)), 0.0, 0.0])


def _is_sound(coefficients: _Floats, least: float, largest: float) -> bool:
    """True if positive at the least batch and never falling up to the largest one."""
    _, c1, c2 = coefficients
    value = polyval(least, coefficients)
    return bool(value > 0 and c1 + 2 * c2 * least >= 0 and c1 + 2 * c2 * largest >= 0)


def _r2(measured: _Floats, predicted: _Floats) -> float:
    """R²; if all measured values are equal, 1 if the prediction meets them and 0 if not."""
    total = float(np.sum((measured - measured.mean()) ** 2))
    rest = float(np.sum((measured - predicted) ** 2))
    if total == 0:
        return 1.0 if np.allclose(measured, predicted) else 0.0
    return 1 - rest / total


def _leave_one_out(batches: _Floats, latencies: _Floats) -> float | None:
    inner = range(1, len(batches) - 1)
    if not inner:
        return None
    errors = []
    for index in inner:
        keep = np.arange(len(batches)) != index
        _, coefficients = _best(batches[keep], latencies[keep])
        errors.append(abs(polyval(batches[index], coefficients) / latencies[index] - 1))
    return float(np.mean(errors))
