"""Findings on a pipeline's profiles, each with its remedy: oddities, age, gaps; a summary of each profile.

Oddities are not errors: no plan is refused for them. A figure should only change with evidence: a new
measurement, or a named source.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import groupby, pairwise
from operator import attrgetter
from statistics import fmean
from typing import Any

from ipa.model.pipeline import Stage
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.fit import LatencyFit, fit_variant
from ipa.profiling.measure import DOUBLING_RATIO

# Below this a fit explains little more than the mean does.
POOR_R2_RATIO = 0.8
# The threshold of the alert for variants that take longer than their profile (IpaProfileSlow): a fit this far
# off plans with times that would raise the alert on the very machine that was measured.
POOR_ERROR_RATIO = 0.25
# A throughput this close to the offered load was limited by it; rates scatter by some percent.
CENSORED_RATIO = 0.95
# Smaller steps are the scatter of two p99s: of `ocr`, whose latencies nothing else disturbs, four in five
# fits meet each of their points within 5 %. Means scatter less than p99s.
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
    """Findings on a profile as a whole, not on its figures."""

    FEW_BATCHES = "few_batches"
    OLD = "old"
    NOT_MEASURED = "not_measured"
    NOT_IN_PIPELINE = "not_in_pipeline"


@dataclass(frozen=True, slots=True)
class ProfileFinding:
    """A finding on a stage's profile; those of `ipa.profiling.findings` have a remedy.

    `topic` and `remedy` are the same words for all variants with that kind of finding; `variant` is None for
    the whole stage. `places` are where it occurs and by how much, the worst first.
    """

    kind: Oddity | ProfileStatus
    stage: str
    variant: str | None
    topic: str
    places: tuple[str, ...]
    remedy: str = ""

    @property
    def detail(self) -> str:
        """The places, joined to one text."""
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
    """True if a constant fits the latencies about as well, which makes R² meaningless.

    Neither the fit's rise over its batch sizes nor its error is more than the error of a poor fit.
    """
    rise_ratio = fit.latency_s(fit.batch_max) / fit.latency_s(fit.batch_min) - 1
    return max(rise_ratio, fit.max_error_ratio) <= POOR_ERROR_RATIO


# Credibility asks for it too, and commands show both.
@lru_cache(maxsize=512)
def lint_profile(profile: StageProfile) -> tuple[ProfileFinding, ...]:
    """The oddities of a profile, variant by variant; within each in the order of `Oddity`."""
    findings = []
    for variant in profile.variants:
        by_oddity: dict[Oddity, list[tuple[float, str]]] = defaultdict(list)
        for oddity, size, place in _oddities(variant, profile.load_rps):
            by_oddity[oddity].append((size, place))
        for oddity, topic in _ODD_TOPICS.items():
            places = tuple(place for _, place in sorted(by_oddity[oddity], key=lambda each: -each[0]))
            if places:
                words = topic.format(load_rps=profile.load_rps)
                findings.append(ProfileFinding(oddity, profile.stage, variant.variant, words, places))
    return tuple(findings)


def _oddities(variant: VariantProfile, load_rps: float | None) -> Iterator[tuple[Oddity, float, str]]:
    """Each oddity of the variant, with its size and its place."""
    for cores, small, large in _steps(variant, "cores", "batch_size"):
        place = f"{cores_of(cores)} batch {small.batch_size}→{large.batch_size}"
        yield from _beyond_scatter(Oddity.FALLS_WITH_BATCH, place, small, large, -1)
    for batch_size, few, many in _steps(variant, "batch_size", "cores"):
        place = f"batch {batch_size} {few.cores:g}→{cores_of(many.cores)}"
        yield from _beyond_scatter(Oddity.RISES_WITH_CORES, place, few, many, 1)
    # Fits that are far off, and those little better than a mean unless the latencies merely scatter.
    for fit in fit_variant(variant).fits.values():
        is_close = fit.max_error_ratio <= SCATTER_RATIO or is_flat(fit)
        if fit.max_error_ratio > POOR_ERROR_RATIO or (fit.r2_ratio < POOR_R2_RATIO and not is_close):
            words = f"{cores_of(fit.cores)} R² {fit.r2_ratio:.2f} (error up to {fit.max_error_ratio:.0%})"
            yield Oddity.POOR_FIT, fit.max_error_ratio, words
    held = 0
    for point in variant.points:
        place = f"{cores_of(point.cores)} batch {point.batch_size}"
        if point.latency_mean_s is not None and point.latency_mean_s > point.latency_s:
            yield Oddity.MEAN_ABOVE_P99, point.latency_mean_s / point.latency_s, place
        if point.foreign_cpu_ratio is not None:
            yield Oddity.DISTURBED, point.foreign_cpu_ratio, f"{place} ({point.foreign_cpu_ratio:.0%})"
        held += load_rps is not None and (point.throughput_rps or 0) >= CENSORED_RATIO * load_rps
    if held:
        yield Oddity.CENSORED, held, f"{held} of {len(variant.points)} points"


def _steps(
    variant: VariantProfile, same: str, rising: str
) -> Iterator[tuple[float, ProfilePoint, ProfilePoint]]:
    """Neighbours with an equal attribute `same`, with its value, in the order of `rising`."""
    ordered = sorted(variant.points, key=attrgetter(same, rising))
    for value, points in groupby(ordered, key=attrgetter(same)):
        yield from ((value, before, after) for before, after in pairwise(points))


def _beyond_scatter(
    oddity: Oddity, place: str, before: ProfilePoint, after: ProfilePoint, sign: int
) -> Iterator[tuple[Oddity, float, str]]:
    """The oddity, if the latency changes in the direction of the sign by more than measurements scatter.

    Means, if they were measured, show a small change; p99s of the same batches scatter by more than that.
    """
    change_ratio = after.latency_s / before.latency_s - 1
    has_means = before.latency_mean_s is not None and after.latency_mean_s is not None
    if sign * change_ratio > (POOR_ERROR_RATIO if has_means else SCATTER_RATIO):
        yield oddity, abs(change_ratio), f"{place} ({change_ratio:+.0%})"
    elif before.latency_mean_s is not None and after.latency_mean_s is not None:
        change_ratio = after.latency_mean_s / before.latency_mean_s - 1
        if sign * change_ratio > SCATTER_RATIO:
            yield oddity, abs(change_ratio), f"{place} (mean {change_ratio:+.0%})"


_ODD_TOPICS = {
    Oddity.FALLS_WITH_BATCH: "latency falls as the batch grows: the larger batch may never have filled",
    Oddity.RISES_WITH_CORES: "latency rises with more cores: the p99 scatters, or cores were not its own",
    Oddity.POOR_FIT: "poor fit of latency",
    Oddity.MEAN_ABOVE_P99: "mean latency above the p99: too few batches were measured",
    Oddity.CENSORED: "throughput is censored at the offered load of {load_rps:g} rps",
    Oddity.DISTURBED: "measured while others used its CPUs",
}


# A plan takes a point of every stage: of three stages with this share of bad points each, more than half of
# all plans rest on one.
MOST_RATIO = 0.25
# Of poor fits whose others follow the batch size well (mean R² of POOR_R2_RATIO or more).
MOST_POOR_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class ProfileDoubt:
    """The reasons why a stage's profile is not credible, with figures."""

    stage: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"the profile of {self.stage} is not credible: {'; '.join(self.reasons)}"


