"""Resident variants: those that a replica keeps loaded beside the one that it runs."""

from __future__ import annotations

from ipa.model.pipeline import Bounds, Pipeline

# In the name of a model: the variant of the replica that it is sent to.
ANY_VARIANT = "{variant}"


def resident_variants(pipeline: Pipeline, stage: str, variant: str) -> tuple[str, ...]:
    """The variants that replicas of the stage keep loaded while `variant` runs, which is the first.

    As many as `resident` says: its neighbours by accuracy, the less accurate one of two first, since it
    relieves overload. Without profiles the order of the file stands for that of accuracies.
    """
    found = pipeline.stage(stage)
    measured = pipeline.bounds.measured
    names = [each.name for each in found.variants]
    if all((stage, name) in measured for name in names):
        names.sort(key=lambda name: measured[stage, name].accuracy)
    place = names.index(variant)
    nearest = sorted(range(len(names)), key=lambda at: (abs(at - place), at))
    return tuple(names[at] for at in nearest[: found.residents])


def is_lighter(bounds: Bounds, stage: str, old: str, new: str) -> bool:
    """True if the new variant is known to be the less accurate one, which plans use for its speed alone."""
    before, after = (bounds.measured.get((stage, variant)) for variant in (old, new))
    return before is not None and after is not None and after.accuracy < before.accuracy
