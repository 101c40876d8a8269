"""The way from what runs to what is wanted, in steps after each of which one may stop.

No step takes capacity away before its successor is ready, and none has more cores, old and new replicas
together, than a change may have. The steps are not kept: each tick decides afresh, and the next step follows
from what then runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.control.guards import ROUNDING_CORES, total_cores
from ipa.model.plan import StageConfig
from ipa.model.rolling import Rolling, first_hop, peak_cores

Configs = tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What to write now, and in words what is left for later; `configs` is what runs where there is no room.

    `lacking_cores` is what the cheapest stage to change would need beyond what a change may have.
    """

    configs: Configs
    later: str = ""
    lacking_cores: float = 0.0


def safe_step(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, most_cores: float | None
) -> Step:
    """The first step towards the wanted configurations: all stages at once where there is room for that.

    Else the stages that need least beyond what they have go first. What runs already may go on even where it
    has more than `most_cores` (None: no limit).
    """
    now = {config.stage: config for config in running}
    hops = [_hop(now.get(config.stage), config, rolling) for config in wanted]
    used_cores = total_cores(running)
    limit = None if most_cores is None else max(most_cores, used_cores) + ROUNDING_CORES
    moving = [at for at, hop in enumerate(hops) if hop != now.get(hop.stage)]
    extra_cores = [_extra_cores(now.get(hop.stage), hop, rolling) for hop in hops]
    chosen = _chosen(moving, extra_cores, used_cores, limit)
    configs = tuple(hop if at in chosen else now.get(hop.stage, hop) for at, hop in enumerate(hops))
    waiting = [str(want) for want, config in zip(wanted, configs, strict=True) if want != config]
    later = f"then {', '.join(waiting)}" if waiting else ""
    lacking = 0.0
    if moving and not chosen and limit is not None:
        lacking = used_cores + min(extra_cores[at] for at in moving) - limit
    return Step(configs, later, lacking)


def _hop(old: StageConfig | None, new: StageConfig, rolling: Rolling) -> StageConfig:
    return new if old is None else first_hop(old, new, rolling)


def _extra_cores(old: StageConfig | None, new: StageConfig, rolling: Rolling) -> float:
    """Cores beyond those that the stage has now, at the peak of its step."""
    return new.total_cores if old is None else peak_cores(old, new, rolling) - old.total_cores


def _chosen(
    moving: Sequence[int], extra_cores: Sequence[float], used_cores: float, limit: float | None
) -> frozenset[int]:
    """The stages that fit into the limit together, those that need least first."""
    if limit is None:
        return frozenset(moving)
    chosen: set[int] = set()
    for at in sorted(moving, key=lambda stage: (extra_cores[stage], stage)):
        if used_cores + extra_cores[at] <= limit:
            chosen.add(at)
            used_cores += extra_cores[at]
    return frozenset(chosen)
