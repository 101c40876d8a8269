"""What is odd about a profile without being wrong: remarks for a person, nothing that stops a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.fit import fit_variant

# Below this a fit says little more than the mean does.
POOR_R2_RATIO = 0.8
# A throughput this close to the offered load was held down by it; rates scatter by some percent.
CENSORED_RATIO = 0.95
# Falls smaller than this are the scatter of a p99.
FALL_RATIO = 0.05


@dataclass(frozen=True, slots=True)
class Remark:
    """One oddity of a variant's profile: its topic, the same words for all variants, and where it is."""

    variant: str
    topic: str
    detail: str


@dataclass(frozen=True, slots=True)
class FitSummary:
    """How well a stage's latency fits: how many fits, their mean R², the worst and the left-out error."""

    fits: int
    r2_ratio: float
    max_error_ratio: float
    loo_error_ratio: float | None

    def __str__(self) -> str:
        left_out = "" if self.loo_error_ratio is None else f", {self.loo_error_ratio:.0%} left out"
        fits = "1 fit" if self.fits == 1 else f"{self.fits} fits"
        return f"{fits}, R² {self.r2_ratio:.2f}, error up to {self.max_error_ratio:.0%}{left_out}"


def summarise_fit(profile: StageProfile) -> FitSummary:
    """The error of the fits of all variants and core counts together."""
    fits = [fit for variant in profile.variants for fit in fit_variant(variant).fits.values()]
    left_out = [fit.loo_error_ratio for fit in fits if fit.loo_error_ratio is not None]
    return FitSummary(
        fits=len(fits),
        r2_ratio=fmean(fit.r2_ratio for fit in fits),
        max_error_ratio=max(fit.max_error_ratio for fit in fits),
        loo_error_ratio=fmean(left_out) if left_out else None,
    )


def lint_profile(profile: StageProfile) -> tuple[Remark, ...]:
    """The oddities of a profile: falling latency, censored throughput, poor fits, means above the p99."""
    found: list[Remark] = []
    for variant in profile.variants:
        checks = {
            "latency falls as the batch grows: the larger batch may never have filled": _falling(variant),
            "poor fit of latency": _poor_fits(variant),
            "mean latency above the p99: too few batches were measured": _high_means(variant),
        }
        if profile.load_rps is not None:
            topic = f"throughput is censored at the offered load of {profile.load_rps:g} rps"
            checks[topic] = _censored(variant, profile.load_rps)
        for topic, places in checks.items():
            detail = ", ".join(places)
            if detail:
                found.append(Remark(variant.variant, topic, detail))
    return tuple(found)


def _falling(variant: VariantProfile) -> Iterator[str]:
    by_cores: dict[float, list[ProfilePoint]] = {}
    for point in sorted(variant.points, key=lambda each: (each.cores, each.batch_size)):
        by_cores.setdefault(point.cores, []).append(point)
    for cores, points in by_cores.items():
        for small, large in pairwise(points):
            if large.latency_s < small.latency_s * (1 - FALL_RATIO):
                yield f"{cores:g} cores batch {small.batch_size}→{large.batch_size}"


def _censored(variant: VariantProfile, load_rps: float) -> Iterator[str]:
    held = sum((point.throughput_rps or 0) >= CENSORED_RATIO * load_rps for point in variant.points)
    if held:
        yield f"{held} of {len(variant.points)} points"


def _poor_fits(variant: VariantProfile) -> Iterator[str]:
    for fit in fit_variant(variant).fits.values():
        if fit.r2_ratio < POOR_R2_RATIO:
            yield f"{fit.cores:g} cores R² {fit.r2_ratio:.2f}"


def _high_means(variant: VariantProfile) -> Iterator[str]:
    for point in variant.points:
        if point.latency_mean_s is not None and point.latency_mean_s > point.latency_s:
            yield f"{point.cores:g} cores batch {point.batch_size}"
