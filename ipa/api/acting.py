"""Routes that change something: pause, resume, apply, rollback; and those of `controls`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter

from ipa.api import controls
from ipa.api.bodies import ApplyBody, PauseBody, RollbackBody
from ipa.api.controls import By, Why, change_control
from ipa.api.gate import Asker
from ipa.api.limits import JsonRoute
from ipa.api.preconditions import IfMatch, check_match, etag
from ipa.api.reading import Named, Using
from ipa.control.ports import Attribution, ControlAction, DecisionLog
from ipa.model.decision import Decision, ReasonCode
from ipa.model.errors import ConflictError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.service.status import ControlView

router = APIRouter(prefix="/v1/pipelines/{pipeline}", route_class=JsonRoute)
router.include_router(controls.router)


@router.post("/pause", tags=["control"])
def pause(pipeline: Named, services: Using, asker: Asker, body: PauseBody) -> ControlView:
    """Hold everything, until a moment, for a while, or until resumed; requests go on being served."""
    body = asker.signed(body)
    until = body.end(services.clock.now())
    return change_control(
        services,
        pipeline,
        Attribution(ControlAction.PAUSE, body.by, body.reason),
        lambda control: replace(
            control, paused=True, paused_until=until, paused_reason=body.reason, paused_by=body.by
        ),
    )


@router.post("/resume", tags=["control"])
def resume(pipeline: Named, services: Using, asker: Asker, by: By = "", reason: Why = "") -> ControlView:
    """End the pause."""
    return change_control(
        services,
        pipeline,
        Attribution(ControlAction.RESUME, asker.name(by), reason),
        lambda control: replace(control, paused=False, paused_until=None, paused_reason="", paused_by=""),
    )


@router.post("/apply", tags=["control"])
def apply(
    pipeline: Named, services: Using, asker: Asker, body: ApplyBody, if_match: IfMatch = None
) -> Decision:
    """Run this configuration while the pipeline is as its status (If-Match: its ETag) said; else 412."""
    body = asker.signed(body)
    check_match(if_match, etag(services.live(pipeline.name).revision), f"pipeline {pipeline.name}")
    configs = body.checked(pipeline)
    return services.apply(pipeline.name, configs, said("requested", body.by, body.reason), body.by)


@router.post("/rollback", tags=["control"])
def rollback(
    pipeline: Named, services: Using, asker: Asker, body: RollbackBody, if_match: IfMatch = None
) -> Decision:
    """Run again what ran before the last change, or after the decision `to`; If-Match as for apply."""
    body = asker.signed(body)
    check_match(if_match, etag(services.live(pipeline.name).revision), f"pipeline {pipeline.name}")
    configs = rollback_target(pipeline, services.log, body.to)
    return services.apply(pipeline.name, configs, said("rollback", body.by, body.reason), body.by)


def said(what: str, by: str, why: str) -> str:
    """Who asked for it, and why, as a decision's detail."""
    return f"{what} by {by or 'someone'}" + (f": {why}" if why else "")


def rollback_target(pipeline: Pipeline, log: DecisionLog, to: str | None) -> tuple[StageConfig, ...]:
    """What ran before the last change, or after the decision `to`; ConflictError where that is not known."""
    if to is not None:
        decision = log.decision(to)
        if decision.pipeline != pipeline.name:
            raise NotFoundError(
                f"decision {to!r} is of pipeline {decision.pipeline!r}, not {pipeline.name!r}"
            )
        configs = decision.configs
    else:
        change = _last_that_stayed(log.decisions(pipeline.name, applied_only=True))
        configs = change.previous if change else ()
    if not configs:
        raise ConflictError(
            f"it is not known what pipeline {pipeline.name!r} ran then, so there is nothing to go back to",
            hint=f"`ipa history {pipeline.name}` lists its changes; `ipa apply` takes a plan.",
        )
    return configs


def _last_that_stayed(applied: Sequence[Decision]) -> Decision | None:
    """The newest of these (newest first) that was not taken back; going back to a failure helps nobody."""
    was_taken_back = False
    for decision in applied:
        if decision.reason is ReasonCode.ROLLBACK:
            was_taken_back = True
        elif was_taken_back:
            was_taken_back = False
        else:
            return decision
    return None
