"""Routes for what people say of a pipeline beside pauses: its mode, pins and freezes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query

from ipa.api.bodies import FreezeBody, ModeBody, Person, PinBody, Reason
from ipa.api.gate import Asker
from ipa.api.limits import JsonRoute
from ipa.api.reading import Named, Using
from ipa.api.services import Services
from ipa.control.ports import Attribution, ControlAction, Freeze, PipelineControl
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import Pipeline
from ipa.service.status import ControlView, control_view, freeze_id

LOG = logging.getLogger(__name__)
# More than anyone needs, few enough to be looked through every tick.
MOST_FREEZES = 100
router = APIRouter(route_class=JsonRoute)
StageName = Annotated[str, Path(description="one of the pipeline's stages")]
FreezeId = Annotated[str, Path(description="the id that the status shows")]
By = Annotated[Person, Query(description="who asks")]
Why = Annotated[Reason, Query(description="why")]
# What was said is read, changed and kept as one; two requests at once must not undo each other.
_one_at_a_time = threading.Lock()


def change_control(
    services: Services,
    pipeline: Pipeline,
    said: Attribution,
    change: Callable[[PipelineControl], PipelineControl],
) -> ControlView:
    """What holds for the pipeline after the change of what was said of it; the record has who said it."""
    with _one_at_a_time:
        control = change(services.controls.control(pipeline.name))
        services.controls.set_control(pipeline.name, control, said)
    LOG.info("%s of %s by %s: %s", said.deed.value, pipeline.name, said.by or "someone", said.why)
    return control_view(control, services.clock.now())


@router.put("/mode", tags=["control"])
def set_mode(pipeline: Named, services: Using, asker: Asker, body: ModeBody) -> ControlView:
    """How far the pipeline is trusted to the service.

    Advisory decides and records; shadow goes on from its own decisions; neither writes. Guarded writes only
    what adds; active writes all.
    """
    body = asker.signed(body)
    return change_control(
        services,
        pipeline,
        Attribution(ControlAction.MODE, body.by, body.reason),
        lambda control: replace(control, mode=body.mode, mode_by=body.by, mode_reason=body.reason),
    )


@router.put("/pins/{stage}", tags=["control"])
def set_pin(pipeline: Named, services: Using, asker: Asker, stage: StageName, body: PinBody) -> ControlView:
    """Fix a part of what the stage runs, beside what the pipeline's file pins. Replaces the stage's pin."""
    body = asker.signed(body)
    pin = body.checked(pipeline, stage)
    return change_control(
        services,
        pipeline,
        Attribution(ControlAction.PIN, body.by, body.reason),
        lambda control: replace(
            control,
            pins=(*(other for other in control.pins if other.stage != stage), pin),
        ),
    )


@router.delete("/pins/{stage}", tags=["control"])
def remove_pin(
    pipeline: Named, services: Using, asker: Asker, stage: StageName, by: By = "", reason: Why = ""
) -> ControlView:
    """Leave the stage to the planner again. What the pipeline's file pins stays."""

    def without(control: PipelineControl) -> PipelineControl:
        kept = tuple(pin for pin in control.pins if pin.stage != stage)
        if kept == control.pins:
            known = ", ".join(pin.stage for pin in control.pins) or "none"
            raise NotFoundError(
                f"no stage {stage!r} of pipeline {pipeline.name!r} is pinned", hint=f"Pinned are: {known}"
            )
        return replace(control, pins=kept)

    return change_control(
        services, pipeline, Attribution(ControlAction.UNPIN, asker.name(by), reason), without
    )


@router.post("/freezes", tags=["control"])
def add_freeze(pipeline: Named, services: Using, asker: Asker, body: FreezeBody) -> ControlView:
    """Write nothing from `start` (now without) to `end`; every week again where `weekly`."""
    body = asker.signed(body)
    now = services.clock.now()
    freeze = body.checked(now)

    def added(control: PipelineControl) -> PipelineControl:
        # What is over is of no use to anyone; the same window again replaces its reason.
        kept = [
            other
            for other in control.freezes
            if (other.weekly or now < other.end) and freeze_id(other) != freeze_id(freeze)
        ]
        if len(kept) >= MOST_FREEZES:
            problem = Problem(f"there are {len(kept)} already", pointer="/start")
            raise InputError("there are too many freezes; remove some first", problems=[problem])
        return replace(control, freezes=(*kept, freeze))

    return change_control(services, pipeline, Attribution(ControlAction.FREEZE, body.by, body.reason), added)


@router.delete("/freezes", tags=["control"])
def remove_freezes(
    pipeline: Named, services: Using, asker: Asker, by: By = "", reason: Why = ""
) -> ControlView:
    """End every freeze, also those to come."""
    said = Attribution(ControlAction.UNFREEZE, asker.name(by), reason)
    return change_control(services, pipeline, said, lambda control: replace(control, freezes=()))


@router.delete("/freezes/{freeze}", tags=["control"])
def remove_freeze(
    pipeline: Named, services: Using, asker: Asker, freeze: FreezeId, by: By = "", reason: Why = ""
) -> ControlView:
    """End one freeze, or take it off before it begins."""

    def without(control: PipelineControl) -> PipelineControl:
        kept: tuple[Freeze, ...] = tuple(each for each in control.freezes if freeze_id(each) != freeze)
        if kept == control.freezes:
            known = ", ".join(freeze_id(each) for each in control.freezes) or "none"
            raise NotFoundError(
                f"pipeline {pipeline.name!r} has no freeze {freeze!r}", hint=f"There are: {known}"
            )
        return replace(control, freezes=kept)

    return change_control(
        services, pipeline, Attribution(ControlAction.UNFREEZE, asker.name(by), reason), without
    )
