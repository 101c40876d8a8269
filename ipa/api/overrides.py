"""Routes for what people say of a pipeline beside pauses: its mode, pins and freezes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from ipa.api.auth import Asker
from ipa.api.bodies import FreezeBody, ModeBody, Person, PinBody, Reason
from ipa.api.limits import JsonRoute
from ipa.api.queries import Named, Using
from ipa.service import overrides
from ipa.service.status import ControlView

router = APIRouter(route_class=JsonRoute)
StageName = Annotated[str, Path(description="one of the pipeline's stages")]
FreezeId = Annotated[str, Path(description="the id that the status shows")]
By = Annotated[Person, Query(description="who asks")]
Why = Annotated[Reason, Query(description="why")]


@router.put("/mode", tags=["control"])
def set_mode(pipeline: Named, service: Using, asker: Asker, body: ModeBody) -> ControlView:
    """How far the pipeline is trusted to the service.

    Advisory decides and records; shadow goes on from its own decisions; neither writes. Guarded writes only
    what adds; active writes all.
    """
    by = asker.name(body.by)
    return overrides.set_mode(service, pipeline, body.mode, by=by, reason=body.reason)


@router.put("/pins/{stage}", tags=["control"])
def set_pin(pipeline: Named, service: Using, asker: Asker, stage: StageName, body: PinBody) -> ControlView:
    """Fix a part of what the stage runs, beside what the pipeline's file pins. Replaces the stage's pin."""
    by = asker.name(body.by)
    return overrides.set_pin(service, pipeline, stage, body.pin(), by=by, reason=body.reason)


@router.delete("/pins/{stage}", tags=["control"])
def remove_pin(
    pipeline: Named, service: Using, asker: Asker, stage: StageName, by: By = "", reason: Why = ""
) -> ControlView:
    """Leave the stage to the planner again. What the pipeline's file pins stays."""
    return overrides.remove_pin(service, pipeline, stage, by=asker.name(by), reason=reason)


@router.post("/freezes", tags=["control"])
def add_freeze(pipeline: Named, service: Using, asker: Asker, body: FreezeBody) -> ControlView:
    """Write nothing from `start` (now without) to `end`; every week again where `weekly`."""
    by, weekly = asker.name(body.by), body.weekly
    return overrides.add_freeze(
        service, pipeline, body.end, start=body.start, weekly=weekly, by=by, reason=body.reason
    )


@router.delete("/freezes", tags=["control"])
def remove_freezes(
    pipeline: Named, service: Using, asker: Asker, by: By = "", reason: Why = ""
) -> ControlView:
    """End every freeze, also those to come."""
    return overrides.remove_freezes(service, pipeline, by=asker.name(by), reason=reason)


@router.delete("/freezes/{freeze}", tags=["control"])
def remove_freeze(
    pipeline: Named, service: Using, asker: Asker, freeze: FreezeId, by: By = "", reason: Why = ""
) -> ControlView:
    """End one freeze, or take it off before it begins."""
    return overrides.remove_freeze(service, pipeline, freeze, by=asker.name(by), reason=reason)
