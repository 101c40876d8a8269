"""pipeline.yaml as a whole, with the keys of every target that there is.

Import it where a file is read or written: by then the targets can be loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from ipa.files.graph import FanOut
from ipa.files.kinds import pipeline
from ipa.files.kinds.base import Section, built
from ipa.files.kinds.fields import CHOICE, Duration, Maybe, Name, Resident
from ipa.files.kinds.targets import with_targets
from ipa.model.pipeline import OutputRows, Pipeline, Stage, Variant


class VariantSection(with_targets(pipeline.VariantKeys, "variant")):  # type: ignore[misc]
    """One of `variants:`, with a key for each target."""

    @classmethod
    def of(cls, value: Variant, **fields: Any) -> Self:
        """The section of a variant."""
        found: Self = super().of(value, **_of_targets(cls, pipeline.VariantKeys, value), **fields)
        return found


class StageSection(Section):
    """One of `stages:`."""

    makes: ClassVar = Stage
    name: Name
    container: Maybe[Name] = None
    """That serves it on a cluster; the stage's name where absent. Never change it."""
    fan_out: Maybe[pipeline.FanOutField] = None
    """Items sent on for each item received; 1 where absent."""
    output_rows: Maybe[Annotated[OutputRows, CHOICE]] = None
    """Rows it answers for one item: per-item (one) or varying; varying where it has another fan_out than
    1. Where replicas batch by themselves, a varying stage and the one after it do not."""
    batch_timeout_s: Maybe[Duration] = None
    """Longest wait for a batch to fill; 100ms where absent."""
    resident: Maybe[Resident] = Field(None, exclude_if=lambda resident: resident in (None, 1))
    """Variants that each replica keeps loaded, to switch between them in place: all, or a number, which are
    the running one and its neighbours by accuracy. It takes the memory of the largest of that number. 1
    where absent: another variant takes new replicas."""
    bounds: Maybe[pipeline.StageBoundsSection] = Field(None, exclude_if=pipeline.is_empty)
    """Limits of this stage, beside those of the pipeline."""
    pin: Maybe[pipeline.PinSection] = Field(None, exclude_if=pipeline.is_empty)
    """The fixed parts of this stage's configuration; absent keys are free."""
    variants: Annotated[
        list[VariantSection], Field(min_length=1, max_length=1000, title="at least one variant")
    ]

    def given(self) -> dict[str, Any]:
        found = super().given()
        # Of the edges to the stages after it.
        found.pop("fan_out", None)
        return {"container": self.name, **found}

    @classmethod
    def of(cls, value: Stage, **fields: Any) -> Self:
        return super().of(value, container=value.container or value.name, **fields)


class PipelineFile(with_targets(pipeline.PipelineKeys, "pipeline")):  # type: ignore[misc]
    """pipeline.yaml, with a key for each target that has a section of its own."""

    stages: Annotated[list[StageSection], Field(min_length=1, max_length=100, title="at least one stage")]
    """The variants of a stage do the same task: one runs, with the replicas that the load needs."""

    def fan_outs(self) -> dict[str, FanOut]:
        """The fan-outs that stages give, by name."""
        return {stage.name: built(stage.fan_out) for stage in self.stages if stage.fan_out is not None}

    @classmethod
    def of(cls, value: Pipeline, **fields: Any) -> Self:
        """The file of a pipeline."""
        found: Self = super().of(value, **_of_targets(cls, pipeline.PipelineKeys, value, "stages"), **fields)
        return found


def _of_targets(
    section: type[Section], keys: type[Section], value: Pipeline | Variant, *others: str
) -> dict[str, Any]:
    """The values of the section's keys that are of targets."""
    own = section.model_fields.keys() - keys.model_fields.keys() - set(others)
    return {key: value.targets.get(key) for key in own}
