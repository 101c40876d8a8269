"""The quarantine: a variant whose rollout failed is not planned for a while, longer each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ipa.control.engine.actuation import Actuation
from ipa.control.engine.guards import total_cores
from ipa.control.ports import Rollout
from ipa.model.parts import variants_of
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig, cores_of
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.rolling import Rolling, change_peak

# 300 s doubled five times is 2.7 h: a broken variant is tried a few times a day.
MAX_DOUBLINGS = 5
# Kubernetes counts cores in thousandths.
LESS_CORES = 0.001


@dataclass(frozen=True, slots=True)
class FailedRollout:
    """A failed rollout: its new variants as (stage, variant); none if it only added replicas.

    Replicas that do not start lack room: no change that takes as many `cores` at once is tried before
    `until_s`. `why` is the measurement by which a canary failed, in words.
    """

    variants: frozenset[tuple[str, str]]
    cores: float
    until_s: float
    times: int = 1
    why: str = field(default="", metadata=UNLESS_DEFAULT)


def add(
    failures: Sequence[FailedRollout],
    previous: Sequence[StageConfig],
    configs: Sequence[StageConfig],
    base_s: float,
    now_s: float,
    why: str = "",
    crowded_cores: float | None = None,
) -> tuple[FailedRollout, ...]:
    """The failures with the change from `previous` to `configs`; a repeated one waits twice as long.

    A failure of a smaller change counts as new. `crowded_cores` are those of a change that only lacked room,
    whose variants are not the cause. `why` is the measurement by which a canary failed.
    """
    variants, cores = variants_of(configs) - variants_of(previous), total_cores(configs)
    if crowded_cores is not None:
        variants, cores = frozenset(), crowded_cores
    before = next((failure for failure in failures if failure.variants == variants), None)
    is_active = before is not None and now_s < before.until_s
    if before and is_active and (variants or cores >= before.cores):
        return tuple(failures)
    times = before.times + (not is_active) if before else 1
    until_s = now_s + base_s * 2 ** min(times - 1, MAX_DOUBLINGS)
    others = tuple(failure for failure in failures if failure.variants != variants)
    return (*others, FailedRollout(variants, cores, until_s, times, why))


def crowded_cores(
    previous: Sequence[StageConfig],
    configs: Sequence[StageConfig],
    rolling: Rolling,
    rollout: Rollout | Actuation,
) -> float | None:
    """The least cores that a change asked for and that had no room; None if it did not lack room.

    Those of its peak, or more than were placed.
    """
    if not rollout.lacks_room:
        return None
    peak_cores = change_peak(previous, configs, rolling, Bounds()).cpu_cores
    return peak_cores if rollout.room_cores is None else min(peak_cores, rollout.room_cores + LESS_CORES)


def forgive(failures: Sequence[FailedRollout], settled: Sequence[StageConfig]) -> tuple[FailedRollout, ...]:
    """The failures without those that the settled configuration disproves."""
    variants, cores = variants_of(settled), total_cores(settled)
    return tuple(
        failure
        for failure in failures
        if not (failure.variants <= variants if failure.variants else cores >= failure.cores)
    )


def excluded(
    failures: Sequence[FailedRollout], running: Sequence[StageConfig], now_s: float
) -> frozenset[tuple[str, str]]:
    """The (stage, variant) pairs that no plan may use now, never those of the running configuration."""
    active = (failure.variants for failure in failures if now_s < failure.until_s)
    return frozenset().union(*active) - variants_of(running)


def barred(
    failures: Sequence[FailedRollout],
    running: Sequence[StageConfig],
    now_s: float,
    configs: Sequence[StageConfig] | None = None,
) -> str:
    """The variants of `configs` that are not planned for now, or those of canaries that failed, in words."""
    wanted, mine = variants_of(configs or ()), variants_of(running)
    return "; ".join(
        f"{', '.join(f'{stage}={name}' for stage, name in sorted(each.variants))} is not planned for "
        f"{each.until_s - now_s:.0f} s: {each.why or 'its last rollout failed'}"
        for each in failures
        if now_s < each.until_s and (each.variants - mine) & (each.variants if configs is None else wanted)
        if each.why or configs is not None
    )


def room_cores(
    failures: Sequence[FailedRollout], running: Sequence[StageConfig], bounds: Bounds, now_s: float
) -> float | None:
    """The most cores, overhead included, that the cluster had room for lately; None without a limit."""
    crowd = _crowd(failures, now_s)
    if crowd is None:
        return None
    overhead_cores = bounds.overhead.cores(running) - total_cores(running)
    return max(crowd.cores - LESS_CORES, total_cores(running)) + overhead_cores


def crowded_words(failures: Sequence[FailedRollout], now_s: float) -> str:
    """The least change that had no room lately, in words; empty without one."""
    crowd = _crowd(failures, now_s)
    left_s = crowd.until_s - now_s if crowd else 0.0
    return f"{cores_of(crowd.cores)} at once had no room; retry in {left_s:.0f} s" if crowd else ""


def _crowd(failures: Sequence[FailedRollout], now_s: float) -> FailedRollout | None:
    crowd = (failure for failure in failures if not failure.variants and now_s < failure.until_s)
    return min(crowd, key=lambda failure: failure.cores, default=None)
