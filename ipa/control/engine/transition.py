"""The steps from the running configuration to the wanted one; the state after each step is safe.

No step removes capacity before its successor is ready, and in none do old and new replicas together exceed
the resources of a change. The steps are not stored: each tick decides afresh from the running configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ipa.control.engine.guards import bound_faults, pins_of, total_cores
from ipa.control.engine.state import TickRequest
from ipa.control.ports import StagePin
from ipa.model.decision import ReasonCode
from ipa.model.observation import Measured, Observation
from ipa.model.parts import (
    Configs,
    gone_parts,
    in_order,
    is_shared,
    only_shares,
    paired,
    share_of,
    stage_pairs,
    with_share,
)
from ipa.model.pipeline import Bounds, Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.resources import NO_RESOURCES, Resources
from ipa.model.rolling import Rolling, first_hop, quick_hop, stage_peak
from ipa.policies.base import lacking, limits_of_change, merged_pin

# True if a configuration carries the load within the SLA.
Suffices = Callable[[Configs], bool]


@dataclass(frozen=True, slots=True)
class TransitionStep:
    """The configuration to write now (the running one if there is no room), and the later steps in words.

    `lacking`: what the cheapest stage needs beyond the limits of a change. `follow_up`: the configuration to
    write next whatever the load is, which sends requests to the new replicas.
    """

    configs: Configs
    later: str = ""
    lacking: Resources = NO_RESOURCES
    follow_up: Configs = ()


def safe_step(
    running: Sequence[StageConfig],
    wanted: Sequence[StageConfig],
    rolling: Rolling,
    bounds: Bounds,
    suffices: Suffices = lambda _: False,
    carries_as_much: Suffices = lambda _: False,
) -> TransitionStep:
    """The first step towards the wanted configurations: all stages at once if there is room.

    Else the stages with the least extra need go first. The running configuration may exceed the bounds. A
    stage that changes and gets fewer replicas first loses them if the rest still `suffices`; else as many
    replicas replace it. One that gets more is replaced first and scaled then, if that is quicker and as many
    replicas as now carry no less. Parts that share the load change together (`_shared_step`).
    """
    if is_shared(running) or is_shared(wanted):
        return _shared_step(tuple(running), tuple(wanted), rolling, bounds)
    now = {config.stage: config for config in running}
    hops = _hops(running, wanted, rolling, suffices, carries_as_much)
    used, limits = bounds.held(running), limits_of_change(running, bounds)
    moving = [at for at, hop in enumerate(hops) if hop != now.get(hop.stage)]
    # The resources beyond those that the stage has now, at the peak of its step.
    extra = [
        stage_peak(old, hop, rolling, bounds) - (bounds.replica(old) * old.replicas if old else NO_RESOURCES)
        for old, hop in ((now.get(hop.stage), hop) for hop in hops)
    ]
    # Those that fit into the limits together, the ones with the least need of cores first.
    chosen, held = set[int](), used
    for at in sorted(moving, key=lambda stage: (extra[stage].cpu_cores, stage)):
        if not (held + extra[at]).exceeded(limits):
            chosen.add(at)
            held = held + extra[at]
    configs = tuple(hop if at in chosen else now.get(hop.stage, hop) for at, hop in enumerate(hops))
    waiting = [str(want) for want, config in zip(wanted, configs, strict=True) if want != config]
    later = f"then {', '.join(waiting)}" if waiting else ""
    missing = NO_RESOURCES
    if moving and not chosen:
        least = min(moving, key=lambda at: extra[at].cpu_cores)
        missing = (used + extra[least]).beyond(limits)
    return TransitionStep(configs, later, missing)


def _shared_step(running: Configs, wanted: Configs, rolling: Rolling, bounds: Bounds) -> TransitionStep:
    """The first step between sets: the wanted set, if the target keeps old parts until new ones serve.

    A target that sends requests to parts that do not serve yet, as predictors do, first starts them with a
    share of 0; growing parts keep their share.
    """
    started = _started(running, wanted, rolling) if rolling.shrinks_first else wanted
    configs = (
        tuple(
            new if old is None else first_hop(old, new, rolling) for old, new in stage_pairs(running, wanted)
        )
        if started == running
        else started
    )
    missing = lacking(running, configs, rolling, bounds)
    if missing != NO_RESOURCES:
        return TransitionStep(running, lacking=missing)
    if configs == wanted:
        return TransitionStep(configs)
    return TransitionStep(configs, f"then {', '.join(map(str, wanted))}", follow_up=wanted)


def _started(running: Configs, wanted: Configs, rolling: Rolling) -> Configs:
    """The running configuration with all that must serve before requests move; new parts at a share of 0.

    A part that is to take more requests is replaced and grown first; one that is to take fewer only grows,
    and is replaced when it has fewer.
    """
    parts = []
    for before, after in paired(running, wanted):
        if before is None:
            parts.append(with_share(after or (), 0))
        elif after is None:
            parts.append(before)
        else:
            takes_more = share_of(after) >= share_of(before)
            begins = _must_start if takes_more else _only_grows
            grown = [
                first_hop(old, new, rolling) if begins(old, new, rolling) else old
                for old, new in zip(before, after, strict=True)
            ]
            parts.append(with_share(grown, share_of(before)))
    return in_order(parts)


def _must_start(old: StageConfig, new: StageConfig, rolling: Rolling) -> bool:
    """True if the change starts replicas."""
    return new.replicas > old.replicas or not rolling.keeps_replicas(old, new)


def _only_grows(old: StageConfig, new: StageConfig, rolling: Rolling) -> bool:
    """True if it has more cores, and nothing less."""
    is_less = new.cores < old.cores or new.replicas < old.replicas or new.batch_size != old.batch_size
    return new.total_cores > old.total_cores and not is_less


def make_room(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, bounds: Bounds
) -> Configs:
    """The configuration to write if no stage has room to change and the running one fails its load anyway.

    One stage is replaced with as many replicas as it has, or with the wanted number if that is smaller. If
    not even that fits, replicas are removed until it does. The stage that keeps the largest part of its
    replicas is chosen; the running configuration is returned if there is none.
    """
    used = bounds.held(running)
    best, kept_ratio = tuple(running), 0.0
    for old, want in stage_pairs(running, wanted):
        if old is None or rolling.keeps_replicas(old, want):
            continue
        others = used - bounds.replica(old) * old.replicas
        count = _most_that_may_change(old, want, rolling, bounds, others)
        if count / old.replicas > kept_ratio:
            kept_ratio = count / old.replicas
            new = replace(want if count == old.replicas else old, replicas=count)
            new = replace(new, share_percent=old.share_percent)
            best = tuple(new if it is old else it for it in running)
    return best


def _most_that_may_change(
    old: StageConfig, want: StageConfig, rolling: Rolling, bounds: Bounds, others: Resources
) -> int:
    """The most of the present replicas that there is room, beside `others`, to replace.

    By as many, or by the wanted number if that is smaller and old replicas stay until new ones serve.
    """
    for replicas in range(old.replicas, 0, -1):
        new = replicas if rolling.shrinks_first else min(replicas, want.replicas)
        peak = stage_peak(replace(old, replicas=replicas), replace(want, replicas=new), rolling, bounds)
        if not (others + peak).exceeded(bounds.change_limits):
            return replicas
    return 0


def _hops(
    running: Sequence[StageConfig],
    wanted: Sequence[StageConfig],
    rolling: Rolling,
    suffices: Suffices,
    carries_as_much: Suffices,
) -> list[StageConfig]:
    """First steps: fewer replicas if they suffice, else `first_hop`; `quick_hop` if as much is carried."""
    now = {config.stage: config for config in running}
    # The old configurations with the wanted replicas, where a direct replacement would drop capacity.
    less = [
        replace(old, replicas=want.replicas) if old and first_hop(old, want, rolling) != want else None
        for old, want in ((now.get(want.stage), want) for want in wanted)
    ]
    if any(less) and suffices(
        tuple(few or now.get(want.stage, want) for few, want in zip(less, wanted, strict=True))
    ):
        hops = [few or want for few, want in zip(less, wanted, strict=True)]
    else:
        hops = [first_hop(now[want.stage], want, rolling) if want.stage in now else want for want in wanted]
    quick = [quick_hop(now[hop.stage], hop, rolling) if hop.stage in now else None for hop in hops]
    quicker = [one or hop for one, hop in zip(quick, hops, strict=True)]
    return quicker if any(quick) and carries_as_much(tuple(quicker)) else hops


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
    """The detail of a hold: not even the first stage of the change has room."""
    return f"{step.lacking.words(before='more')} are needed during the change: {changes(running, aim)}"


def keeps_all(rolling: Rolling, running: Configs, wanted: Configs, *, is_in_place: bool = False) -> bool:
    """True if no stage's replicas are replaced, and, in place, none are started."""
    return all(
        old is not None
        and rolling.keeps_replicas(old, new)
        and not (is_in_place and new.replicas > old.replicas)
        for old, new in stage_pairs(running, wanted)
    )


