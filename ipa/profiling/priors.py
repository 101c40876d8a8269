"""Assumed profiles of variants that nobody measured, by the tightest bound that what is known sets.

Their times are the longest that this evidence allows, so that plans err towards more cores and not towards
late requests. What replicas really take is learned from there (`ipa.control.engine.correction`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.rounding import significant

# The longest credible time over the likely one: of what is seen here, and of what is known of elsewhere.
NEAR_RATIO, FAR_RATIO = 2.0, 4.0
# The p99 of a batch over its mean: 95 % of the points in the shipped profiles have less.
TAIL_RATIO = 2.0
# The share of the SLA that all batches on a request's way take together; the rest is to wait for them.
SERVICE_RATIO = 0.5
# Of variants whose accuracy nobody gave: a plan then chooses by cost alone.
ACCURACY = 1.0
# The hardware and the method of a profile without a measurement.
NOWHERE, METHOD = "not measured", "assumed: times are the longest that the known bounds allow"


@dataclass(frozen=True, slots=True)
class Seen:
    """A stage as it runs, with the items a second that it gets and the p99 of a request in it, if known."""

    config: StageConfig
    rate_rps: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Bound:
    """The longest mean time of a full batch by one piece of evidence, named in `source`."""

    longest_s: float
    ratio: float
    source: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """The profiles with assumed variants by stage, the pipeline to plan by them, and what was assumed."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    notes: tuple[str, ...]


def assumed_profiles(
    pipeline: Pipeline,
    seen: Mapping[str, Seen],
    known: Sequence[StageProfile],
    accuracies: Mapping[str, float],
    ways: Sequence[Sequence[str]],
    today: date,
) -> Assumed:
    """Assume what no profile of the pipeline has measured; measured variants stay as they are.

    `seen` has every stage. `known` are profiles of this pipeline and of others, `accuracies` those that are
    given by STAGE or STAGE/VARIANT, `ways` the stages on each way through the pipeline.
    """
    shares, made, notes = _shares(ways, seen), dict[str, StageProfile](), list[str]()
    namesakes = {it.variant: it for profile in known for it in _measured(profile)}
    for stage in pipeline.served:
        profile = next((it for it in known if (it.pipeline, it.stage) == (pipeline.name, stage.name)), None)
        variants = _measured(profile) if profile else []
        names, runs = {it.variant for it in variants}, seen[stage.name]
        missing = [it.name for it in stage.variants if it.name not in names]
        has_own_shape = False
        # The running one first: the others may be like it.
        for name in sorted(missing, key=lambda it: it != runs.config.variant):
            like = namesakes.get(name) or max(variants, key=lambda it: it.item_core_s, default=None)
            has_own_shape |= like is None
            variant, words = _assumed(name, runs, like, pipeline.sla.latency_s * shares[stage.name])
            accuracy = accuracies.get(f"{stage.name}/{name}", accuracies.get(stage.name))
            notes.append(f"stage {stage.name!r}: {words}")
            if accuracy is None:
                words = f"its accuracy is assumed to be {variant.accuracy:g}: give it by --accuracy"
                notes.append(f"stage {stage.name!r}: {words} {stage.name}/{name}=A")
            variants.append(variant if accuracy is None else replace(variant, accuracy=accuracy))
        if missing:
            new = StageProfile(pipeline.name, stage.name, (), NOWHERE, today, METHOD, "ipa import")
            made[stage.name] = replace(profile if profile and names else new, variants=tuple(variants))
            if has_own_shape and runs.config.batch_size > 1:
                pipeline, note = _with_batch_size(pipeline, stage, runs.config.batch_size)
                notes.append(note)
    return Assumed(pipeline, made, tuple(notes))


def _measured(profile: StageProfile) -> list[VariantProfile]:
    """The variants of the profile that are not assumed themselves."""
    return [it for it in profile.variants if it.assumed_ratio is None]


def _with_batch_size(pipeline: Pipeline, stage: Stage, batch_size: int) -> tuple[Pipeline, str]:
    """The pipeline with the running batch size alone, since nothing tells the times of others, and a note."""
    bounds = replace(stage.bounds, batch_sizes=(batch_size,))
    stages = (replace(it, bounds=bounds) if it.name == stage.name else it for it in pipeline.stages)
    note = f"stage {stage.name!r}: bounds allow batch size {batch_size} alone, until it is measured"
    return replace(pipeline, stages=tuple(stages)), note