def doubts(stages: Sequence[Stage], profiles: Mapping[str, StageProfile]) -> tuple[ProfileDoubt, ...]:
    """The doubts about the profiles of those stages, for the variants of each stage."""
    doubted = []
    for stage in stages:
        profile = profiles.get(stage.name)
        if profile is not None:
            names = [variant.name for variant in stage.variants]
            used = tuple(each for each in profile.variants if each.variant in names)
            if used and (doubt := doubt_of(replace(profile, variants=used))):
                doubted.append(doubt)
    return tuple(doubted)


# The status of a service is asked for every second, and a profile seldom changes.
@lru_cache(maxsize=512)
def doubt_of(profile: StageProfile) -> ProfileDoubt | None:
    """The reasons why a profile is not credible, with figures; None if it is credible."""
    reasons = tuple(_reasons(profile))
    return ProfileDoubt(profile.stage, reasons) if reasons else None


def _reasons(profile: StageProfile) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for remark in lint_profile(profile):
        counts[remark.kind] += len(remark.places)
    summary = summarise_fit(profile)
    points = [point for variant in profile.variants for point in variant.points]
    is_loose = summary.r2_ratio is not None and summary.r2_ratio < POOR_R2_RATIO
    if counts[Oddity.POOR_FIT] > (MOST_RATIO if is_loose else MOST_POOR_RATIO) * summary.fits:
        r2 = "" if summary.r2_ratio is None else f", mean R² {summary.r2_ratio:.2f}"
        yield (
            f"poor latency fits: {counts[Oddity.POOR_FIT]} of {summary.fits}{r2}, "
            f"error up to {summary.max_error_ratio:.0%}"
        )
    for oddity, order, words in (
        (Oddity.RISES_WITH_CORES, ("batch_size", "cores"), "latency rises with more cores"),
        (Oddity.FALLS_WITH_BATCH, ("cores", "batch_size"), "latency falls as the batch grows"),
    ):
        pairs = sum(1 for variant in profile.variants for _ in _steps(variant, *order))
        # A single step may be chance.
        if counts[oddity] > max(1, MOST_RATIO * pairs):
            yield f"{words} at {counts[oddity]} of {pairs} steps"
    if counts[Oddity.MEAN_ABOVE_P99] > MOST_RATIO * len(points):
        yield f"the mean is above the p99 at {counts[Oddity.MEAN_ABOVE_P99]} of {len(points)} points"
    if counts[Oddity.DISTURBED] > MOST_RATIO * len(points):
        most = max(point.foreign_cpu_ratio or 0.0 for point in points)
        yield (
            f"other work used up to {most:.0%} of the CPUs while {counts[Oddity.DISTURBED]} of {len(points)} "
            "points were measured"
        )
    if assumed := [each.variant for each in profile.variants if each.assumed_ratio is not None]:
        yield f"the times of {', '.join(assumed)} are assumed, not measured"
    # One point is enough of a variant that no plan uses, as `ipa profile --next` finds.
    few = [it.variant for it in profile.variants if it.assumed_ratio is None]
    if few and all(len(it.points) == 1 for it in profile.variants):
        yield f"a single point of {', '.join(few)}"


