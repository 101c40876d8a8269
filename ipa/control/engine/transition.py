"""The steps from the running configuration to the wanted one; the state after each step is safe.

No step removes capacity before its successor is ready, and in none do old and new replicas together exceed
the cores of a change. The steps are not stored: each tick decides afresh from the running configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from ipa.control.engine.guards import ROUNDING_CORES
from ipa.model.overhead import Overhead
from ipa.model.parts import in_order, is_shared, paired, share_of, stage_pairs, with_share
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.rolling import Rolling, change_peak_cores, first_hop, only_replicas, peak_cores

Configs = tuple[StageConfig, ...]
# True if a configuration carries the load within the SLA.
Suffices = Callable[[Configs], bool]


def never(configs: Configs) -> bool:
    """The answer if it is unknown: False."""
    return False


@dataclass(frozen=True, slots=True)
class TransitionStep:
    """The configuration to write now (the running one if there is no room), and the later steps in words.

    `lacking_cores`: the cores that the cheapest stage needs beyond the limit of a change. `follow_up`: the
    configuration to write next whatever the load is, which sends requests to the new replicas.
    """

    configs: Configs
    later: str = ""
    lacking_cores: float = 0.0
    follow_up: Configs = ()


def safe_step(
    running: Sequence[StageConfig],
    wanted: Sequence[StageConfig],
    rolling: Rolling,
    bounds: Bounds,
    suffices: Suffices = never,
) -> TransitionStep:
    """The first step towards the wanted configurations: all stages at once if there is room.

    Else the stages with the least extra need go first. The running configuration may exceed the bounds'
    cores. A stage that changes and gets fewer replicas first loses them if the rest still `suffices`; else as
    many replicas replace it. Parts that share the load change together (`_shared_step`).
    """
    if is_shared(running) or is_shared(wanted):
        return _shared_step(tuple(running), tuple(wanted), rolling, bounds)
    now = {config.stage: config for config in running}
    hops = _hops(running, wanted, rolling, suffices)
    used_cores = bounds.overhead.cores(running)
    limit = None if bounds.most_cores is None else max(bounds.most_cores, used_cores) + ROUNDING_CORES
    moving = [at for at, hop in enumerate(hops) if hop != now.get(hop.stage)]
    extra_cores = [_extra_cores(now.get(hop.stage), hop, rolling, bounds.overhead) for hop in hops]
    chosen = _chosen(moving, extra_cores, used_cores, limit)
    configs = tuple(hop if at in chosen else now.get(hop.stage, hop) for at, hop in enumerate(hops))
    waiting = [str(want) for want, config in zip(wanted, configs, strict=True) if want != config]
    later = f"then {', '.join(waiting)}" if waiting else ""
    lacking = 0.0
    if moving and not chosen and limit is not None:
        lacking = used_cores + min(extra_cores[at] for at in moving) - limit
    return TransitionStep(configs, later, lacking)


def _shared_step(running: Configs, wanted: Configs, rolling: Rolling, bounds: Bounds) -> TransitionStep:
    """The first step between sets: the wanted set, if the target keeps old parts until new ones serve.

    A target that sends requests to parts that do not serve yet, as predictors do, first starts them with a
    share of 0; growing parts keep their share.
    """
    started = _started(running, wanted, rolling) if rolling.shrinks_first else wanted
    configs = _no_fewer(running, wanted, rolling) if started == running else started
    used_cores = bounds.overhead.cores(running)
    limit = inf if bounds.most_cores is None else max(bounds.most_cores, used_cores) + ROUNDING_CORES
    lacking_cores = change_peak_cores(running, configs, rolling, bounds.overhead) - limit
    if lacking_cores > 0:
        return TransitionStep(running, lacking_cores=lacking_cores)
    if configs == wanted:
        return TransitionStep(configs)
    return TransitionStep(configs, f"then {', '.join(map(str, wanted))}", follow_up=wanted)


def _started(running: Configs, wanted: Configs, rolling: Rolling) -> Configs:
    """The running configuration with its growing parts grown and the new parts started at a share of 0."""
    parts = []
    for before, after in paired(running, wanted):
        if before is None:
            parts.append(with_share(after or (), 0))
        elif after is None:
            parts.append(before)
        else:
            grown = [
                first_hop(old, new, rolling) if new.total_cores > old.total_cores else old
                for old, new in zip(before, after, strict=True)
            ]
            parts.append(with_share(grown, share_of(before)))
    return in_order(parts)


def _no_fewer(running: Configs, wanted: Configs, rolling: Rolling) -> Configs:
    """The wanted configuration, with as many replicas as now where they would end before others serve."""
    return tuple(
        new if old is None else first_hop(old, new, rolling) for old, new in stage_pairs(running, wanted)
    )


def make_room(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, bounds: Bounds
) -> Configs:
    """The configuration to write if no stage has room to change and the running one fails its load anyway.

    One stage is replaced with as many replicas as it has, and grows later. If not even that fits, replicas
    are removed until it does. The stage that keeps the largest part of its replicas is chosen; the running
    configuration is returned if there is none.
    """
    held = bounds.overhead.held
    spare_cores = (bounds.most_cores or inf) + ROUNDING_CORES - bounds.overhead.cores(running)
    best, kept_ratio = tuple(running), 0.0
    for old, want in stage_pairs(running, wanted):
        if old is None or only_replicas(old, want):
            continue
        room_cores = spare_cores + held(old).total_cores
        kept = _most_that_may_change(held(old), held(want), rolling, room_cores)
        if kept / old.replicas > kept_ratio:
            kept_ratio = kept / old.replicas
            new = replace(want if kept == old.replicas else old, replicas=kept)
            new = replace(new, share_percent=old.share_percent)
            best = tuple(new if it is old else it for it in running)
    return best


def _most_that_may_change(old: StageConfig, new: StageConfig, rolling: Rolling, cores: float) -> int:
    """The most of the present replicas that there is room to replace by as many."""
    for replicas in range(old.replicas, 0, -1):
        if peak_cores(replace(old, replicas=replicas), replace(new, replicas=replicas), rolling) <= cores:
            return replicas
    return 0


def _hops(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, suffices: Suffices
) -> list[StageConfig]:
    """The first step of each stage."""
    now = {config.stage: config for config in running}
    less = [_fewer(now.get(want.stage), want, rolling) for want in wanted]
    if any(less) and suffices(
        tuple(few or now.get(want.stage, want) for few, want in zip(less, wanted, strict=True))
    ):
        return [few or want for few, want in zip(less, wanted, strict=True)]
    return [first_hop(now[want.stage], want, rolling) if want.stage in now else want for want in wanted]


def _fewer(old: StageConfig | None, new: StageConfig, rolling: Rolling) -> StageConfig | None:
    """The old configuration with the wanted replicas, if replacing it directly would drop capacity."""
    if old is None or first_hop(old, new, rolling) == new:
        return None
    return replace(old, replicas=new.replicas)


def _extra_cores(old: StageConfig | None, new: StageConfig, rolling: Rolling, overhead: Overhead) -> float:
    """The cores beyond the stage's present ones at the peak of its step."""
    new = overhead.held(new)
    if old is None:
        return new.total_cores
    old = overhead.held(old)
    return peak_cores(old, new, rolling) - old.total_cores


def _chosen(
    moving: Sequence[int], extra_cores: Sequence[float], used_cores: float, limit: float | None
) -> frozenset[int]:
    """The stages that fit into the limit together, those with the least need first."""
    if limit is None:
        return frozenset(moving)
    chosen: set[int] = set()
    for at in sorted(moving, key=lambda stage: (extra_cores[stage], stage)):
        if used_cores + extra_cores[at] <= limit:
            chosen.add(at)
            used_cores += extra_cores[at]
    return frozenset(chosen)
