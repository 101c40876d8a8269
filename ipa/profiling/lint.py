"""Oddities of a profile that are not errors: remarks for a person that stop no plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import groupby, pairwise
from operator import attrgetter
from statistics import fmean

from ipa.model.pipeline import Stage
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.fit import LatencyFit, fit_variant

# Below this a fit explains little more than the mean does.
POOR_R2_RATIO = 0.8
# The threshold of the alert for variants that take longer than their profile (IpaProfileSlow): a fit this far
# off plans with times that would raise the alert on the very machine that was measured.
POOR_ERROR_RATIO = 0.25
# A throughput this close to the offered load was limited by it; rates scatter by some percent.
CENSORED_RATIO = 0.95
# Smaller steps are the scatter of two p99s: of `ocr`, whose latencies nothing else disturbs, four in five
# fits meet each of their points within 5 %. It is also the error of a profile from which plans use observed
# times instead (the dead band of ipa.control.engine.correction). Means scatter less than p99s.
SCATTER_RATIO = 0.10


class Oddity(StrEnum):
    """The kinds of oddities of a profile."""

    FALLS_WITH_BATCH = "falls_with_batch"
    RISES_WITH_CORES = "rises_with_cores"
    POOR_FIT = "poor_fit"
    MEAN_ABOVE_P99 = "mean_above_p99"
    CENSORED = "censored"
    DISTURBED = "disturbed"


class ProfileStatus(StrEnum):
    """Findings on a profile as a whole, beside its figures."""

    FEW_BATCHES = "few_batches"
    OLD = "old"
    NOT_MEASURED = "not_measured"
    NOT_IN_PIPELINE = "not_in_pipeline"


@dataclass(frozen=True, slots=True)
class ProfileFinding:
    """A finding on a stage's profile; those of `ipa.profiling.findings` have a remedy.

    `topic` and `remedy` are the same words for all variants of a kind; `variant` is None for the whole stage.
    `places` are where it occurs and by how much, the worst first.
    """

    kind: Oddity | ProfileStatus
    stage: str
    variant: str | None
    topic: str
    places: tuple[str, ...]
    remedy: str = ""

    @property
    def detail(self) -> str:
        """Places, joined."""
        return ", ".join(self.places)


@dataclass(frozen=True, slots=True)
class FitSummary:
    """The quality of a stage's latency fits: their number, how many are flat, R², worst and left-out error.

    R² is the mean of the fits that are not flat, None if all are: it compares a fit with a constant.
    """

    fits: int
    flat: int
    r2_ratio: float | None
    max_error_ratio: float
    loo_error_ratio: float | None

    def __str__(self) -> str:
        left_out = "" if self.loo_error_ratio is None else f", {self.loo_error_ratio:.0%} left out"
        fits = "1 fit" if self.fits == 1 else f"{self.fits} fits"
        r2 = "flat" if self.r2_ratio is None else f"R² {self.r2_ratio:.2f}"
        if self.flat and self.r2_ratio is not None:
            r2 = f"{self.flat} of them flat, {r2} of the other{'s' if self.fits > self.flat + 1 else ''}"
        return f"{fits}, {r2}, error up to {self.max_error_ratio:.0%}{left_out}"


def summarise_fit(profile: StageProfile) -> FitSummary:
    """The error of the fits of all variants and core counts together."""
    fits = [fit for variant in profile.variants for fit in fit_variant(variant).fits.values()]
    left_out = [fit.loo_error_ratio for fit in fits if fit.loo_error_ratio is not None]
    curved = [fit.r2_ratio for fit in fits if not is_flat(fit)]
    return FitSummary(
        fits=len(fits),
        flat=len(fits) - len(curved),
        r2_ratio=fmean(curved) if curved else None,
        max_error_ratio=max(fit.max_error_ratio for fit in fits),
        loo_error_ratio=fmean(left_out) if left_out else None,
    )


def is_flat(fit: LatencyFit) -> bool:
    """True if a constant meets the latencies about as well: R², which compares with one, then says nothing.

    Neither the fit's rise over its batch sizes nor its error is more than that of a poor fit.
    """
    rise_ratio = fit.latency_s(fit.batch_max) / fit.latency_s(fit.batch_min) - 1
    return max(rise_ratio, fit.max_error_ratio) <= POOR_ERROR_RATIO


# A place, with the size of the oddity there.
Places = Iterator[tuple[float, str]]


# Credibility asks for it too, and commands show both.
@lru_cache(maxsize=512)
def lint_profile(profile: StageProfile) -> tuple[ProfileFinding, ...]:
    """The oddities of a profile, variant by variant; within each in the order of `Oddity`."""
    return tuple(
        ProfileFinding(
            oddity,
            profile.stage,
            variant.variant,
            topic.format(load_rps=profile.load_rps),
            tuple(place for _, place in found),
        )
        for variant in profile.variants
        for oddity, (topic, look) in _LOOKS.items()
        if (found := sorted(look(variant, profile), key=lambda each: -each[0]))
    )


def _falling(variant: VariantProfile, _: StageProfile) -> Places:
    for cores, small, large in _steps(variant, "cores", "batch_size"):
        place = f"{cores_of(cores)} batch {small.batch_size}→{large.batch_size}"
        yield from _beyond_scatter(place, small, large, -1)


def _rising(variant: VariantProfile, _: StageProfile) -> Places:
    for batch_size, few, many in _steps(variant, "batch_size", "cores"):
        place = f"batch {batch_size} {few.cores:g}→{cores_of(many.cores)}"
        yield from _beyond_scatter(place, few, many, 1)


def _steps(
    variant: VariantProfile, same: str, rising: str
) -> Iterator[tuple[float, ProfilePoint, ProfilePoint]]:
    """Neighbours that have the attribute `same` alike, with its value, in the order of `rising`."""
    ordered = sorted(variant.points, key=attrgetter(same, rising))
    for value, points in groupby(ordered, key=attrgetter(same)):
        yield from ((value, before, after) for before, after in pairwise(points))


def _beyond_scatter(place: str, before: ProfilePoint, after: ProfilePoint, sign: int) -> Places:
    """The place, if the latency changes in the direction of the sign by more than measurements scatter.

    If means were measured they show a small change; p99s of the same batches scatter by more than that.
    """
    change_ratio = after.latency_s / before.latency_s - 1
    has_means = before.latency_mean_s is not None and after.latency_mean_s is not None
    if sign * change_ratio > (POOR_ERROR_RATIO if has_means else SCATTER_RATIO):
        yield abs(change_ratio), f"{place} ({change_ratio:+.0%})"
    elif before.latency_mean_s is not None and after.latency_mean_s is not None:
        change_ratio = after.latency_mean_s / before.latency_mean_s - 1
        if sign * change_ratio > SCATTER_RATIO:
            yield abs(change_ratio), f"{place} (mean {change_ratio:+.0%})"


def _poor_fits(variant: VariantProfile, _: StageProfile) -> Places:
    """Fits that are far off, and those little better than a mean unless the latencies merely scatter."""
    for fit in fit_variant(variant).fits.values():
        is_close = fit.max_error_ratio <= SCATTER_RATIO or is_flat(fit)
        if fit.max_error_ratio > POOR_ERROR_RATIO or (fit.r2_ratio < POOR_R2_RATIO and not is_close):
            words = f"{cores_of(fit.cores)} R² {fit.r2_ratio:.2f} (error up to {fit.max_error_ratio:.0%})"
            yield fit.max_error_ratio, words


def _high_means(variant: VariantProfile, _: StageProfile) -> Places:
    for point in variant.points:
        if point.latency_mean_s is not None and point.latency_mean_s > point.latency_s:
            yield point.latency_mean_s / point.latency_s, f"{cores_of(point.cores)} batch {point.batch_size}"


def _censored(variant: VariantProfile, profile: StageProfile) -> Places:
    if profile.load_rps is None:
        return
    held = sum((point.throughput_rps or 0) >= CENSORED_RATIO * profile.load_rps for point in variant.points)
    if held:
        yield held, f"{held} of {len(variant.points)} points"


def _disturbed(variant: VariantProfile, _: StageProfile) -> Places:
    for point in variant.points:
        if point.foreign_cpu_ratio is not None:
            words = f"{cores_of(point.cores)} batch {point.batch_size} ({point.foreign_cpu_ratio:.0%})"
            yield point.foreign_cpu_ratio, words


# The topic of each oddity, and what finds its places.
_LOOKS: dict[Oddity, tuple[str, Callable[[VariantProfile, StageProfile], Places]]] = {
    Oddity.FALLS_WITH_BATCH: (
        "latency falls as the batch grows: the larger batch may never have filled",
        _falling,
    ),
    Oddity.RISES_WITH_CORES: (
        "latency rises with more cores: the p99 scatters, or cores were not its own",
        _rising,
    ),
    Oddity.POOR_FIT: ("poor fit of latency", _poor_fits),
    Oddity.MEAN_ABOVE_P99: ("mean latency above the p99: too few batches were measured", _high_means),
    Oddity.CENSORED: ("throughput is censored at the offered load of {load_rps:g} rps", _censored),
    Oddity.DISTURBED: ("measured while others used its CPUs", _disturbed),
}


# A plan takes a point of every stage: of three stages with this share of bad points each, more than half of
# all plans rest on one.
MOST_RATIO = 0.25
# Of poor fits where the others follow the batch size well (mean R² of POOR_R2_RATIO or more).
MOST_POOR_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class ProfileDoubt:
    """The reasons for which a stage's profile cannot be believed, with figures."""

    stage: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"the profile of {self.stage} is not credible: {'; '.join(self.reasons)}"


