"""Resident variants: those that a replica keeps loaded beside the one that it runs."""

from __future__ import annotations

from collections.abc import Container

from ipa.model.pipeline import Bounds, Pipeline

# In the name of a model: the variant of the replica that it is sent to.
ANY_VARIANT = "{variant}"


def resident_variants(pipeline: Pipeline, stage: str, variant: str) -> tuple[str, ...]:
    """The variants that replicas of the stage keep loaded while `variant` runs, which is the first.

    As many as `resident` says: its neighbours by accuracy, the less accurate one of two first, since it
    relieves overload. Without profiles the order of the file stands for that of accuracies. If the
    target loads variants in groups, those of its group.
    """
    found = pipeline.stage(stage)
    for group in found.resident_groups:
        if variant in group:
            return (variant, *(name for name in group if name != variant))
    measured = pipeline.bounds.measured
    names = [each.name for each in found.variants]
    if all((stage, name) in measured for name in names):
        names.sort(key=lambda name: measured[stage, name].accuracy)
    place = names.index(variant)
    nearest = sorted(range(len(names)), key=lambda at: (abs(at - place), at))
    return tuple(names[at] for at in nearest[: found.residents])


def lighter_variants(pipeline: Pipeline, stage: str, variant: str) -> tuple[str, ...]:
    """The variants that may stand in for `variant` where requests would be late; the most accurate first.

    None where the file pins the variant or asks for an accuracy: then every request is to have it.
    """
    found, bounds = pipeline.stage(stage), pipeline.bounds
    if found.pin.variant is not None or bounds.accuracy_floor is not None:
        return ()
    names = [each.name for each in found.variants if is_lighter(bounds, stage, variant, each.name)]
    return tuple(sorted(names, key=lambda name: -bounds.measured[stage, name].accuracy))


def heavier_variants(pipeline: Pipeline, stage: str, variant: str) -> tuple[str, ...]:
    """The more accurate variants that may serve instead of `variant` while there is time; the next one first.

    None where the file pins the variant, or new ones are to be measured by a canary first.
    """
    found, bounds = pipeline.stage(stage), pipeline.bounds
    if found.pin.variant is not None or pipeline.canary is not None:
        return ()
    names = [each.name for each in found.variants if is_lighter(bounds, stage, each.name, variant)]
    return tuple(sorted(names, key=lambda name: bounds.measured[stage, name].accuracy))


def stand_ins(
    pipeline: Pipeline, stage: str, variant: str, there: Container[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lighter and the heavier ones of the variants `there` that may serve instead of `variant`."""
    lighter, heavier = (
        tuple(name for name in names if name in there)
        for names in (lighter_variants(pipeline, stage, variant), heavier_variants(pipeline, stage, variant))
    )
    return lighter, heavier


def is_lighter(bounds: Bounds, stage: str, old: str, new: str) -> bool:
    """True if the new variant is known to be less accurate and no slower: it serves for its speed alone."""
    before, after = (bounds.measured.get((stage, variant)) for variant in (old, new))
    if before is None or after is None:
        return False
    return after.accuracy < before.accuracy and after.item_core_s <= before.item_core_s
