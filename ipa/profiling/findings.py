"""Findings on a pipeline's profiles, each with its remedy: oddities, age, gaps; a summary of each profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import Any

from ipa.model.pipeline import Stage
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.fit import fit_variant
from ipa.profiling.lint import Oddity, ProfileFinding, ProfileStatus, is_flat, lint_profile
from ipa.profiling.measure import DOUBLING_RATIO


def measure_command(pipeline: str, stage: str = "", *, planned_only: bool = False) -> str:
    """The command that measures the profiles of the pipeline, or of one stage.

    A pipeline that is `planned_only` has no model servers to start: copies are measured where its models run.
    """
    of_stage = f" -s {stage}" if stage else ""
    place = " --at kubernetes" if planned_only else ""
    return f"ipa profile {pipeline}{of_stage}{place} --write"


def remedy_of_doubt(pipeline: str, stage: str, *, planned_only: bool) -> str:
    """The remedy for a profile that cannot be believed, which ends with the command."""
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

    `sla_s` is the pipeline's: few batch sizes are no finding if a batch of twice the size would be late.
    The remedies for a pipeline that is `planned_only` name the place where its models run.
    """
    measure = measure_command(pipeline, planned_only=planned_only)
    served = [stage for stage in stages if stage.variants and (not only or stage.name in only)]
    found: list[ProfileFinding] = []
    for name, variant in unmeasured(served, profiles):
        found.append(_finding(measure, ProfileStatus.NOT_MEASURED, name, variant))
    for stage in served:
        if stage.name in profiles:
            found += _of_stage(measure, stage, sla_s, profiles[stage.name], today)
    known = {stage.name for stage in stages if stage.variants}
    strange = [name for name in profiles if name not in known and (not only or name in only)]
    found += [_finding(measure, ProfileStatus.NOT_IN_PIPELINE, name) for name in strange]
    order = [stage.name for stage in served] + strange
    return tuple(sorted(found, key=lambda each: order.index(each.stage)))


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
    """The age of the measurement in days; 0 for a future day, as a clock in another time zone gives."""
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
    """The cores with few batch sizes, and the measured ones; none if `ipa profile` would stop there too."""
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
        f"fewer than {FEWEST_BATCHES} batch sizes: no error of batches left out is known"
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

    A row of `fits` is that of a variant on one number of cores, in the order of variants and by rising cores.
    Its `throughput_rps` are items a second at the largest batch; R² says nothing of one that `is_flat`.
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
