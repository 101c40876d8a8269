"""Changes that keep a stage's replicas: what keeps them, and the pins under which a plan does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ipa.control.engine.overrides import pins_of
from ipa.control.engine.state import TickRequest
from ipa.control.ports import StagePin
from ipa.model.parts import stage_pairs
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig
from ipa.model.rolling import Rolling
from ipa.policies.base import merged_pin

Configs = tuple[StageConfig, ...]


def is_kept(rolling: Rolling, running: Configs, wanted: Configs, *, is_in_place: bool) -> bool:
    """True if no stage's replicas are replaced, and, in place, none are started."""
    if not keeps_all(rolling, running, wanted):
        return False
    return not is_in_place or all(
        old and new.replicas <= old.replicas for old, new in stage_pairs(running, wanted)
    )


def keeps_all(rolling: Rolling, running: Configs, wanted: Configs) -> bool:
    """True if no stage's replicas are replaced."""
    pairs = stage_pairs(running, wanted)
    return all(old is not None and rolling.keeps_replicas(old, new) for old, new in pairs)


def with_kept(
    request: TickRequest,
    pairs: Iterable[tuple[StageConfig | None, StageConfig]],
    *,
    is_in_place: bool = False,
) -> TickRequest:
    """The request with pins that keep what stages get as they change from old to new.

    In place, their number of replicas too.
    """
    theirs = dict(pins_of(request.control))
    kept = ((new, _kept_of(request.rolling, old, new)) for old, new in pairs)
    pins = tuple(
        StagePin(
            new.stage,
            merged_pin(
                theirs.get(new.stage, Pin()), replace(pin, replicas=new.replicas) if is_in_place else pin
            ),
        )
        for new, pin in kept
    )
    return replace(request, control=replace(request.control, pins=pins))


def _kept_of(rolling: Rolling, old: StageConfig | None, new: StageConfig) -> Pin:
    """The pin of a stage that changes from `old` to `new`: all but replicas while those are replaced."""
    if old is None or not rolling.keeps_replicas(old, new):
        return Pin(new.variant, new.batch_size, new.cores)
    is_switched = new.stage in rolling.switches
    is_rebatched = is_switched or rolling.rebatches
    cores = None if is_switched and rolling.resizes else new.cores
    return Pin(None if is_switched else new.variant, None if is_rebatched else new.batch_size, cores)
