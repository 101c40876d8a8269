"""Stages that must not batch on a target: it would give requests the rows of others, or forms no batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

# The output by which a stage says how many rows each item has in its other outputs.
FAN_OUT = "fan_out"
REMEDY = "if it answers one row for each it is given, say `output_rows: per-item`"


class Unbatched(str):
    """The reason why a stage must not batch on its target: the text of `Stage.unbatched`.

    `where` is where batches would give requests the rows of others, such as "in one deployment", or have no
    effect (`is_void`), since its server forms none; `remedy` is what the target offers instead.
    """

    where: str
    remedy: str
    is_void: bool

    def __new__(cls, why: str, where: str = "", remedy: str = "", *, is_void: bool = False) -> Unbatched:
        made = super().__new__(cls, why)
        made.where, made.remedy, made.is_void = where, remedy, is_void
        return made


def batch_fault(stage: str, batch_size: int, why: str) -> str:
    """The message for a stage whose batches would mix up requests, or have no effect, with the remedy."""
    is_void = isinstance(why, Unbatched) and why.is_void
    remedies = ["use batch size 1", *_remedy(why), *([] if is_void else [f"or, {REMEDY}"])]
    effect = "has no effect" if is_void else "gives requests the rows of others"
    return f"stage {stage!r}: batch size {batch_size}{_where(why)} {effect}: {why}; {'; '.join(remedies)}"


def unbatched_note(stage: str, why: str, *, with_remedy: bool = False) -> str:
    """The note for a stage that is planned without batching."""
    remedy = f" (to batch it: {why.remedy})" if with_remedy and isinstance(why, Unbatched) else ""
    return f"stage {stage!r} has batch size 1{_where(why)}, since {why}{remedy}"


def _where(why: str) -> str:
    return f" {why.where}" if isinstance(why, Unbatched) and why.where else ""


def _remedy(why: str) -> list[str]:
    return [f"or {why.remedy}"] if isinstance(why, Unbatched) and why.remedy else []


def unbatched_notes(pipeline: Pipeline, *, with_remedies: bool = False) -> list[str]:
    """A note for each stage that is planned without batching."""
    without = [stage for stage in pipeline.stages if stage.unbatched]
    return [unbatched_note(it.name, it.unbatched, with_remedy=with_remedies) for it in without]


def wrong_rows(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Messages for the configurations whose batches would mix up requests on the target."""
    return [fault for config in configs if (fault := _fault(pipeline, config))]


def without_batches(pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """Return the configurations with batch size 1 if batches would mix up requests on the target."""
    return tuple(replace(each, batch_size=1) if _fault(pipeline, each) else each for each in configs)


def _fault(pipeline: Pipeline, config: StageConfig) -> str:
    why = next((stage.unbatched for stage in pipeline.stages if stage.name == config.stage), "")
    return batch_fault(config.stage, config.batch_size, why) if why and config.batch_size > 1 else ""
