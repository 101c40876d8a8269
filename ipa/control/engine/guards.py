"""The guards before a write: trustworthy data, bounds, the step limit, and people's overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ipa.control.engine.observe import sane
from ipa.control.ports import Freeze, PipelineControl
from ipa.model.decision import Mode, ReasonCode
from ipa.model.observation import (
    Measured,
    Missing,
    Observation,
    known,
)
from ipa.model.parts import gone_parts, parts_of, share_faults, share_of, stage_pairs
from ipa.model.pipeline import Bounds, Pin, Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig
from ipa.model.rolling import only_replicas
from ipa.model.rounding import in_utc
from ipa.model.serving import batch_fault
from ipa.optimize.graph import graph_of

# What is this many deviations from what is expected is no chance.
SURE = 4.0
# Ratios by which plans are corrected have steps of 5 %, so that plans do not jitter with them.
STEP = 1.05
# Products of accuracies in another order differ in their last digits.
ROUNDING_RATIO = 1e-9


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The settings of the engine; the service's settings explain each."""

    tick_s: float = 10.0
    # The interval of load reads between ticks; 0 for none.
    peek_s: float = 0.0
    stale_after_s: float = 15.0
    # The price of a change, in seconds of the cost of the running resources.
    change_price_s: float = 12.0
    max_step_replicas: int = 8
    rollout_deadline_s: float = 300.0
    # How long a variant is quarantined after its rollout failed; doubles with each further failure.
    quarantine_s: float = 300.0
    # This many refused writes, or changes by others, in a row block the pipeline.
    max_conflicts: int = 3
    max_drifts: int = 3
    # True: plans use the observed slowdown of variants that are slower than their profiles.
    correct_profiles: bool = False


def disagreement(observation: Observation, sla_s: float) -> str:
    """The signal that contradicts a removal of capacity, in words; empty if none does.

    A latency that is absent because no request came is no contradiction; a stale or invalid one is.
    """
    signals = [(f"the load of {stage.stage}", stage.arrival_rate_rps) for stage in observation.stages]
    for name, value in [("the latency", observation.latency_s), *signals]:
        if isinstance(value, Missing) and not value.is_idle:
            return f"{name} is {value.reason.value}"
    late = known(observation.latency_s)
    if late is not None and late > sla_s:
        return f"the latency is {late:.3g} s, the SLA is {sla_s:g} s"
    for stage in observation.stages:
        ready, config = stage.ready_replicas, stage.running
        if (
            isinstance(ready, Measured)
            and isinstance(config, Measured)
            and ready.value < config.value.replicas
        ):
            return f"only {ready.value} of {config.value.replicas} replicas of {stage.stage} are ready"
    return ""


def bound_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Every bound that the configuration violates, in words; one with a fault is never written.

    Each part of a set must keep the bounds of its stages, and all parts together those on resources and
    accuracy.
    """
    wanted = [stage.name for stage in pipeline.served]
    parts = parts_of(configs)
    for named in [[config.stage for config in part] for part in parts] or [[]]:
        if wanted != named:
            return [f"its stages are {', '.join(named) or 'none'}, the pipeline's are {', '.join(wanted)}"]
    bounds = pipeline.bounds
    faults = [fault for part in parts for fault in _part_faults(pipeline, part)] + share_faults(configs)
    return [*faults, *bounds.exceeded(configs), *accuracy_faults(pipeline, parts)]


def restoring_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Every reason not to return to a configuration that ran, in words with the remedy.

    That is a budget that it exceeds, or a name that the pipeline no longer has. Other bounds only keep it
    from being planned.
    """
    wanted = {stage.name: {variant.name for variant in stage.variants} for stage in pipeline.served}
    named = {config.stage for config in configs}
    faults = [
        f"the pipeline no longer has {each.stage}={each.variant}; restore it in the pipeline's file"
        for each in configs
        if each.variant not in wanted.get(each.stage, ())
    ]
    faults += [f"it has no stage {name}; apply a plan instead" for name in wanted if name not in named]
    remedy = "raise it in `bounds` of the pipeline's file, or apply a plan within it"
    return [*faults, *(f"{fault}; {remedy}" for fault in pipeline.bounds.exceeded(configs))]


