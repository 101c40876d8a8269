"""Rolling updates: how replicas of a stage are replaced, and the resources needed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from ipa.model.parts import gone_parts, paired, stage_pairs
from ipa.model.pipeline import Bounds, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.resources import Resources, total

# A quarter of a whole number may differ from it by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rolling:
    """The strategy by which a target replaces replicas whose variant, batch size or cores change.

    It starts up to ceil(surge_ratio · n) new replicas beyond the n requested before old ones stop. If it
    `shrinks_first`, a smaller n removes old replicas at once, before the new ones are ready, as a Kubernetes
    Deployment does. If it `rebatches`, replicas stay when the batch size changes: a queue forms the batches.
    Replicas of the stages `switches` have several variants loaded (`resident`), and also stay when the
    variant changes; if it `resizes`, also when their cores change but not their number of threads. If it
    `amends`, another write during a change keeps the replicas that the change has started.
    """

    surge_ratio: float = 1.0
    shrinks_first: bool = False
    switches: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    resizes: bool = field(default=False, metadata=UNLESS_DEFAULT)
    rebatches: bool = field(default=False, metadata=UNLESS_DEFAULT)
    amends: bool = field(default=False, metadata=UNLESS_DEFAULT)

    def of(self, pipeline: Pipeline) -> Rolling:
        """The strategy for that pipeline: its stages with resident variants switch in place."""
        return replace(self, switches=tuple(it.name for it in pipeline.served if it.residents > 1))

    def keeps_replicas(self, old: StageConfig, new: StageConfig) -> bool:
        """True if the running replicas stay: the change at most starts more of them, or stops some."""
        is_switched = old.stage in self.switches
        is_resized = is_switched and self.resizes and threads_of(old.cores) == threads_of(new.cores)
        return (
            (is_resized or old.cores == new.cores)
            and (is_switched or old.variant == new.variant)
            and (is_switched or self.rebatches or old.batch_size == new.batch_size)
        )


# All new replicas start beside all old ones, then the old ones stop. Their queues form the batches.
SIDE_BY_SIDE = Rolling(rebatches=True, amends=True)
# How local processes are replaced.
PROCESSES = replace(SIDE_BY_SIDE, resizes=True)
# A Deployment with maxSurge 25 % and maxUnavailable 0.
DEPLOYMENT = Rolling(surge_ratio=0.25, shrinks_first=True)


def threads_of(cores: float) -> int:
    """The threads of a replica: one for each core or fraction of one."""
    return max(1, ceil(cores))


def only_replicas(old: StageConfig, new: StageConfig) -> bool:
    """True if only the number of replicas changes."""
    return (old.variant, old.batch_size, old.cores) == (new.variant, new.batch_size, new.cores)


def waves(old: StageConfig, new: StageConfig, rolling: Rolling) -> int:
    """The number of successive starts of replicas that a change waits for; 0 if it starts none.

    A Deployment whose template changes has its old ReplicaSet scaled to the new number first, while new
    replicas start one surge after another.
    """
    if rolling.keeps_replicas(old, new):
        return int(new.replicas > old.replicas)
    return ceil(new.replicas / max(1, ceil(rolling.surge_ratio * new.replicas - ROUNDING)))


def peak_of(
    old: StageConfig, old_each: Resources, new: StageConfig, new_each: Resources, rolling: Rolling
) -> Resources:
    """The most that the stage uses at any moment between old and new; `…_each` is one replica's use.

    A Deployment has its old replicas scaled to the number of its `first_hop`, and a surge of new ones in
    addition.
    """
    before, after = old_each * old.replicas, new_each * new.replicas
    if rolling.keeps_replicas(old, new):
        # Replicas that stay grow before others stop, and shrink once others are ready.
        staying = min(old.replicas, new.replicas)
        grown = old_each.maximum(new_each) * staying
        return grown + old_each * (old.replicas - staying) + new_each * (new.replicas - staying)
    if not rolling.shrinks_first:
        return before + after
    replicas = first_hop(old, new, rolling).replicas
    surge = ceil(rolling.surge_ratio * replicas - ROUNDING)
    during = (old_each * replicas + new_each * surge).maximum(new_each * replicas + old_each * surge)
    return during.maximum(before)


def stage_peak(old: StageConfig | None, new: StageConfig, rolling: Rolling, bounds: Bounds) -> Resources:
    """The most that the stage uses at any moment between old (None: nothing) and new, overhead included."""
    each = bounds.replica(new)
    return each * new.replicas if old is None else peak_of(old, bounds.replica(old), new, each, rolling)


def change_peak(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, bounds: Bounds
) -> Resources:
    """The most resources at any moment of a change of all stages, overhead included.

    New parts start before old parts stop.
    """
    fixed = Resources(cpu_cores=len(paired(running, wanted)) * bounds.overhead.fixed_cores)
    changing = total(stage_peak(old, new, rolling, bounds) for old, new in stage_pairs(running, wanted))
    going = total(
        bounds.replica(config) * config.replicas for part in gone_parts(running, wanted) for config in part
    )
    return fixed + changing + going


def quick_hop(old: StageConfig, new: StageConfig, rolling: Rolling) -> StageConfig | None:
    """The first of two steps to `new` that are ready sooner than a direct change; None without such steps.

    The first step replaces the existing replicas, the second adds the rest together.
    """
    if rolling.keeps_replicas(old, new) or new.replicas <= old.replicas:
        return None
    hop = replace(new, replicas=old.replicas)
    return hop if waves(old, hop, rolling) + waves(hop, new, rolling) < waves(old, new, rolling) else None


def first_hop(old: StageConfig, new: StageConfig, rolling: Rolling) -> StageConfig:
    """The first configuration to write, so that no capacity goes before its successor is ready.

    A Deployment first replaces all its replicas and then shrinks, as far as the new replicas together have no
    more cores than the larger end.
    """
    if rolling.shrinks_first and not rolling.keeps_replicas(old, new) and new.replicas < old.replicas:
        most = int(max(old.total_cores, new.total_cores) / new.cores + ROUNDING)
        return replace(new, replicas=min(old.replicas, max(new.replicas, most)))
    return new