def measure_command(pipeline: str, stage: str = "", *, planned_only: bool = False) -> str:
    """The command that measures the profiles of the pipeline, or of one stage.

    For a `planned_only` pipeline, it measures model servers that run elsewhere.
    """
    of_stage = f" -s {stage}" if stage else ""
    place = " --at URL" if planned_only else ""
    return f"ipa profile {pipeline}{of_stage}{place} --write"


def remedy_of_doubt(pipeline: str, stage: str, *, planned_only: bool) -> str:
    """The remedy for a profile that is not credible, which ends with the command."""
    where = (
        "its pipeline is only planned, so it cannot be measured here; where its models run, with a bench.py "
        "of their requests"
        if planned_only
        else "measure it on a quiet machine"
    )
    return f"{where}: {measure_command(pipeline, stage, planned_only=planned_only)}"


# Model servers, kernels and drivers change, and profiles with them.
OLD = timedelta(days=90)


# An inner batch size is left out and predicted from the others, so there must be one.
FEWEST_BATCHES = 3


def findings(
    pipeline: str,
    stages: Sequence[Stage],
    sla_s: float,
    profiles: Mapping[str, StageProfile],
    today: date,
    only: Sequence[str] = (),
    *,
    planned_only: bool = False,
) -> tuple[ProfileFinding, ...]:
    """The findings on the profiles of the pipeline's stages, stage by stage, or only on those in `only`.

    `sla_s` is the pipeline's: few batch sizes are no finding if a batch of twice the size would be late. The
    remedies for a `planned_only` pipeline name the place where its models run.
    """
    measure = measure_command(pipeline, planned_only=planned_only)
    served = [stage for stage in stages if stage.variants and (not only or stage.name in only)]
    all_findings: list[ProfileFinding] = []
    for name, variant in unmeasured(served, profiles):
        all_findings.append(_finding(measure, ProfileStatus.NOT_MEASURED, name, variant))
    for stage in served:
        if stage.name in profiles:
            all_findings += _of_stage(measure, stage, sla_s, profiles[stage.name], today)
    known = {stage.name for stage in stages if stage.variants}
    strange = [name for name in profiles if name not in known and (not only or name in only)]
    all_findings += [_finding(measure, ProfileStatus.NOT_IN_PIPELINE, name) for name in strange]
    order = [stage.name for stage in served] + strange
    return tuple(sorted(all_findings, key=lambda each: order.index(each.stage)))


