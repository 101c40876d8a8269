"""The difference between the running configuration and a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.model.errors import InputError
from ipa.model.parts import gone_parts, stage_pairs
from ipa.model.plan import StageConfig, in_millicores

FIELDS = ("variant", "batch_size", "replicas", "cores", "share_percent")


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """The configurations to run. `pas` and `rate_rps` are None if the plan does not have them."""

    configs: tuple[StageConfig, ...]
    pas: float | None
    rate_rps: float | None


@dataclass(frozen=True, slots=True)
class StageDifference:
    """The difference of one stage: running (None: unknown), wanted, and the fields that differ.

    `wanted` is None for a configuration that runs beside others and is to be removed.
    """

    stage: str
    running: dict[str, Any] | None
    wanted: dict[str, Any] | None
    changed: tuple[str, ...]


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


def target_of(plan: dict[str, Any]) -> WantedPlan:
    """The target of a plan's JSON values; without configurations if it is infeasible."""
    configs = tuple(StageConfig(stage["stage"], **_fields(stage)) for stage in plan["stages"])
    return WantedPlan(configs, plan["pas"], plan["rate_rps"])


def target_in(path: Path, pipeline: str) -> WantedPlan:
    """The target of the plan in a file; InputError if it is no plan, or one of another pipeline."""
    from ipa.files.plans import read_plan

    plan = read_plan(path)
    if plan.pipeline not in (None, pipeline):
        raise InputError(f"{path} is a plan of pipeline {plan.pipeline!r}, not of {pipeline!r}")
    return WantedPlan(plan.single, plan.pas, plan.rate_rps)


def difference(status: dict[str, Any], target: WantedPlan) -> Difference:
    """The difference between the status of a pipeline and the target."""
    live = status["live"]
    seen = [stage["config"] for stage in live["stages"] if stage["config"]]
    running = in_millicores([StageConfig(config["stage"], **_fields(config)) for config in seen])
    # As it reads back: written cores are whole millicores.
    wanted = in_millicores(target.configs)
    stages = tuple(_stage(before, config) for before, config in stage_pairs(running, wanted))
    gone = [config for part in gone_parts(running, wanted) for config in part]
    stages += tuple(StageDifference(it.stage, _values(it), None, FIELDS) for it in gone)
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
    )


def pas_of(plan: Mapping[str, Any]) -> float | None:
    """The accuracy of a plan's JSON values, of a mixture the mean; None if it has none."""
    mixture = plan.get("mixture")
    return _number(mixture["mean_pas"] if mixture else plan.get("pas"))


def _stage(running: StageConfig | None, config: StageConfig) -> StageDifference:
    wanted = _values(config)
    before = _values(running) if running else None
    changed = tuple(name for name in FIELDS if before is None or before[name] != wanted[name])
    return StageDifference(config.stage, before, wanted, changed)


def _values(config: StageConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FIELDS}


def _fields(stage: dict[str, Any]) -> dict[str, Any]:
    return {name: stage[name] for name in FIELDS}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
