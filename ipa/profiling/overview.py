"""Summary of a stage's profile: its origin, and a row for each fit used in planning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from ipa.model.profile import StageProfile, VariantProfile
from ipa.profiling.findings import age_days
from ipa.profiling.fit import Form, fit_variant
from ipa.profiling.lint import is_flat


@dataclass(frozen=True, slots=True)
class FitRow:
    """A variant on one number of cores.

    Latencies are the planned ones, of one batch at the high percentile; `throughput_rps` are items a second
    at the largest batch. Errors are those of `LatencyFit`; R² says nothing of a flat one.
    """

    variant: str
    accuracy: float
    cores: float
    form: Form
    batch_min: int
    batch_max: int
    batch_sizes: tuple[int, ...]
    r2_ratio: float
    max_error_ratio: float
    loo_error_ratio: float | None
    latency_min_s: float
    latency_max_s: float
    throughput_rps: float
    is_flat: bool


@dataclass(frozen=True, slots=True)
class StageOverview:
    """A stage's profile: date, machine and method of measurement, and its fits."""

    stage: str
    measured_on: date
    age_days: int
    hardware: str
    method: str
    source: str
    load_rps: float | None
    fits: tuple[FitRow, ...]


def overview(profile: StageProfile, today: date) -> StageOverview:
    """Summarise the profile, variants in its order, each by rising cores."""
    return StageOverview(
        stage=profile.stage,
        measured_on=profile.measured_on,
        age_days=age_days(profile, today),
        hardware=profile.hardware,
        method=profile.method,
        source=profile.source,
        load_rps=profile.load_rps,
        fits=tuple(row for variant in profile.variants for row in _rows(variant)),
    )


def _rows(variant: VariantProfile) -> Iterator[FitRow]:
    fitted = fit_variant(variant)
    for cores, fit in fitted.fits.items():
        yield FitRow(
            variant=variant.variant,
            accuracy=variant.accuracy,
            cores=cores,
            form=fit.form,
            batch_min=fit.batch_min,
            batch_max=fit.batch_max,
            batch_sizes=tuple(sorted(batch for on, batch in fitted.points if on == cores)),
            r2_ratio=fit.r2_ratio,
            max_error_ratio=fit.max_error_ratio,
            loo_error_ratio=fit.loo_error_ratio,
            latency_min_s=fit.latency_s(fit.batch_min),
            latency_max_s=fit.latency_s(fit.batch_max),
            throughput_rps=fitted.capacity_rps(fit.batch_max, cores),
            is_flat=is_flat(fit),
        )
