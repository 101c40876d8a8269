"""Assumed profiles of variants that nobody measured, by the tightest bound that what is known sets.

Their times are the longest that this evidence allows, so that plans err towards more cores and not towards
late requests. What replicas really take is learned from there (`ipa.control.engine.correction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.rounding import significant
from ipa.profiling.findings import measure_command

# The longest credible time over the likely one: of what is seen here, and of what is known of elsewhere.
NEAR_RATIO, FAR_RATIO = 2.0, 4.0
# The p99 of a batch over its mean: 95 % of the points in the shipped profiles have less.
TAIL_RATIO = 2.0
# The share of the SLA that all batches on a request's way take together; the rest is to wait for them.
SERVICE_RATIO = 0.5
# Of variants whose accuracy nobody gave, so that plans choose among them by cost alone.
ACCURACY = 1.0
# The hardware and the method of a profile without a measurement.
NOWHERE, METHOD = "not measured", "assumed: times are the longest that the known bounds allow"


def assumed_profiles(
    pipeline: Pipeline,
    running: Sequence[StageConfig],
    rates_rps: Mapping[str, float],
    latencies_s: Mapping[str, float | None],
    known: Sequence[StageProfile],
    accuracies: Mapping[str, float],
    paths: Sequence[Sequence[str]],
    today: date,
) -> tuple[Pipeline, list[StageProfile], list[str]]:
    """The pipeline to plan, the profiles of it that had to be assumed, and what was assumed, in words.

    `running` has every stage, `rates_rps` the items a second of each and `latencies_s` the p99 of a request
    in it, as far as they are known. `known` are profiles of this pipeline, whose measured variants stay, and
    of others. `accuracies` are given by STAGE or STAGE/VARIANT; `paths` have the stages of each way through
    the pipeline. A stage that runs batches is bound to their size: nothing tells the times of others.
    """
    configs = {it.stage: it for it in running}
    shares = _shares(paths, configs)
    measured = {it: tuple(each for each in it.variants if each.assumed_ratio is None) for it in known}
    elsewhere = {it.variant: it for variants in measured.values() for it in variants}
    mine = {it.stage: replace(it, variants=measured[it]) for it in known if it.pipeline == pipeline.name}
    made, notes, stages = list[StageProfile](), list[str](), list[Stage]()
    for stage in pipeline.stages:
        profile = mine.get(stage.name)
        variants = {it.variant: it for it in profile.variants} if profile else {}
        slowest = max(variants.values(), key=lambda it: it.item_core_s, default=None)
        assumed = [it.name for it in stage.variants if it.name not in variants]
        for name in assumed:
            like, share_s = elsewhere.get(name, slowest), pipeline.sla.latency_s * shares[stage.name]
            runs = name == configs[stage.name].variant
            rate_rps, latency_s = (it.get(stage.name) if runs else None for it in (rates_rps, latencies_s))
            variants[name], words = _assumed(name, configs[stage.name], rate_rps, latency_s, like, share_s)
            given = accuracies.get(f"{stage.name}/{name}", accuracies.get(stage.name))
            variants[name] = replace(variants[name], accuracy=given or variants[name].accuracy)
            words += f"; its accuracy to be {variants[name].accuracy:g} (--accuracy)" if given is None else ""
            notes.append(f"stage {stage.name!r}: {words}")
        bounds = stage.bounds
        if assumed:
            if not profile or not profile.variants:
                profile = StageProfile(pipeline.name, stage.name, (), NOWHERE, today, METHOD, "ipa import")
            made.append(replace(profile, variants=tuple(variants.values())))
            if (size := configs[stage.name].batch_size) > 1:
                bounds = replace(bounds, batch_sizes=(size,))
                notes.append(
                    f"stage {stage.name!r}: bounds.batch_sizes has what runs: remove it once measured"
                )
        stages.append(replace(stage, bounds=bounds))
    if made:
        command = measure_command(pipeline.name, planned_only=True)
        notes.append(f"plans use the longest times until batches are seen; to measure them: {command}")
    return replace(pipeline, stages=tuple(stages)), made, notes


def _assumed(
    name: str,
    config: StageConfig,
    rate_rps: float | None,
    latency_s: float | None,
    like: VariantProfile | None,
    share_s: float,
) -> tuple[VariantProfile, str]:
    """The profile of the variant on the running cores, and what was assumed, in words.

    Its times are proportional to the items in a batch: corrected by batches that are not full, it never
    makes full ones look quicker than they are.
    """
    size, accuracy = config.batch_size, ACCURACY
    # Of a full batch, the longest credible mean time, that over the likely one, and the evidence.
    bounds = [(share_s / TAIL_RATIO, FAR_RATIO, f"its share of the SLA, {share_s:.3g} s")]
    if like is not None:
        first_s, next_s = like.batch_core_s
        likely_s = (first_s + next_s * (size - 1)) / config.cores
        bounds.append((likely_s * FAR_RATIO, FAR_RATIO, f"the profile of {like.variant}"))
        accuracy = like.accuracy if like.variant == name else ACCURACY
    if rate_rps:
        # Replicas are busy all the time at most.
        carried = f"{rate_rps:.3g} rps that {config} carries"
        bounds.append((size * config.replicas / rate_rps, NEAR_RATIO, carried))
    if latency_s:
        # A request's time includes its batch's, which takes no longer than its items one by one.
        bounds.append((size * latency_s, NEAR_RATIO, f"a p99 of {latency_s:.3g} s in the stage"))
    longest_s, ratio, evidence = min(bounds)
    means_s = {items: longest_s * items / size for items in sorted({1, size})}
    points = tuple(
        ProfilePoint(config.cores, items, significant(TAIL_RATIO * mean_s), significant(mean_s))
        for items, mean_s in means_s.items()
    )
    words = (
        f"{name} was not measured; by {evidence}, a batch of {size} is assumed to take "
        f"{longest_s / ratio**2 * 1e3:.3g} to {longest_s * 1e3:.3g} ms, likely {longest_s / ratio * 1e3:.3g}"
    )
    return VariantProfile(name, accuracy, points, assumed_ratio=ratio), words


def _shares(paths: Sequence[Sequence[str]], configs: Mapping[str, StageConfig]) -> dict[str, float]:
    """The share of the SLA for a batch of each stage at p99, by the longest path through it.

    A stage with more replicas, or larger batches, is taken to need that much more of it.
    """
    own = {name: it.replicas * it.batch_size for name, it in configs.items()}
    totals = [(path, sum(own.get(name, 0) for name in path)) for path in paths]
    longest = {name: max(total for path, total in totals if name in path) for name in own}
    return {name: SERVICE_RATIO * own[name] / longest[name] for name in own}
