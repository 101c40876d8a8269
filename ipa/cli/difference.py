"""The difference between the running configuration and a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa.model.parts import gone_parts, stage_pairs
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.resources import NO_RESOURCES, Resources, total

if TYPE_CHECKING:
    from ipa.files.plans import PlanFile

FIELDS = ("variant", "batch_size", "replicas", "cores", "share_percent")


@dataclass(frozen=True, slots=True)
class StageDifference:
    """The difference of one stage: running (None: unknown), wanted, and the fields that differ.

    `wanted` is None for a configuration that runs beside others and is to be removed. `beside` and
    `wanted_beside` are the resources other than cores of all replicas, None if they are not known.
    """

    stage: str
    running: dict[str, Any] | None
    wanted: dict[str, Any] | None
    changed: tuple[str, ...]
    beside: Resources | None = None
    wanted_beside: Resources | None = NO_RESOURCES


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences of all stages, with cost and accuracy of both sides; None if a side is unknown."""

    pipeline: str
    revision: str
    rate_rps: float | None
    changed: bool
    stages: tuple[StageDifference, ...]
    cost_cores: float | None
    wanted_cost_cores: float
    pas: float | None
    wanted_pas: float | None
    beside: Resources | None
    wanted_beside: Resources | None
    cost_usd_per_hour: float | None
    wanted_cost_usd_per_hour: float | None


def difference(status: dict[str, Any], target: PlanFile) -> Difference:
    """The difference between the status of a pipeline and the target."""
    live = status["live"]
    observed = [stage["config"] for stage in live["stages"] if stage["config"]]
    running = in_millicores([StageConfig(**config) for config in observed])
    # As read back after a write: cores are whole millicores.
    wanted = in_millicores(target.configs)
    known = {
        **target.beside,
        **{
            (it["config"]["stage"], it["config"]["variant"]): Resources(**it["beside"])
            for it in live["stages"]
            if it["config"] and it.get("beside")
        },
    }

    def held(config: StageConfig | None) -> Resources | None:
        each = known.get((config.stage, config.variant)) if config else None
        return each * config.replicas if config and each else None

    def compared(before: StageConfig | None, config: StageConfig) -> StageDifference:
        was, to_be = _values(before) if before else None, _values(config)
        changed = tuple(name for name in FIELDS if was is None or was[name] != to_be[name])
        return StageDifference(config.stage, was, to_be, changed, held(before), held(config))

    stages = tuple(compared(*pair) for pair in stage_pairs(running, wanted))
    gone = [config for part in gone_parts(running, wanted) for config in part]
    stages += tuple(StageDifference(it.stage, _values(it), None, FIELDS, held(it)) for it in gone)
    return Difference(
        pipeline=status["pipeline"],
        revision=live["revision"],
        rate_rps=target.rate_rps,
        changed=any(stage.changed for stage in stages),
        stages=stages,
        cost_cores=live["cost_cores"],
        wanted_cost_cores=sum(config.total_cores for config in wanted),
        pas=live["pas"],
        wanted_pas=target.pas,
        beside=_total(stage.beside for stage in stages),
        wanted_beside=_total(stage.wanted_beside for stage in stages),
        cost_usd_per_hour=live.get("cost_usd_per_hour"),
        wanted_cost_usd_per_hour=target.cost_usd_per_hour,
    )


def _total(amounts: Iterable[Resources | None]) -> Resources | None:
    """The sum; None if one of the amounts is not known."""
    each = list(amounts)
    known = [amount for amount in each if amount is not None]
    return total(known) if len(known) == len(each) else None


def _values(config: StageConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FIELDS}