def doubts(stages: Sequence[Stage], profiles: Mapping[str, StageProfile]) -> tuple[ProfileDoubt, ...]:
    """The doubts of the profiles of those stages, of the variants that each stage has."""
    found = []
    for stage in stages:
        profile = profiles.get(stage.name)
        if profile is not None:
            names = [variant.name for variant in stage.variants]
            used = tuple(each for each in profile.variants if each.variant in names)
            if used and (doubt := doubt_of(replace(profile, variants=used))):
                found.append(doubt)
    return tuple(found)


# The status of a service is asked for every second, and a profile seldom changes.
@lru_cache(maxsize=512)
def doubt_of(profile: StageProfile) -> ProfileDoubt | None:
    """The doubt of a profile; None if it can be believed."""
    reasons = tuple(_reasons(profile))
    return ProfileDoubt(profile.stage, reasons) if reasons else None


def _reasons(profile: StageProfile) -> Iterator[str]:
    found: Counter[str] = Counter()
    for remark in lint_profile(profile):
        found[remark.kind] += len(remark.places)
    summary = summarise_fit(profile)
    points = [point for variant in profile.variants for point in variant.points]
    is_loose = summary.r2_ratio is not None and summary.r2_ratio < POOR_R2_RATIO
    if found[Oddity.POOR_FIT] > (MOST_RATIO if is_loose else MOST_POOR_RATIO) * summary.fits:
        r2 = "" if summary.r2_ratio is None else f", mean R² {summary.r2_ratio:.2f}"
        yield (
            f"poor latency fits: {found[Oddity.POOR_FIT]} of {summary.fits}{r2}, "
            f"error up to {summary.max_error_ratio:.0%}"
        )
    for oddity, order, words in (
        (Oddity.RISES_WITH_CORES, ("batch_size", "cores"), "latency rises with more cores"),
        (Oddity.FALLS_WITH_BATCH, ("cores", "batch_size"), "latency falls as the batch grows"),
    ):
        pairs = sum(1 for variant in profile.variants for _ in _steps(variant, *order))
        # A single step may be chance.
        if found[oddity] > max(1, MOST_RATIO * pairs):
            yield f"{words} at {found[oddity]} of {pairs} steps"
    if found[Oddity.MEAN_ABOVE_P99] > MOST_RATIO * len(points):
        yield f"the mean is above the p99 at {found[Oddity.MEAN_ABOVE_P99]} of {len(points)} points"
    if found[Oddity.DISTURBED] > MOST_RATIO * len(points):
        most = max(point.foreign_cpu_ratio or 0.0 for point in points)
        yield (
            f"others used up to {most:.0%} of the CPUs while {found[Oddity.DISTURBED]} of {len(points)} "
            "points were measured"
        )
    few = [each.variant for each in profile.variants if len(each.points) == 1]
    if few:
        yield f"a single point of {', '.join(few)}"
