"""Routes that change a pipeline: pause, resume, apply, rollback; and those of `overrides`."""

from __future__ import annotations

from fastapi import APIRouter

from ipa.api import overrides
from ipa.api.auth import CurrentCaller
from ipa.api.bodies import ApplyBody, PauseBody, RollbackBody
from ipa.api.limits import JsonRoute
from ipa.api.overrides import By, Why
from ipa.api.preconditions import IfMatch, required_match
from ipa.api.queries import Named, Using
from ipa.model.decision import Decision
from ipa.service import commands
from ipa.service import overrides as use_cases
from ipa.service.status import ControlView

router = APIRouter(prefix="/v1/pipelines/{pipeline}", route_class=JsonRoute)
router.include_router(overrides.router)


@router.post("/pause", tags=["control"])
def pause(pipeline: Named, service: Using, caller: CurrentCaller, body: PauseBody) -> ControlView:
    """Pause control until a time, for a duration, or until resumed; requests are still served."""
    by = caller.name(body.by)
    return use_cases.pause(service, pipeline, until=body.until, for_s=body.for_s, by=by, reason=body.reason)


@router.post("/resume", tags=["control"])
def resume(
    pipeline: Named, service: Using, caller: CurrentCaller, by: By = "", reason: Why = ""
) -> ControlView:
    """End the pause."""
    return use_cases.resume(service, pipeline, by=caller.name(by), reason=reason)


@router.post("/apply", tags=["control"])
def apply(
    pipeline: Named, service: Using, caller: CurrentCaller, body: ApplyBody, if_match: IfMatch = None
) -> Decision:
    """Apply this configuration if the pipeline is at the revision of If-Match (status ETag); else 412."""
    by = caller.name(body.by)
    expected = required_match(if_match, f"pipeline {pipeline.name}")
    return commands.apply(service, pipeline, body.stage_configs(), expected, by=by, reason=body.reason)


@router.post("/rollback", tags=["control"])
def rollback(
    pipeline: Named, service: Using, caller: CurrentCaller, body: RollbackBody, if_match: IfMatch = None
) -> Decision:
    """Restore the configuration before the last change, or after the decision `to`; If-Match as for apply."""
    by = caller.name(body.by)
    expected = required_match(if_match, f"pipeline {pipeline.name}")
    return commands.roll_back(service, pipeline, body.to, expected, by=by, reason=body.reason)
