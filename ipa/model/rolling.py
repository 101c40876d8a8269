"""How the replicas of a stage are replaced, and what that takes while it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ipa.model.overhead import Overhead
from ipa.model.parts import gone_parts, paired, stage_pairs
from ipa.model.plan import StageConfig

# A quarter of a whole number may be a rounding off.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rolling:
    """How a world replaces the replicas of a stage whose variant, batch size or cores change.

    It starts up to ceil(surge_ratio · n) new ones beyond the wanted n before old ones stop. Where
    `shrinks_first`, a smaller n takes away old replicas at once, before the new ones are ready, as a
    Kubernetes Deployment does.
    """

    surge_ratio: float = 1.0
    shrinks_first: bool = False


# All new replicas beside all old ones, then the old ones go: how local processes are replaced.
SIDE_BY_SIDE = Rolling()
# What Seldon's operator gives its Deployments: maxSurge 25 %, maxUnavailable 0.
DEPLOYMENT = Rolling(surge_ratio=0.25, shrinks_first=True)


def only_replicas(old: StageConfig, new: StageConfig) -> bool:
    """Whether the replicas stay as they are and only their number changes."""
    return (old.variant, old.batch_size, old.cores) == (new.variant, new.batch_size, new.cores)


def peak_cores(old: StageConfig, new: StageConfig, rolling: Rolling) -> float:
    """The most cores that the stage has at any moment on its way from old to new.

    On Deployments a change to fewer replicas goes by way of as many as before (`first_hop`), since the
    Deployment would else take old ones away first; that is counted.
    """
    if only_replicas(old, new):
        return max(old.total_cores, new.total_cores)
    return peak_amount(old.replicas, old.cores, new.replicas, new.cores, rolling)


def change_peak_cores(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, overhead: Overhead
) -> float:
    """The most cores at any moment where all changes at once, with what runs beside the replicas.

    Of parts that run side by side, new ones come before old ones go.
    """
    held = overhead.held
    changing = sum(
        peak_cores(held(old), held(new), rolling) if old else held(new).total_cores
        for old, new in stage_pairs(running, wanted)
    )
    going = sum(held(config).total_cores for part in gone_parts(running, wanted) for config in part)
    return len(paired(running, wanted)) * overhead.fixed_cores + changing + going


def peak_amount(
    old_replicas: int, old_each: float, new_replicas: int, new_each: float, rolling: Rolling
) -> float:
    """The most of something (cores, GiB) that old replicas of `old_each` and new ones have together."""
    if not rolling.shrinks_first:
        return old_replicas * old_each + new_replicas * new_each
    replicas = max(old_replicas, new_replicas)
    surge = ceil(rolling.surge_ratio * replicas - ROUNDING)
    return max(replicas * old_each + surge * new_each, replicas * new_each + surge * old_each)


def first_hop(old: StageConfig, new: StageConfig, rolling: Rolling) -> StageConfig:
    """What to ask for first on the way to new, so that no capacity goes before its successor is ready."""
    if rolling.shrinks_first and not only_replicas(old, new) and new.replicas < old.replicas:
        return replace(new, replicas=old.replicas)
    return new
