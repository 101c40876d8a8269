"""A pipeline with the figures of its profiles: each variant's replicas, and variants that stay loaded."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from heapq import nlargest

from ipa.model.errors import InputError
from ipa.model.pipeline import Bounds, MeasuredVariant, Pipeline, Stage
from ipa.model.profile import Slowdowns, StageProfile, VariantProfile
from ipa.model.resources import BESIDE_CORES, NO_RESOURCES, Resources, beside_of


def with_profiles(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Pipeline:
    """Return the pipeline whose bounds know each profiled variant's accuracy and resources.

    Guards, steps, manifests and the simulator count a configuration's resources by them. Errors: as
    `stage_beside`.
    """
    profiled = [(stage, profiles[stage.name].variants) for stage in pipeline.served if stage.name in profiles]
    beside = {stage.name: stage_beside(stage, variants, pipeline.bounds) for stage, variants in profiled}
    measured = {
        (stage.name, each.variant): MeasuredVariant(
            each.accuracy,
            beside[stage.name][each.variant],
            each.item_core_s,
            each.batch_core_s,
            each.assumed_ratio,
        )
        for stage, variants in profiled
        for each in variants
        if each.variant in beside[stage.name]
    }
    return replace(pipeline, bounds=replace(pipeline.bounds, measured=measured))


def with_accuracies(pipeline: Pipeline, slowdowns: Slowdowns) -> Pipeline:
    """Return the pipeline whose bounds know the measured accuracies instead of those of the profiles."""
    off = {(each.stage, each.variant): each.accuracy for each in slowdowns if each.accuracy is not None}
    if not off:
        return pipeline
    known = pipeline.bounds.measured
    measured = {key: replace(it, accuracy=off.get(key, it.accuracy)) for key, it in known.items()}
    return replace(pipeline, bounds=replace(pipeline.bounds, measured=measured))


def stage_beside(stage: Stage, profiles: Sequence[VariantProfile], bounds: Bounds) -> dict[str, Resources]:
    """The resources other than cores of one replica, for each of the stage's variants with a profile.

    The larger of the measured and the requested amount counts: a container reserves its requests. If variants
    are resident, each replica has room for the largest of them together; they share accelerators. InputError:
    a resident variant lacks the figure of a resource that has a bound.
    """
    own = {variant.name: variant for variant in stage.variants}
    known = [each for each in profiles if each.variant in own]
    alone = {each.variant: beside_of(each).maximum(own[each.variant].requested) for each in known}
    if stage.residents == 1 or not alone:
        return alone
    for dimension in BESIDE_CORES:
        missing = [name for name in own if not alone.get(name, NO_RESOURCES).amount(dimension.name)]
        if dimension.name in bounds.limits and missing:
            raise InputError(
                f"stage {stage.name!r} keeps {stage.residents} variants in a replica, but the profile has no "
                f"{dimension.name} of {', '.join(missing)}, and bounds.{dimension.name} is set",
                hint=f"Measure them with `ipa profile`, or remove `resident` or bounds.{dimension.name}.",
            )
    largest = reduce(Resources.maximum, alone.values(), NO_RESOURCES)
    together = {
        each.name: sum(nlargest(stage.residents, (it.amount(each.name) for it in alone.values())))
        for each in BESIDE_CORES
    }
    return dict.fromkeys(alone, Resources.of(largest.amounts | together))


# In the name of a model: the variant of the replica that it is sent to.
ANY_VARIANT = "{variant}"


def resident_variants(pipeline: Pipeline, stage: str, variant: str) -> tuple[str, ...]:
    """The variants that replicas of the stage keep loaded while `variant` runs, `variant` first.

    There are `resident` of them: its neighbours by accuracy, the less accurate of two first, since it
    relieves overload. Without profiles the order of the file stands for the order of accuracies.
    """
    known = pipeline.stage(stage)
    measured = pipeline.bounds.measured
    names = [each.name for each in known.variants]
    if all((stage, name) in measured for name in names):
        names.sort(key=lambda name: measured[stage, name].accuracy)
    place = names.index(variant)
    nearest = sorted(range(len(names)), key=lambda at: (abs(at - place), at))
    return tuple(names[at] for at in nearest[: known.residents])


def stand_ins(
    pipeline: Pipeline, stage: str, variant: str, there: Container[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lighter and the heavier ones of the variants `there` that may serve instead of `variant`.

    Lighter ones stand in if requests would be late, the most accurate first; none if the file sets an
    accuracy floor. Heavier ones serve while there is time, the least accurate first; none if new variants
    need a canary. Neither if the file pins the variant.
    """
    planned, bounds = pipeline.stage(stage), pipeline.bounds
    if planned.pin.variant is not None:
        return (), ()
    names = [each.name for each in planned.variants if each.name in there]
    lighter = [name for name in names if is_lighter(bounds, stage, variant, name)]
    heavier = [name for name in names if is_lighter(bounds, stage, name, variant)]
    lighter.sort(key=lambda name: -bounds.measured[stage, name].accuracy)
    heavier.sort(key=lambda name: bounds.measured[stage, name].accuracy)
    return (
        () if bounds.accuracy_floor is not None else tuple(lighter),
        () if pipeline.canary is not None else tuple(heavier),
    )


def is_lighter(bounds: Bounds, stage: str, old: str, new: str) -> bool:
    """True if the new variant is known to be less accurate and no slower, so that it serves for its speed."""
    before, after = (bounds.measured.get((stage, variant)) for variant in (old, new))
    if before is None or after is None:
        return False
    return after.accuracy < before.accuracy and after.item_core_s <= before.item_core_s