def _assumed(
    name: str, seen: Seen, like: VariantProfile | None, share_s: float
) -> tuple[VariantProfile, str]:
    """The profile of the variant, and what was assumed, in words."""
    config = seen.config
    points = _points(config, like)
    full = max((it for it in points if it.cores == config.cores), key=lambda it: it.batch_size)
    full_s = (full.latency_mean_s or full.latency_s) * config.batch_size / full.batch_size
    bounds = [_Bound(share_s / TAIL_RATIO, FAR_RATIO, f"its share of the SLA, {share_s * 1e3:.3g} ms")]
    if like is not None:
        bounds.append(_Bound(full_s * FAR_RATIO, FAR_RATIO, f"the profile of {like.variant}"))
    bounds += _by_what_runs(seen) if name == config.variant else ()
    tightest = min(bounds, key=lambda it: it.longest_s)
    slower = tightest.longest_s / full_s
    likely_s, least_s = (tightest.longest_s / tightest.ratio**power for power in (1, 2))
    words = (
        f"{name} was not measured; by {tightest.source} a batch of {config.batch_size} on {config.cores:g} "
        f"cores is assumed to take {least_s * 1e3:.3g} to {tightest.longest_s * 1e3:.3g} ms, "
        f"likely {likely_s * 1e3:.3g}: plans use the longest until batches are seen"
    )
    shown = tuple(_rounded(point.slowed(slower)) for point in points)
    accuracy = like.accuracy if like is not None and like.variant == name else ACCURACY
    return VariantProfile(name, accuracy, shown, assumed_ratio=tightest.ratio), words


def _by_what_runs(seen: Seen) -> Iterator[_Bound]:
    """Bounds by what replicas carry: they are busy all the time at most, and no request waits less than 0."""
    config = seen.config
    if seen.rate_rps:
        carried = f"{config.replicas} × batch {config.batch_size} at {seen.rate_rps:.3g} rps"
        yield _Bound(config.batch_size * config.replicas / seen.rate_rps, NEAR_RATIO, carried)
    if seen.latency_s:
        waited = f"the p99 of its requests, {seen.latency_s * 1e3:.3g} ms"
        yield _Bound(seen.latency_s * config.batch_size / TAIL_RATIO, NEAR_RATIO, waited)


def _points(config: StageConfig, like: VariantProfile | None) -> tuple[ProfilePoint, ...]:
    """Points with the shape of the other profile, also on the cores that run; without one, one of its own.

    That one is proportional to the batch: batches that are not full, by which it is corrected, then never
    make full ones look quicker than they are.
    """
    cores = config.cores
    if like is None:
        sizes = sorted({1, config.batch_size})
        return tuple(ProfilePoint(cores, size, TAIL_RATIO * size, float(size)) for size in sizes)
    if any(point.cores == cores for point in like.points):
        return like.points
    nearest = min({point.cores for point in like.points}, key=lambda it: max(it / cores, cores / it))
    # Fewer cores take that much longer at most; more may not help.
    slower = max(nearest / cores, 1.0)
    there = (it.slowed(slower) for it in like.points if it.cores == nearest)
    return (*like.points, *(replace(point, cores=cores) for point in there))


def _rounded(point: ProfilePoint) -> ProfilePoint:
    figures = ("latency_s", "latency_mean_s", "throughput_rps")
    known = ((name, getattr(point, name)) for name in figures)
    digits: dict[str, Any] = {name: significant(it) for name, it in known if it is not None}
    return replace(point, **digits)


def _shares(ways: Sequence[Sequence[str]], seen: Mapping[str, Seen]) -> dict[str, float]:
    """The share of the SLA that a batch of each stage may take at p99, by the longest way through it.

    A stage with more replicas, or larger batches, is taken to need that much more of it.
    """
    own = {name: it.config.replicas * it.config.batch_size for name, it in seen.items()}
    longest = dict.fromkeys(own, 0)
    for way in ways:
        served = [name for name in way if name in own]
        together = sum(own[name] for name in served)
        longest |= {name: max(longest[name], together) for name in served}
    return {name: SERVICE_RATIO * own[name] / longest[name] for name in own}
