"""In which order the parts of a split pipeline are written, so that it may stop anywhere.

The rule (docs/adr/0004): what only adds capacity goes first and what only takes it away last; a bigger batch
goes before its model, a smaller one after it. Then, as long as a replica does not get slower by a bigger
batch or by more cores, each stage carries after every single write at least what it carried before or what it
is to carry after, whichever is less, and no stage is smaller than before until every stage that grows has
grown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.model.plan import StageConfig
from ipa.targets.seldon.split import PartRole

GROWS, BIGGER_BATCH, SWITCHES, SMALLER_BATCH, SHRINKS = range(5)


@dataclass(frozen=True, slots=True)
class SplitWrite:
    """One object to write: the part and the stage."""

    role: PartRole
    stage: str


def steps(running: Sequence[StageConfig], wanted: Sequence[StageConfig]) -> tuple[SplitWrite, ...]:
    """The objects that differ, in the order in which they are to be written."""
    found: list[tuple[int, SplitWrite]] = []
    for now, then in zip(running, wanted, strict=True):
        if now.batch_size != then.batch_size:
            rank = BIGGER_BATCH if then.batch_size > now.batch_size else SMALLER_BATCH
            found.append((rank, SplitWrite(PartRole.QUEUE, now.stage)))
        if (now.variant, now.cores, now.replicas) != (then.variant, then.cores, then.replicas):
            found.append((_rank(now, then), SplitWrite(PartRole.MODEL, now.stage)))
    return tuple(step for _, step in sorted(found, key=lambda each: each[0]))


def _rank(now: StageConfig, then: StageConfig) -> int:
    if now.variant == then.variant:
        if then.cores >= now.cores and then.replicas >= now.replicas:
            return GROWS
        if then.cores <= now.cores and then.replicas <= now.replicas:
            return SHRINKS
    return SWITCHES
