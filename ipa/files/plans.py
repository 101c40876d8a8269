"""Plans from JSON files: those that verbs print and save, and what runs now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from ipa.files.document import Document
from ipa.files.faults import check
from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import Count, Maybe, PositiveNumber
from ipa.files.reading import read_json
from ipa.model.errors import InputError
from ipa.model.plan import StageConfig
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
