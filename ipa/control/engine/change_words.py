"""The words for a change: its kind, its stages, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.control.engine.guards import total_cores
from ipa.control.engine.transition import TransitionStep
from ipa.model.decision import ReasonCode
from ipa.model.parts import gone_parts, only_shares, stage_pairs
from ipa.model.plan import StageConfig

Configs = tuple[StageConfig, ...]


def classify(running: Sequence[StageConfig], configs: Sequence[StageConfig], urgent: bool) -> ReasonCode:
    """The kind of the change: a new variant takes precedence over the size, the size over the batch.

    A change that adds replicas is no scale-down, whatever cores it saves.
    """
    if running and only_shares(running, configs):
        return ReasonCode.RESHARE
    pairs = list(stage_pairs(running, configs))
    if gone_parts(running, configs) or any(old is None or old.variant != new.variant for old, new in pairs):
        return ReasonCode.SWITCH_VARIANT
    if all(old and (old.cores, old.replicas) == (new.cores, new.replicas) for old, new in pairs):
        return ReasonCode.REBATCH
    grown = total_cores(configs) - total_cores(running)
    adds_replicas = any(old is None or new.replicas > old.replicas for old, new in pairs)
    up = urgent if abs(grown) < 1e-9 else grown > 0 or adds_replicas
    return ReasonCode.SCALE_UP if up else ReasonCode.SCALE_DOWN


def changes(running: Sequence[StageConfig], configs: Sequence[StageConfig]) -> str:
    """The changes, stage by stage, in words."""
    pairs = [(old, config) for old, config in stage_pairs(running, configs) if old != config]
    gone = [config for part in gone_parts(running, configs) for config in part]
    return ", ".join(
        [*(f"{old or 'nothing'} → {new}" for old, new in pairs), *(f"{old} → nothing" for old in gone)]
    )


def no_room(step: TransitionStep, running: Configs, aim: Configs) -> str:
    """The words for a change of which not even the first stage has room."""
    return f"{step.lacking.words(before='more')} are needed during the change: {changes(running, aim)}"