def with_pins(
    request: TickRequest,
    pairs: Iterable[tuple[StageConfig | None, StageConfig]],
    *,
    is_in_place: bool = False,
) -> TickRequest:
    """The request with pins that keep what stages get as they change from old to new.

    In place, their number of replicas too.
    """
    theirs, pins = dict(pins_of(request.control)), []
    for old, new in pairs:
        pin = _pin_of(request.rolling, old, new)
        if is_in_place:
            pin = replace(pin, replicas=new.replicas)
        pins.append(StagePin(new.stage, merged_pin(theirs.get(new.stage, Pin()), pin)))
    return replace(request, control=replace(request.control, pins=tuple(pins)))


def _pin_of(rolling: Rolling, old: StageConfig | None, new: StageConfig) -> Pin:
    """The pin of a stage that changes from `old` to `new`: all but replicas while those are replaced."""
    if old is None or not rolling.keeps_replicas(old, new):
        return Pin(new.variant, new.batch_size, new.cores)
    is_switched = new.stage in rolling.switches
    is_rebatched = is_switched or rolling.rebatches
    cores = None if is_switched and rolling.resizes else new.cores
    return Pin(None if is_switched else new.variant, None if is_rebatched else new.batch_size, cores)


def lost_words(observation: Observation) -> str:
    """The lost replicas of each stage and why they are not ready; empty if there are none."""
    return "; ".join(
        f"{stage.lost_replicas} of {stage.running.value.replicas} replicas of {stage.stage} are lost: "
        f"{stage.lost}"
        for stage in observation.stages
        if stage.lost_replicas and isinstance(stage.running, Measured)
    )


