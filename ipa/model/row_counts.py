"""Configurations in which MLServer would give one request the rows of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.model.on_seldon import unbatched_stages
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig

REMEDY = (
    "use batch size 1; or `seldon: {shape: split}`, whose queue counts each request's rows; "
    "or, if it answers one row for each it is given, say `output_rows: per-item`"
)


def batch_fault(stage: str, batch_size: int, why: str) -> str:
    """The message for a stage whose batches would mix up requests, with the remedy."""
    return (
        f"stage {stage!r}: batch size {batch_size} in one SeldonDeployment gives requests the rows of "
        f"others: {why}; {REMEDY}"
    )


def unbatched_note(stage: str, why: str) -> str:
    """The note for a stage that is planned without batching."""
    return f"stage {stage!r} has batch size 1 in one SeldonDeployment, since {why}"


def unbatched_notes(pipeline: Pipeline) -> list[str]:
    """A note for each stage that is planned without batching."""
    return [unbatched_note(stage.name, stage.unbatched) for stage in pipeline.stages if stage.unbatched]


def batch_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Messages for the configurations whose batches would mix up requests if the pipeline runs on Seldon."""
    why = unbatched_stages(pipeline)
    return [
        batch_fault(config.stage, config.batch_size, why[config.stage])
        for config in configs
        if config.stage in why and config.batch_size > 1
    ]


def wrong_rows(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """As `batch_faults`, for a pipeline on its target: none off a cluster."""
    return [fault for config in configs if (fault := _fault(_stage(pipeline, config.stage), config))]


def without_batches(pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """Return the configurations with batch size 1 if batches would mix up requests on the target."""
    return tuple(
        replace(config, batch_size=1) if _fault(_stage(pipeline, config.stage), config) else config
        for config in configs
    )


def _stage(pipeline: Pipeline, name: str) -> Stage | None:
    return next((stage for stage in pipeline.stages if stage.name == name), None)


def _fault(stage: Stage | None, config: StageConfig) -> str:
    if stage is None or not stage.unbatched or config.batch_size <= 1:
        return ""
    return batch_fault(stage.name, config.batch_size, stage.unbatched)
