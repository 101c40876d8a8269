"""The overrides of a pipeline that people have set: pauses, freezes, pins and modes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ipa.control.ports import Freeze, PipelineControl
from ipa.model.decision import Mode, ReasonCode
from ipa.model.parts import gone_parts, stage_pairs
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import only_replicas
from ipa.model.times import in_utc

WEEK = timedelta(days=7)

Stop = tuple[ReasonCode, str]


def stop_of(control: PipelineControl, at: datetime) -> Stop | None:
    """The reason and words of the pause or freeze in force at that wall-clock time; None without one."""
    return _pause(control, at) or _freeze(control.freezes, at)


def _pause(control: PipelineControl, at: datetime) -> Stop | None:
    if not control.paused or (control.paused_until is not None and at >= control.paused_until):
        return None
    until = f" until {in_utc(control.paused_until)}" if control.paused_until else ""
    return ReasonCode.PAUSED, f"paused{_by(control.paused_by)}{until}{_why(control.paused_reason)}"


def _freeze(freezes: Sequence[Freeze], at: datetime) -> Stop | None:
    for freeze in freezes:
        end = end_of_freeze(freeze, at)
        if end is not None:
            words = f"frozen{_by(freeze.by)} until {in_utc(end)}{_why(freeze.reason)}"
            return ReasonCode.FROZEN, words
    return None


def end_of_freeze(freeze: Freeze, at: datetime) -> datetime | None:
    """The end of the freeze's window that is open at that time; None if it is closed."""
    if at < freeze.start:
        return None
    weeks = (at - freeze.start) // WEEK if freeze.weekly else 0
    end = freeze.end + weeks * WEEK
    return end if at < end else None


def pins_of(control: PipelineControl) -> tuple[tuple[str, Pin], ...]:
    """The pins by stage."""
    return tuple((said.stage, said.pin) for said in control.pins)


def pin_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Every pin of the given pipeline that the configuration violates, in words."""
    pins = {stage.name: stage.pin for stage in pipeline.served}
    return [
        f"{config.stage} is pinned to {wanted} {name}, not {found}"
        for config in configs
        if config.stage in pins
        for name, wanted, found in _pinned(pins[config.stage], config)
        if wanted is not None and wanted != found
    ]


def _pinned(pin: Pin, config: StageConfig) -> tuple[tuple[str, object, object], ...]:
    return (
        ("as its variant", pin.variant, config.variant),
        ("as its batch size", pin.batch_size, config.batch_size),
        ("cores", pin.cores, config.cores),
        ("replicas", pin.replicas, config.replicas),
    )


def held_back(
    mode: Mode, running: Sequence[StageConfig], configs: Sequence[StageConfig]
) -> ReasonCode | None:
    """The reason why this mode does not write the change; None if it does."""
    match mode:
        case Mode.ADVISORY:
            return ReasonCode.ADVISORY
        case Mode.SHADOW:
            return ReasonCode.SHADOW
        case Mode.GUARDED:
            return None if adds_only(running, configs) else ReasonCode.GUARDED
        case Mode.ACTIVE:
            return None


def adds_only(running: Sequence[StageConfig], configs: Sequence[StageConfig]) -> bool:
    """True if the change only adds replicas, and changes no part or share."""
    return not gone_parts(running, configs) and all(
        old is not None
        and only_replicas(old, config)
        and config.replicas >= old.replicas
        and config.share_percent == old.share_percent
        for old, config in stage_pairs(running, configs)
    )


def _by(name: str) -> str:
    return f" by {name}" if name else ""


def _why(reason: str) -> str:
    return f": {reason}" if reason else ""