def serving_replicas(observation: Observation, running: Configs) -> Configs:
    """The running configuration with the replicas that serve, at least one of each stage.

    As it is if it is not the observed one, or if several parts share the load.
    """
    if running != observation.running() or is_shared(running):
        return running
    return tuple(
        replace(config, replicas=max(1, config.replicas - stage.lost_replicas))
        for config, stage in zip(running, observation.stages, strict=True)
    )


def beside_lost(observation: Observation, pipeline: Pipeline, rolling: Rolling, wanted: Configs) -> Configs:
    """The wanted configurations with the lost replicas of stages that keep theirs on top.

    At most as many as serve, but at least one: so losing all new ones too does not add replicas for ever. If
    the bounds do not allow that, no lost replica is removed at least: it may come back. Without them if the
    bounds do not allow that either.
    """
    running = observation.running()
    if running is None or is_shared(running) or is_shared(wanted):
        return wanted
    raised = tuple(
        replace(
            new, replicas=new.replicas + min(stage.lost_replicas, max(1, old.replicas - stage.lost_replicas))
        )
        if stage.lost_replicas and rolling.keeps_replicas(old, new)
        else new
        for old, new, stage in zip(running, wanted, observation.stages, strict=True)
    )
    kept = tuple(
        replace(new, replicas=min(most.replicas, max(old.replicas, new.replicas)))
        for old, new, most in zip(running, wanted, raised, strict=True)
    )
    return next((each for each in (raised, kept) if not bound_faults(pipeline, each)), wanted)


def as_served(observation: Observation, rolling: Rolling, configs: Configs) -> Configs:
    """The configuration with the replicas that would serve right after a change to it, at least one of each.

    Lost replicas of a stage that keeps its own stay lost; of fewer replicas they are the first to go.
    """
    counts = lost_counts(observation, configs, rolling)
    if not counts:
        return configs
    running = observation.running()
    assert running is not None
    return tuple(
        replace(new, replicas=max(1, new.replicas - max(0, lost - max(0, old.replicas - new.replicas))))
        for old, new, lost in zip(running, configs, counts, strict=True)
    )


def lost_counts(observation: Observation, wanted: Configs, rolling: Rolling) -> tuple[int, ...]:
    """The lost replicas of each stage that stay lost in a change to `wanted`; empty if there are none."""
    running = observation.running()
    if running is None or is_shared(running) or is_shared(wanted):
        return ()
    counts = tuple(
        stage.lost_replicas if rolling.keeps_replicas(old, new) else 0
        for old, new, stage in zip(running, wanted, observation.stages, strict=True)
    )
    return counts if any(counts) else ()