def unmeasured(
    stages: Sequence[Stage], profiles: Mapping[str, StageProfile]
) -> Iterator[tuple[str, str | None]]:
    """Stages (with None) and variants that run as replicas and have no profile."""
    for stage in stages:
        if not stage.variants:
            continue
        if stage.name not in profiles:
            yield stage.name, None
            continue
        measured = {variant.variant for variant in profiles[stage.name].variants}
        yield from ((stage.name, it.name) for it in stage.variants if it.name not in measured)


def age_days(profile: StageProfile, today: date) -> int:
    """The age of the measurement in days; 0 for a future day, which another time zone may give."""
    return max(0, (today - profile.measured_on).days)


def is_old(profile: StageProfile, today: date) -> bool:
    """True if the measurement is too old to be trusted."""
    return today - profile.measured_on > OLD


def _of_stage(
    measure: str, stage: Stage, sla_s: float, profile: StageProfile, today: date
) -> Iterator[ProfileFinding]:
    names = [variant.name for variant in stage.variants]
    for each in profile.variants:
        if each.variant not in names:
            yield _finding(measure, ProfileStatus.NOT_IN_PIPELINE, stage.name, each.variant)
    if is_old(profile, today):
        age = f"{age_days(profile, today)} days, on {profile.measured_on}"
        yield _finding(measure, ProfileStatus.OLD, stage.name, None, (age,))
    used = replace(profile, variants=tuple(each for each in profile.variants if each.variant in names))
    for each in used.variants:
        few = tuple(_few_batches(each, sla_s))
        if few:
            yield _finding(measure, ProfileStatus.FEW_BATCHES, stage.name, each.variant, few)
    for remark in lint_profile(used):
        remedy = _REMEDIES[remark.kind].format(measure=measure)
        yield replace(remark, remedy=remedy)


def _few_batches(variant: VariantProfile, sla_s: float) -> Iterator[str]:
    """The cores with few batch sizes, and the measured sizes; none if `ipa profile` would stop there too."""
    by_cores: dict[float, list[ProfilePoint]] = {}
    for point in sorted(variant.points, key=lambda each: (each.cores, each.batch_size)):
        by_cores.setdefault(point.cores, []).append(point)
    for cores, points in by_cores.items():
        if len(points) < FEWEST_BATCHES and points[-1].latency_s * DOUBLING_RATIO <= sla_s:
            sizes = " and ".join(str(point.batch_size) for point in points)
            yield f"{cores_of(cores)} batch {sizes} only"


def _finding(
    measure: str, kind: ProfileStatus, stage: str, variant: str | None = None, places: tuple[str, ...] = ()
) -> ProfileFinding:
    remedy = _REMEDIES[kind].format(measure=measure)
    return ProfileFinding(kind, stage, variant, _TOPICS[kind], places, remedy)


