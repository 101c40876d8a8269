"""Plans in JSON files, as verbs print and save them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ipa.files.document import Document
from ipa.files.forms import read, section
from ipa.files.reading import read_json
from ipa.model.errors import InputError
from ipa.model.forms import NUMBER, WHOLE, Key, ValueForm, entries, mapping
from ipa.model.plan import StageConfig
from ipa.model.resources import BESIDE_CORES, Resources

_TEXT = ValueForm({"type": "string"})
_NUMBER = NUMBER.but(nullable=True)
_AMOUNTS = replace(mapping(_TEXT, NUMBER, 10_000, 0), make=dict)
_NAMES: dict[str, ValueForm] = dict.fromkeys(("stage", "variant"), _TEXT.but(title="a name"))
_CONFIG = section(
    "config",
    StageConfig,
    "stage variant batch_size cores replicas share_percent ...",
    **_NAMES,
    share_percent=WHOLE.but(minimum=0, maximum=100),
).but(title="a mapping with stage, variant, batch_size, cores, replicas")
_SCALARS = [each.attribute for each in BESIDE_CORES]
_BESIDE = section(
    "beside",
    Resources,
    " ".join([*(f"{name}={name}" for name in _SCALARS), "accelerators ..."]),
    **dict.fromkeys(_SCALARS, NUMBER.but(minimum=0)),
    accelerators=_AMOUNTS,
).but(nullable=True, title=f"a mapping with {', '.join([*_SCALARS, 'accelerators'])}")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan as `ipa plan -o json` prints it; `beside` has its resources by stage and variant, if known."""

    pipeline: str | None = None
    pas: float | None = None
    rate_rps: float | None = None
    cost_usd_per_hour: float | None = None
    configs: tuple[StageConfig, ...] = ()
    beside: Mapping[tuple[str, str], Resources] = field(default_factory=dict)


def _stage(given: dict[str, Any]) -> tuple[StageConfig, Resources | None]:
    """The configuration of a stage, and a replica's resources other than cores if the plan has them."""
    beside = given.pop("beside", None)
    return StageConfig(**given), beside


_STAGE = replace(_CONFIG, make=_stage, keys={**(_CONFIG.keys or {}), "beside": Key("beside", _BESIDE)})


def _plan(given: dict[str, Any]) -> PlanFile:
    stages = given.pop("stages", ())
    configs = tuple(config for config, _ in stages)
    beside = {(config.stage, config.variant): each for config, each in stages if each is not None}
    return PlanFile(**given, configs=configs, beside=beside)


_PLAN = section(
    "plan",
    PlanFile,
    "pipeline pas rate_rps=rate_rps cost_usd_per_hour stages ...",
    _plan,
    pipeline=_TEXT.but(nullable=True),
    **dict.fromkeys(("pas", "rate_rps", "cost_usd_per_hour"), _NUMBER),
    stages=entries(_STAGE, 10_000, 0),
)


def read_plan(path: Path) -> PlanFile:
    """The plan in the file; InputError lists what is wrong with it."""
    return plan_in(read_json(path), path)


def plan_in(data: Any, path: Path | str) -> PlanFile:
    """The plan in the values, as `read_plan` returns it; errors name them `path`."""
    plan: PlanFile = read(Document(str(path), data, shows_pointers=True), _PLAN)
    if not plan.configs:
        raise InputError(f"{path} has no stages", hint="Write it with `ipa plan PIPELINE --rate R -o json`.")
    return plan