def accuracy_faults(pipeline: Pipeline, parts: Sequence[Sequence[StageConfig]]) -> list[str]:
    """The fault of a PAS below the floor; empty if some variant was not measured.

    Parts that share the requests count by their weighted mean.
    """
    floor = pipeline.bounds.accuracy_floor
    if floor is None:
        return []
    graph, pas = graph_of(pipeline.stages), 0.0
    for part in parts:
        measured = {it.stage: pipeline.bounds.measured.get((it.stage, it.variant)) for it in part}
        known = {name: each.accuracy for name, each in measured.items() if each is not None}
        if len(known) < len(part):
            return []
        accuracies = [known.get(stage.name, 1.0) for stage in pipeline.stages]
        pas += share_of(part) / WHOLE_PERCENT * graph.accuracy(accuracies)
    return (
        [] if pas >= floor * (1 - ROUNDING_RATIO) else [f"accuracy {pas:.4g} is below the floor of {floor:g}"]
    )


def _part_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    faults = []
    for stage, config in zip(pipeline.served, configs, strict=True):
        if config.variant not in {variant.name for variant in stage.variants}:
            faults.append(f"{stage.name} has no variant {config.variant!r}")
        limits = stage.limits(pipeline.bounds)
        least, most, allowed = limits.min_replicas or 1, limits.max_replicas, limits.batch_sizes
        if config.replicas < least:
            faults.append(f"{stage.name}: {config.replicas} replicas are below the bound of {least}")
        if most is not None and config.replicas > most:
            faults.append(f"{stage.name}: {config.replicas} replicas are above the bound of {most}")
        if stage.unbatched and config.batch_size > 1:
            faults.append(batch_fault(stage.name, config.batch_size, stage.unbatched))
        elif config.batch_size < 1 or (allowed is not None and config.batch_size not in allowed):
            faults.append(f"{stage.name}: batch size {config.batch_size} is not allowed")
        if not (sane(config.cores) and config.cores > 0):
            faults.append(f"{stage.name}: {config.cores} is not a number of cores above 0")
    return faults


def limit_steps(
    configs: Sequence[StageConfig], running: Sequence[StageConfig], bounds: Bounds, max_step: int
) -> tuple[StageConfig, ...]:
    """The configs with at most `max_step` replicas added or removed per stage.

    A stage with a new variant or replica size is not limited, nor is removal if slower removal would exceed
    a budget.
    """

    def stepped(old: StageConfig | None, config: StageConfig, slow_removal: bool) -> StageConfig:
        if old is None or (old.variant, old.cores) != (config.variant, config.cores):
            return config
        least = old.replicas - max_step if slow_removal else config.replicas
        return replace(config, replicas=min(max(config.replicas, least), old.replicas + max_step))

    pairs = list(stage_pairs(running, configs))
    slow = tuple(stepped(old, config, True) for old, config in pairs)
    return tuple(stepped(*pair, False) for pair in pairs) if bounds.exceeded(slow) else slow


def total_cores(configs: Sequence[StageConfig]) -> float:
    """Cores of all replicas of all stages."""
    return sum(config.total_cores for config in configs)


WEEK = timedelta(days=7)

Stop = tuple[ReasonCode, str]


def stop_of(control: PipelineControl, at: datetime) -> Stop | None:
    """The reason and words of the pause or freeze in force at that wall-clock time; None without one."""
    if control.paused and (control.paused_until is None or at < control.paused_until):
        until = f" until {in_utc(control.paused_until)}" if control.paused_until else ""
        return ReasonCode.PAUSED, f"paused{_by(control.paused_by)}{until}{_why(control.paused_reason)}"
    for freeze in control.freezes:
        end = end_of_freeze(freeze, at)
        if end is not None:
            return ReasonCode.FROZEN, f"frozen{_by(freeze.by)} until {in_utc(end)}{_why(freeze.reason)}"
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
    return tuple((each.stage, each.pin) for each in control.pins)


def pin_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Every pin of the given pipeline that the configuration violates, in words."""
    pins, faults = {stage.name: stage.pin for stage in pipeline.served}, []
    for config in configs:
        pin = pins.get(config.stage, Pin())
        fields: tuple[tuple[str, object, object], ...] = (
            ("as its variant", pin.variant, config.variant),
            ("as its batch size", pin.batch_size, config.batch_size),
            ("cores", pin.cores, config.cores),
            ("replicas", pin.replicas, config.replicas),
        )
        for name, pinned, planned in fields:
            if pinned is not None and pinned != planned:
                faults.append(f"{config.stage} is pinned to {pinned} {name}, not {planned}")
    return faults


def mode_objection(
    mode: Mode, running: Sequence[StageConfig], configs: Sequence[StageConfig]
) -> ReasonCode | None:
    """The reason why the pipeline's mode does not write the change; None if it does."""
    if mode is Mode.GUARDED:
        return None if adds_only(running, configs) else ReasonCode.GUARDED
    return {Mode.ADVISORY: ReasonCode.ADVISORY, Mode.SHADOW: ReasonCode.SHADOW}.get(mode)


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
