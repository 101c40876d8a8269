"""The quarantine: a variant whose rollout failed is not planned for a while, longer each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ipa.control.engine.canary import variants_of
from ipa.control.engine.guards import total_cores
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig, cores_of
from ipa.model.recording import UNLESS_DEFAULT

# 300 s doubled five times is 2.7 h: a broken variant is tried a few times a day.
MAX_DOUBLINGS = 5
# Kubernetes counts cores in thousandths.
LESS_CORES = 0.001


@dataclass(frozen=True, slots=True)
class FailedRollout:
    """A failed rollout: its new variants as (stage, variant); none if it only added replicas.

    Added replicas that do not start lack room: nothing as large as `cores` is tried before `until_s`. `why`
    is the measurement by which a canary failed, in words.
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
    room_cores: float | None = None,
) -> tuple[FailedRollout, ...]:
    """The failures with the change from `previous` to `configs`; a repeated one waits twice as long.

    A failure of a smaller change counts as new. `room_cores` are the cores of its replicas that found room.
    `why` is the measurement by which a canary failed.
    """
    variants, cores = variants_of(configs) - variants_of(previous), total_cores(configs)
    if room_cores is not None:
        cores = min(cores, room_cores + LESS_CORES)
    before = next((failure for failure in failures if failure.variants == variants), None)
    is_active = before is not None and now_s < before.until_s
    if before and is_active and (variants or cores >= before.cores):
        return tuple(failures)
    times = before.times + (not is_active) if before else 1
    until_s = now_s + base_s * 2 ** min(times - 1, MAX_DOUBLINGS)
    others = tuple(failure for failure in failures if failure.variants != variants)
    return (*others, FailedRollout(variants, cores, until_s, times, why))


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


def failed_canary(failures: Sequence[FailedRollout], running: Sequence[StageConfig], now_s: float) -> str:
    """The canaries that failed lately, with their figures and the time left, in words; empty if none did."""
    return "; ".join(
        f"{', '.join(f'{stage}={name}' for stage, name in sorted(each.variants))} is not planned for "
        f"{each.until_s - now_s:.0f} s: {each.why}"
        for each in failures
        if each.why and now_s < each.until_s and not each.variants <= variants_of(running)
    )


def room_cores(
    failures: Sequence[FailedRollout], running: Sequence[StageConfig], bounds: Bounds, now_s: float
) -> float | None:
    """The most cores, overhead included, that the cluster had room for lately; None without a limit."""
    sizes = [failure.cores for failure in failures if not failure.variants and now_s < failure.until_s]
    if not sizes:
        return None
    overhead_cores = bounds.overhead.cores(running) - total_cores(running)
    return max(min(sizes) - LESS_CORES, total_cores(running)) + overhead_cores


def objection(
    failures: Sequence[FailedRollout],
    running: Sequence[StageConfig],
    configs: Sequence[StageConfig],
    now_s: float,
) -> str:
    """The reasons why these configurations are in quarantine, in words; empty if they are not."""
    banned = sorted(excluded(failures, running, now_s) & variants_of(configs))
    if banned:
        return "quarantined since its last rollout failed: " + ", ".join(
            f"{stage}={name}" for stage, name in banned
        )
    cores = total_cores(configs)
    for failure in failures:
        crowded = not failure.variants and now_s < failure.until_s and cores > total_cores(running)
        if crowded and cores >= failure.cores:
            left_s = failure.until_s - now_s
            return f"a change to {cores_of(failure.cores)} did not become ready; retry in {left_s:.0f} s"
    return ""
