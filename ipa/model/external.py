"""Stages whose replicas another controller decides (`replicas: external`), such as an autoscaler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig

Configs = tuple[StageConfig, ...]


def with_replicas_of(
    external: Sequence[str], configs: Sequence[StageConfig], running: Sequence[StageConfig]
) -> Configs:
    """The configurations with the running replicas of the stages `external`; those of others as they are.

    Two configurations that differ in nothing else are the same to whoever does not decide that number.
    """
    if not external:
        return tuple(configs)
    counts = {config.stage: config.replicas for config in running if config.stage in external}
    return tuple(replace(each, replicas=counts.get(each.stage, each.replicas)) for each in configs)


def replicas_of(configs: Sequence[StageConfig], external: Sequence[str]) -> dict[str, int]:
    """The replicas of the stages `external`, by stage."""
    return {config.stage: config.replicas for config in configs if config.stage in external}


def pins_for(counts: Mapping[str, int]) -> tuple[tuple[str, Pin], ...]:
    """Pins of those stages to those numbers of replicas."""
    return tuple((stage, Pin(replicas=count)) for stage, count in counts.items())
