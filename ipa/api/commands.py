"""Routes that change a running pipeline: mode, pause, pins and freezes, apply and rollback."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from ipa.api.auth import CurrentCaller
from ipa.api.bodies import (
    ApplyBody,
    FeedbackBody,
    FreezeBody,
    ModeBody,
    Name,
    PauseBody,
    Person,
    PinBody,
    Reason,
    RollbackBody,
)
from ipa.api.limits import JsonRoute
from ipa.api.queries import IfMatch, Named, Using, required_match
from ipa.control.ports import Attribution, ControlAction
from ipa.model.decision import Decision
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.profiling.measured_accuracy import Feedback
from ipa.service import commands
from ipa.service.commands import FeedbackTaken, UndoView
from ipa.service.service import ChangeOrder
from ipa.service.status import ControlView
from ipa.service.visibility import Caller

router = APIRouter(prefix="/v1/pipelines/{pipeline}", route_class=JsonRoute)
Revision = Annotated[
    Name | None,
    Query(description="a revision of the history, or a decision's id; else the caller's last change"),
]
StageName = Annotated[str, Path(description="one of the pipeline's stages")]
FreezeId = Annotated[str, Path(description="the id that the status shows")]
By = Annotated[Person, Query(description="who asks")]
Why = Annotated[Reason, Query(description="why")]


def attribution_to(action: ControlAction) -> Any:
    """The attribution of a request by the author and reason in its query."""

    async def of_query(caller: CurrentCaller, by: By = "", reason: Why = "") -> Attribution:
        return caller.attribution(action, by, reason)

    return Depends(of_query)


Unpinned = Annotated[Attribution, attribution_to(ControlAction.UNPIN)]
Unfrozen = Annotated[Attribution, attribution_to(ControlAction.UNFREEZE)]
Resumed = Annotated[Attribution, attribution_to(ControlAction.RESUME)]


@router.put("/mode", tags=["control"])
def set_mode(pipeline: Named, service: Using, caller: CurrentCaller, body: ModeBody) -> ControlView:
    """Set the mode of the pipeline: advisory, shadow, guarded or active.

    Advisory decides and records; shadow bases each decision on the one before; neither writes. Guarded writes
    only changes that add replicas; active writes every change.
    """
    attribution = caller.attribution(ControlAction.MODE, body.by, body.reason)
    return commands.set_mode(service, pipeline, attribution, body.mode)


@router.put("/pins/{stage}", tags=["control"])
def set_pin(
    pipeline: Named, service: Using, caller: CurrentCaller, stage: StageName, body: PinBody
) -> ControlView:
    """Fix a part of the stage's configuration, in addition to pins of the file. Replaces the stage's pin."""
    attribution = caller.attribution(ControlAction.PIN, body.by, body.reason)
    return commands.set_pin(service, pipeline, attribution, stage, body.pin())


@router.delete("/pins/{stage}", tags=["control"])
def remove_pin(pipeline: Named, service: Using, stage: StageName, attribution: Unpinned) -> ControlView:
    """Remove the pin of the stage. Pins of the pipeline's file stay."""
    return commands.remove_pin(service, pipeline, attribution, stage)


@router.post("/freezes", tags=["control"])
def add_freeze(pipeline: Named, service: Using, caller: CurrentCaller, body: FreezeBody) -> ControlView:
    """Forbid changes from `start` (now if absent) to `end`; every week if `weekly`."""
    attribution = caller.attribution(ControlAction.FREEZE, body.by, body.reason)
    return commands.add_freeze(service, pipeline, attribution, body.end, start=body.start, weekly=body.weekly)


@router.delete("/freezes", tags=["control"])
def remove_freezes(pipeline: Named, service: Using, attribution: Unfrozen) -> ControlView:
    """Remove every freeze, future ones included."""
    return commands.remove_freezes(service, pipeline, attribution)


@router.delete("/freezes/{freeze}", tags=["control"])
def remove_freeze(pipeline: Named, service: Using, freeze: FreezeId, attribution: Unfrozen) -> ControlView:
    """Remove one freeze."""
    return commands.remove_freeze(service, pipeline, attribution, freeze)


@router.post("/pause", tags=["control"])
def pause(pipeline: Named, service: Using, caller: CurrentCaller, body: PauseBody) -> ControlView:
    """Pause control until a time, for a duration, or until resumed; requests are still served."""
    attribution = caller.attribution(ControlAction.PAUSE, body.by, body.reason)
    return commands.pause(service, pipeline, attribution, until=body.until, for_s=body.for_s)


@router.post("/resume", tags=["control"])
def resume(pipeline: Named, service: Using, attribution: Resumed) -> ControlView:
    """End the pause."""
    return commands.resume(service, pipeline, attribution)


@router.post("/feedback", status_code=202, tags=["control"])
def give_feedback(pipeline: Named, service: Using, body: FeedbackBody) -> FeedbackTaken:
    """Take judgements of answers; the next tick measures the accuracy of each variant by them.

    Plans use the measurement once it contradicts the profile. A judgement of a request and stage counts once.
    """
    feedback = [Feedback(**item.model_dump()) for item in body.items]
    return commands.give_feedback(service, pipeline, feedback)


@router.post("/apply", tags=["control"])
def apply(
    pipeline: Named, service: Using, caller: CurrentCaller, body: ApplyBody, if_match: IfMatch = None
) -> Decision:
    """Apply this configuration if the pipeline is at the revision of If-Match (status ETag); else 412.

    409 if requests are late, the change takes capacity, and it is not confirmed.
    """
    configs = [StageConfig(**config.model_dump()) for config in body.configs]
    return commands.apply(service, pipeline, configs, _order(pipeline, caller, body, if_match))


@router.post("/rollback", tags=["control"])
def rollback(
    pipeline: Named, service: Using, caller: CurrentCaller, body: RollbackBody, if_match: IfMatch = None
) -> Decision:
    """Take back the caller's last change, or restore revision `to`; If-Match and `confirmed` as for apply.

    409 if nothing is left to take back, or another change is rolling out.
    """
    order = _order(pipeline, caller, body, if_match)
    return commands.roll_back(service, pipeline, body.to, caller.author, order)


def _order(
    pipeline: Pipeline, caller: Caller, body: ApplyBody | RollbackBody, if_match: str | None
) -> ChangeOrder:
    by, expected = caller.name(body.by), required_match(if_match, f"pipeline {pipeline.name}")
    return ChangeOrder(expected, by, body.reason, body.confirmed)


@router.get("/rollback", tags=["control"])
def preview_rollback(pipeline: Named, service: Using, caller: CurrentCaller, to: Revision = None) -> UndoView:
    """Return the changes that a rollback would take back now, and the configuration it would restore."""
    return commands.preview_undo(service, pipeline, to, caller.author)
