"""Plans from JSON files: those that verbs print and save, and what runs now."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, create_model

from ipa.files.document import Document, Pointer, parse, read_text
from ipa.files.faults import check
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import Count, Maybe, PositiveNumber
from ipa.files.reading import not_json, read_json
from ipa.model.errors import InputError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig, StagePlan
from ipa.model.resources import Resources

_Percent = Annotated[int, Field(ge=0, le=100)]


class StageConfigSection(Section):
    """The configuration of one stage."""

    model_config = ConfigDict(
        extra="ignore", title="a mapping with stage, variant, batch_size, cores, replicas"
    )
    makes: ClassVar = StageConfig
    stage: Annotated[str, Field(title="a name")]
    variant: Annotated[str, Field(title="a name")]
    batch_size: Count
    cores: PositiveNumber
    replicas: Count
    share_percent: Maybe[_Percent] = None

    def given(self) -> dict[str, Any]:
        known = StageConfigSection.model_fields
        return {name: value for name, value in super().given().items() if name in known}


class _Running(StageConfigSection):
    # Typed by people: a key that nobody knows is a slip, but for what a plan says of a stage.
    model_config = ConfigDict(extra="forbid")


_Said: Any = {
    field.name: (Any, Field(None, alias=field.name))
    for field in fields(StagePlan)
    if field.name not in StageConfigSection.model_fields
}
RunningStage = create_model("RunningStage", __base__=_Running, **_Said)


class BesideSection(Section):
    """The resources of one replica beside its cores."""

    model_config = ConfigDict(extra="ignore", title="a mapping with memory_gib, accelerators")
    memory_gib: Annotated[float, Field(ge=0, alias="memory_gib")] = 0.0
    accelerators: Annotated[dict[str, float], Field(strict=False)] = Field(default_factory=dict)


class PlannedStageSection(StageConfigSection):
    """The configuration of one stage with what the plan says of its replicas."""

    beside: BesideSection | None = None


# A plan in memory has tuples.
_Stages = Annotated[list[PlannedStageSection], Field(strict=False)]


class PlanFile(Section):
    """A plan as `ipa plan -o json` prints it."""

    model_config = ConfigDict(extra="ignore")
    pipeline: str | None = None
    stages: Maybe[_Stages] = None
    pas: float | None = None
    rate_rps: float | None = Field(None, alias="rate_rps")
    cost_usd_per_hour: float | None = Field(None, alias="cost_usd_per_hour")

    @property
    def beside(self) -> dict[tuple[str, str], Resources]:
        """The resources of one replica beside its cores by stage and variant, as far as the plan has them."""
        return {
            (stage.stage, stage.variant): Resources(0.0, given.memory_gib, given.accelerators)
            for stage in self.stages or ()
            if (given := stage.beside) is not None
        }

    @property
    def configs(self) -> tuple[StageConfig, ...]:
        """The configuration of each stage, of each part."""
        return tuple(stage.build() for stage in self.stages or ())


class SavedPlanFile(DeclaredFile):
    """A plan with the digests of what it was made from."""

    kind: Literal["SavedPlan"]
    pipeline: str
    at: str
    revision: str
    rate_rps: float = Field(alias="rate_rps")
    solver: str
    version: str
    inputs: dict[str, str]
    plan: dict[str, Any]
    configs: Annotated[list[StageConfigSection], Field(min_length=1)]


_ONE_ONLY = "several configurations run; give the one that the change is from"


def read_plan(path: Path) -> PlanFile:
    """The plan in the file; InputError lists what is wrong with it."""
    return plan_in(read_json(path), path)


def plan_in(data: Any, path: Path | str) -> PlanFile:
    """As `read_plan`, of values that are named `path` where they are wrong."""
    document = Document(str(path), data, shows_pointers=True)
    plan = check(document, PlanFile)
    document.raise_problems()
    if plan is None or not plan.stages:
        raise InputError(f"{path} has no stages", hint="Write it with `ipa plan PIPELINE --rate R -o json`.")
    return plan


def load_running(path: Path, pipeline: Pipeline) -> tuple[StageConfig, ...]:
    """The running configuration of each stage, in the order of the pipeline, from a plan or a list of stages.

    Stages that the file leaves out are unknown. InputError lists every problem with its line and key;
    NotFoundError where there is no such file.
    """
    text = read_text(path)
    if path.suffix == ".json":
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise not_json(path, error) from error
    document = parse(text, str(path), shows_pointers=True)
    pointer, entries = _entries(document, pipeline)
    configs: dict[str, StageConfig] = {}
    for index, entry in enumerate(entries):
        place = (*pointer, index)
        found = check(document, RunningStage, entry, place)
        if found is None:
            continue
        config: StageConfig = found.build()
        _check_names(document, place, config, pipeline)
        if config.stage in configs:
            document.problem((*place, "stage"), f"stage {config.stage!r} appears twice")
        configs[config.stage] = config
    document.raise_problems()
    return tuple(configs[stage.name] for stage in pipeline.served if stage.name in configs)


def _entries(document: Document, pipeline: Pipeline) -> tuple[Pointer, list[Any]]:
    """The position of the stages in the document, and their entries."""
    pointer: Pointer = ()
    data = document.data
    if isinstance(data, dict):
        name = data.get("pipeline", pipeline.name)
        if name != pipeline.name:
            document.problem(("pipeline",), f"it is a plan of pipeline {name!r}, not of {pipeline.name!r}")
        pointer, data = ("stages",), data.get("stages")
    if not isinstance(data, list) or not data:
        fields = StageConfigSection.model_fields.items()
        keys = ", ".join(name for name, field in fields if field.is_required())
        wanted = f"expected a plan with stages, or a list of stages, each with {keys}"
        document.problem(pointer, f"no stages: {wanted}")
        document.raise_problems()
    return pointer, data if isinstance(data, list) else []


def _check_names(document: Document, place: Pointer, config: StageConfig, pipeline: Pipeline) -> None:
    # A change from several that share the load has no price: the file is of one configuration alone.
    if config.share_percent != WHOLE_PERCENT:
        document.problem((*place, "share_percent"), _ONE_ONLY)
    try:
        pipeline.stage(config.stage).variant(config.variant)
    except NotFoundError as error:
        key = "variant" if config.stage in {stage.name for stage in pipeline.stages} else "stage"
        document.problem((*place, key), f"{error.message}. {error.hint}")
