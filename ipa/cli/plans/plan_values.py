"""Configurations read from the JSON of a plan; InputError lists its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipa.model.errors import InputError, Problem
from ipa.model.parts import with_share
from ipa.model.plan import WHOLE_PERCENT, StageConfig


def read_plan(path: Path) -> tuple[StageConfig, ...]:
    """The configurations in a plan's JSON; InputError lists its faults."""
    return configs_in(_json(path), path)


def read_shares(path: Path) -> tuple[StageConfig, ...]:
    """The parts of the mixture in a plan's JSON, none without a mixture; InputError as for `read_plan`."""
    return shares_in(_json(path), path)


def shares_in(data: Any, path: Path | str) -> tuple[StageConfig, ...]:
    """As `read_shares`, of values; errors name them `path`."""
    mixture = data.get("mixture") if isinstance(data, dict) else None
    parts = mixture.get("parts") if isinstance(mixture, dict) else None
    if not isinstance(parts, list):
        return ()
    found: list[StageConfig] = []
    for index, part in enumerate(parts):
        percent = part.get("share_percent") if isinstance(part, dict) else None
        if not isinstance(percent, int) or isinstance(percent, bool):
            where = f"{path}: mixture.parts[{index}].share_percent"
            raise InputError(f"{where} is {percent!r}, not a whole number")
        found += with_share(configs_in(part.get("plan"), path, f"mixture.parts[{index}].plan."), percent)
    return tuple(found)


def _json(path: Path) -> Any:
    from ipa.files.reading import read_json

    return read_json(path)


def configs_in(data: Any, path: Path | str, where: str = "") -> tuple[StageConfig, ...]:
    """As `read_plan`, of values; errors name them `path`, and the place `where` in it."""
    stages = data.get("stages") if isinstance(data, dict) else None
    if not isinstance(stages, list | tuple) or not stages:
        raise InputError(f"{path} has no stages", hint="Write it with `ipa plan PIPELINE --rate R -o json`.")
    problems = [
        Problem(f"{where}stages[{index}]: {fault}", str(path))
        for index, stage in enumerate(stages)
        for fault in _faults(stage)
    ]
    if problems:
        raise InputError(f"{path} is not a plan", problems=problems)
    return tuple(
        StageConfig(
            stage["stage"],
            stage["variant"],
            stage["batch_size"],
            float(stage["cores"]),
            stage["replicas"],
            stage.get("share_percent", WHOLE_PERCENT),
        )
        for stage in stages
    )


_KINDS: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "variant": str,
    "batch_size": int,
    "cores": (int, float),
    "replicas": int,
}


def _faults(stage: Any) -> list[str]:
    if not isinstance(stage, dict):
        return ["is not an object"]
    kinds = _KINDS if "share_percent" not in stage else {**_KINDS, "share_percent": int}
    return [
        f"{key} is {stage.get(key)!r}, not {'a text' if kind is str else 'a number'}"
        for key, kind in kinds.items()
        if not isinstance(stage.get(key), kind) or isinstance(stage.get(key), bool)
    ]