_LONGER = "{measure} --repeats 4000 --budget 10"
_MORE_BATCHES = "--batches 1,2,3,4,6,8"
_TOPICS = {
    ProfileStatus.FEW_BATCHES: (
        f"fewer than {FEWEST_BATCHES} batch sizes: the fit's error on left-out batches is unknown"
    ),
    ProfileStatus.OLD: f"measured more than {OLD.days} days ago",
    ProfileStatus.NOT_MEASURED: "in the pipeline and not measured: there is no plan until it is",
    ProfileStatus.NOT_IN_PIPELINE: "measured and not in the pipeline: no plan has it",
}
_REMEDIES: dict[Oddity | ProfileStatus, str] = {
    ProfileStatus.OLD: "measure again, where it runs: {measure}",
    ProfileStatus.NOT_MEASURED: "{measure}",
    ProfileStatus.NOT_IN_PIPELINE: "add it to the pipeline, or take it out of the profile",
    Oddity.FALLS_WITH_BATCH: f"fill the largest batch, and measure longer: {_LONGER}",
    Oddity.RISES_WITH_CORES: f"measure longer, on a machine that does nothing else: {_LONGER}",
    Oddity.POOR_FIT: f"measure longer, and at more batch sizes: {_LONGER} {_MORE_BATCHES}",
    ProfileStatus.FEW_BATCHES: f"measure more of them: {{measure}} {_MORE_BATCHES}",
    Oddity.MEAN_ABOVE_P99: f"measure longer: {_LONGER}",
    Oddity.CENSORED: "offer more than it carries, as this does: {measure}",
    Oddity.DISTURBED: "end what else runs there, and measure again: {measure}",
}


def overview(profile: StageProfile, today: date) -> dict[str, Any]:
    """The profile in plain values: date, machine and method of measurement, and its fits.

    Each row of `fits` is one variant on one number of cores, in the order of variants and by rising cores.
    Its `throughput_rps` are items a second at the largest batch; ignore R² if it `is_flat`.
    """
    fits = [
        {
            **asdict(fit),
            "variant": variant.variant,
            "accuracy": variant.accuracy,
            "throughput_rps": fitted.capacity_rps(fit.batch_max, cores),
            "is_flat": is_flat(fit),
        }
        for variant, fitted in ((each, fit_variant(each)) for each in profile.variants)
        for cores, fit in fitted.fits.items()
    ]
    return {
        "stage": profile.stage,
        "measured_on": profile.measured_on.isoformat(),
        "age_days": age_days(profile, today),
        "hardware": profile.hardware,
        "method": profile.method,
        "source": profile.source,
        "load_rps": profile.load_rps,
        "fits": fits,
    }


def unmeasured_changes(
    before: Mapping[str, StageProfile], after: Mapping[str, StageProfile]
) -> Iterator[str]:
    """The stages whose figures changed although the profile names no other measurement, in words.

    A measurement is identified by its day, method, source, hardware and load. New stages and variants have no
    figures to compare with.
    """
    for stage, new in after.items():
        old = before.get(stage)
        if old is None:
            continue
        earlier = {each.variant: each for each in old.variants}
        changes = [
            f"{each.variant}: {', '.join(words)}"
            for each in new.variants
            if each.variant in earlier and (words := list(_changes(earlier[each.variant], each)))
        ]
        if not changes:
            continue
        if _measurement(old) == _measurement(new):
            yield (
                f"{stage}/{'; '.join(changes)} without a new measurement, since {old.measured_on}; measure "
                "it with `ipa profile`, or name the new one in measured_on, method or source"
            )
        elif new.measured_on < old.measured_on:
            yield (
                f"{stage}/{'; '.join(changes)} by an older measurement, of {new.measured_on} instead of "
                f"{old.measured_on}"
            )


def _measurement(profile: StageProfile) -> tuple[object, ...]:
    return profile.measured_on, profile.method, profile.source, profile.hardware, profile.load_rps


def _changes(before: VariantProfile, after: VariantProfile) -> Iterator[str]:
    """The figures that differ, in words."""
    if before.accuracy != after.accuracy:
        yield f"accuracy {before.accuracy:g} → {after.accuracy:g}"
    old, new = ({(it.cores, it.batch_size): it for it in each.points} for each in (before, after))
    moved = sum(old[place] != new[place] for place in old.keys() & new.keys())
    if moved:
        yield f"{moved} of {len(old)} points"
    if new.keys() - old.keys():
        yield f"{len(new.keys() - old.keys())} points added"
    if old.keys() - new.keys():
        yield f"{len(old.keys() - new.keys())} points removed"
    for name in ("readiness_s", "memory_gib"):
        less, more = getattr(before, name), getattr(after, name)
        if less != more:
            yield f"{name.removesuffix('_s').removesuffix('_gib')} {less} → {more}"
