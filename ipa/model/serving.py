"""Serving semantics: how a target serves a pipeline, and the keys of a pipeline file that it ignores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.rolling import SIDE_BY_SIDE, Rolling

# The output by which a stage says how many rows each item has in its other outputs.
FAN_OUT = "fan_out"
REMEDY = "if it answers one row for each it is given, say `output_rows: per-item`"


class Unbatched(str):
    """The reason why a stage must not batch on its target: the text of `Stage.unbatched`.

    `where` is where batches would mix up requests, such as "in one deployment", or (`is_void`) have no
    effect, since its server forms none; `remedy` is what the target offers instead.
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
    place, remedy, is_void = _details(why)
    own_remedy, usual_remedy = f"or {remedy}" if remedy else "", "" if is_void else f"or, {REMEDY}"
    remedies = "; ".join(filter(None, ("use batch size 1", own_remedy, usual_remedy)))
    effect = "has no effect" if is_void else "gives requests the rows of others"
    return f"stage {stage!r}: batch size {batch_size}{place} {effect}: {why}; {remedies}"


def unbatched_note(stage: str, why: str, *, with_remedy: bool = False) -> str:
    """The note for a stage that is planned without batching."""
    place, remedy, _ = _details(why)
    words = f" (to batch it: {remedy})" if with_remedy and remedy else ""
    return f"stage {stage!r} has batch size 1{place}, since {why}{words}"


def _details(why: str) -> tuple[str, str, bool]:
    if not isinstance(why, Unbatched):
        return "", "", False
    return f" {why.where}" if why.where else "", why.remedy, why.is_void


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


class Batching(StrEnum):
    """The component that forms batches."""

    # One queue for all replicas of a stage: an idle replica takes the next batch.
    CENTRAL = "central"
    # In each replica, from the requests that were spread to it.
    IN_REPLICA = "in-replica"


class Rebatch(StrEnum):
    """The effect of a change of the batch size alone."""

    IN_PLACE = "in-place"
    NEW_REPLICAS = "new-replicas"


@dataclass(frozen=True, slots=True)
class ServingSemantics:
    """The way in which a target serves a pipeline; by default through central queues without restrictions.

    `spread` describes how requests reach replicas. `most_parts` is the number of configurations that may run
    side by side, each with a share of the requests; several variants of one stage (`sets`) count as such.
    `keeps_variants`: a replica keeps several variants loaded and switches between them in place (`resident`).
    """

    batching: Batching = Batching.CENTRAL
    spread: str = "an idle replica takes the next batch"
    rolling: Rolling = SIDE_BY_SIDE
    rebatch: Rebatch = Rebatch.IN_PLACE
    runs_graphs: bool = True
    fans_out: bool = True
    drops_late: bool = True
    waits_for_batches: bool = True
    most_parts: int = 1
    keeps_variants: bool = False


@dataclass(frozen=True, slots=True)
class Unhonoured:
    """A key of a pipeline file that has no effect on the target: its name, the reason, and the remedy."""

    key: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {self.why}; {self.remedy}"


def unhonoured(pipeline: Pipeline, serving: ServingSemantics, place: str) -> Iterator[Unhonoured]:
    """The keys of the pipeline that a target with these semantics ignores; `place` is its name in words."""
    if pipeline.drop_after_s is not None and not serving.drops_late:
        yield Unhonoured(
            "drop_after", f"{place} drops no request by its age", "leave it out, or choose another target"
        )
    if pipeline.sets and serving.most_parts == 1:
        yield Unhonoured("sets", f"{place} runs one variant of a stage at a time", "leave it out")
    if pipeline.canary is not None and serving.most_parts == 1:
        yield Unhonoured(
            "canary", f"{place} cannot run a new configuration beside the old one", "leave it out"
        )
    if not pipeline.is_chain and not serving.runs_graphs:
        remedy = "make it a chain such as [a, b], or choose another target"
        yield Unhonoured("graph", f"{place} runs chains of stages only", remedy)
    edges = [edge for stage in pipeline.stages for edge in stage.after]
    if not serving.fans_out and any(count != 1 for edge in edges for count in edge.fan_outs):
        yield Unhonoured(
            "fan_out", f"{place} sends one item on for each", "leave it out, or choose another target"
        )
    if not serving.keeps_variants and any(stage.residents > 1 for stage in pipeline.served):
        yield Unhonoured(
            "resident", f"{place} loads one variant in a replica", "leave it out, or choose another target"
        )
    usual_s = Stage("", ()).batch_timeout_s
    if not serving.waits_for_batches and any(s.batch_timeout_s != usual_s for s in pipeline.served):
        yield Unhonoured("batch_timeout", f"{place} does not wait for batches to fill", "leave it out")
