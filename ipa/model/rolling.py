"""Rolling updates: how replicas of a stage are replaced, and the cores needed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ipa.model.overhead import Overhead
from ipa.model.parts import gone_parts, paired, stage_pairs
from ipa.model.plan import StageConfig

# A quarter of a whole number may differ from it by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rolling:
    """The strategy by which a target replaces replicas whose variant, batch size or cores change.

    It starts up to ceil(surge_ratio · n) new replicas beyond the n requested before old ones stop. If
    `shrinks_first`, a smaller n removes old replicas at once, before the new ones are ready, as a Kubernetes
    Deployment does.
    """

    surge_ratio: float = 1.0
    shrinks_first: bool = False


# All new replicas start beside all old ones, then the old ones stop: how local processes are replaced.
SIDE_BY_SIDE = Rolling()
# A Deployment with maxSurge 25 % and maxUnavailable 0.
DEPLOYMENT = Rolling(surge_ratio=0.25, shrinks_first=True)


def only_replicas(old: StageConfig, new: StageConfig) -> bool:
    """True if only the number of replicas changes."""
    return (old.variant, old.batch_size, old.cores) == (new.variant, new.batch_size, new.cores)


def peak_cores(old: StageConfig, new: StageConfig, rolling: Rolling) -> float:
    """The most cores that the stage uses at any moment between old and new.

    On Deployments a change to fewer replicas first asks for as many as before (`first_hop`), since the
    Deployment would otherwise remove old ones first; those are counted.
    """
    if only_replicas(old, new):
        return max(old.total_cores, new.total_cores)
    return peak_amount(old.replicas, old.cores, new.replicas, new.cores, rolling)


def change_peak_cores(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, overhead: Overhead
) -> float:
    """The most cores at any moment of a change of all stages, overhead included.

    New parts start before old parts stop.
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
    """The most of an amount (cores, GiB) that old replicas of `old_each` and new ones use together."""
    if not rolling.shrinks_first:
        return old_replicas * old_each + new_replicas * new_each
    replicas = max(old_replicas, new_replicas)
    surge = ceil(rolling.surge_ratio * replicas - ROUNDING)
    return max(replicas * old_each + surge * new_each, replicas * new_each + surge * old_each)


def first_hop(old: StageConfig, new: StageConfig, rolling: Rolling) -> StageConfig:
    """The first configuration to ask for, so that no capacity goes before its successor is ready."""
    if rolling.shrinks_first and not only_replicas(old, new) and new.replicas < old.replicas:
        return replace(new, replicas=old.replicas)
    return new
