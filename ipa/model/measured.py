"""A pipeline with what its profiles say of a replica of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.model.pipeline import MeasuredVariant, Pipeline, Variant
from ipa.model.profile import StageProfile, VariantProfile
from ipa.model.resources import Resources, beside_cores


def with_profiles(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Pipeline:
    """Return the pipeline whose bounds know each profiled variant's accuracy and resources.

    Guards, steps, manifests and the simulator count a configuration's resources by them.
    """
    measured = {
        (stage.name, variant.name): MeasuredVariant(
            each.accuracy, Resources.of(replica_beside(variant, each))
        )
        for stage in pipeline.served
        if stage.name in profiles
        for variant in stage.variants
        for each in profiles[stage.name].variants
        if each.variant == variant.name
    }
    return replace(pipeline, bounds=replace(pipeline.bounds, measured=measured))


def replica_beside(variant: Variant, measured: VariantProfile) -> dict[str, float]:
    """The resources of a replica beside its cores, by name: the larger of measured and requested.

    A container holds what it requests, whatever it uses.
    """
    used, requested = beside_cores(measured), variant.requested
    return {name: max(used.get(name, 0.0), requested.get(name, 0.0)) for name in used | requested}
