"""Credibility of a profile: the reasons for which plans made from it cannot be believed, with figures.

Single oddities (`ipa.profiling.lint`) are remarks for a person. A profile cannot be believed if one kind of
them is at many of its places, since a plan then probably rests on some. Age is no reason: a good measurement
stays one, and `ipa fit` and `ipa doctor` ask for a new one where the machine may have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ipa.model.pipeline import Stage
from ipa.model.profile import StageProfile
from ipa.profiling.fit import fit_variant
from ipa.profiling.lint import POOR_R2_RATIO, Oddity, lint_profile, summarise_fit

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
    for oddity, pairs, words in (
        (Oddity.RISES_WITH_CORES, _pairs(profile, by_cores=True), "latency rises with more cores"),
        (Oddity.FALLS_WITH_BATCH, _pairs(profile, by_cores=False), "latency falls as the batch grows"),
    ):
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


def _pairs(profile: StageProfile, *, by_cores: bool) -> int:
    """The number of steps between points that differ in cores alone, or in the batch size alone."""
    fits = [fit_variant(variant) for variant in profile.variants]
    lines = [
        Counter(batch if by_cores else cores for cores, batch in fitted.points).values() for fitted in fits
    ]
    return sum(count - 1 for counts in lines for count in counts)
