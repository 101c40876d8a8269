"""Routes that read: pipelines, status, profiles and decisions; and what those of plans begin with."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Response

from ipa.api.bodies import PlanBody
from ipa.api.gate import Asker
from ipa.api.limits import JsonRoute
from ipa.api.paging import Paging, paging
from ipa.api.preconditions import etag
from ipa.api.seen import pipeline_named
from ipa.api.services import Services
from ipa.control.audit.record import HEAD, head_of
from ipa.model.decision import Decision
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.service.history import DecisionPage, RecordView, neighbours, record_view
from ipa.service.status import StatusView, status_view

router = APIRouter(prefix="/v1", route_class=JsonRoute)


async def services_of(asker: Asker) -> Services:
    """The services, as far as who asks may see them."""
    return asker.services


async def named_pipeline(pipeline: str, services: Annotated[Services, Depends(services_of)]) -> Pipeline:
    """The pipeline of the path; NotFoundError names those there are."""
    return pipeline_named(services, pipeline)


async def named_record(pipeline: str, services: Annotated[Services, Depends(services_of)]) -> str:
    """The name that decisions are recorded under: the path's pipeline, or with @ and a policy beside it."""
    return record_named(services, pipeline)


def record_named(services: Services, name: str) -> str:
    """The name again; NotFoundError where there is no such pipeline."""
    pipeline_named(services, name.partition("@")[0])
    return name


Using = Annotated[Services, Depends(services_of)]
Recorded = Annotated[str, Depends(named_record)]
Named = Annotated[Pipeline, Depends(named_pipeline)]
Paged = Annotated[Paging, Depends(paging)]
Anchor = Annotated[
    str | None, Query(pattern=HEAD, description="a head of the record that was kept: NUMBER:DIGEST")
]


@router.get("/pipelines/{pipeline}/status", tags=["pipelines"])
def get_status(pipeline: Named, services: Using, response: Response) -> StatusView:
    """A pipeline now: load, forecast, latency, what runs, and why nothing changes. ETag: its revision."""
    live = services.live(pipeline.name)
    response.headers["ETag"] = etag(live.revision)
    control = services.controls.control(pipeline.name)
    now, standing = services.clock.now(), services.standing()
    return status_view(pipeline, control, live, now, standing, services.beside(pipeline.name))


@router.get("/pipelines/{pipeline}/profiles", tags=["profiles"])
def list_profiles(pipeline: Named, services: Using) -> dict[str, StageProfile]:
    """The newest profile of every stage, by stage."""
    return dict(services.profiles(pipeline.name))


@router.get("/pipelines/{pipeline}/profiles/{stage}", tags=["profiles"])
def get_profile(pipeline: Named, stage: str, services: Using) -> StageProfile:
    """The newest profile of a stage."""
    pipeline.stage(stage)
    profiles = services.profiles(pipeline.name)
    if stage not in profiles:
        raise NotFoundError(
            f"stage {stage!r} of {pipeline.name!r} has no profile", hint="`ipa profile` makes one."
        )
    return profiles[stage]


def rate_of(pipeline: Pipeline, services: Services, body: PlanBody) -> float:
    """The rate that was asked for, or the forecast's upper quantile; InputError where there is neither."""
    if body.rate_rps is not None:
        return body.rate_rps
    rate_rps = known_rate(services, pipeline)
    if not rate_rps:
        problem = Problem("no load was seen yet, so a rate must be given", pointer="/rate_rps")
        raise InputError("there is no rate to plan for", problems=[problem])
    return rate_rps


def known_rate(services: Services, pipeline: Pipeline) -> float | None:
    """The forecast's upper quantile, else the rate seen; None where neither is known."""
    live = services.live(pipeline.name)
    return live.forecast.upper_rps if live.forecast else live.rate_rps


async def planned(pipeline: Pipeline, services: Services, body: PlanBody, rate_rps: float) -> Plan:
    """The plan that the body asks for at that rate."""
    options = options_of(pipeline, body)
    return await services.plan(body.pipeline(pipeline), rate_rps, solver=body.solver, **options)


def options_of(pipeline: Pipeline, body: PlanBody) -> dict[str, Any]:
    """How the body asks to plan."""
    return {
        "objective": body.objective or pipeline.default_objective,
        "compat": body.compat,
        "allocation": body.allocation,
    }


@router.get("/pipelines/{pipeline}/decisions", tags=["decisions"], response_model=DecisionPage)
def list_decisions(pipeline: Recorded, services: Using, wanted: Paged) -> Response:
    """Every decision, holds included, newest first; those of a policy beside it for PIPELINE@POLICY.

    A page ends early after 2 MB; `next_before`, and Link, say where the next one begins.
    """
    return wanted.page(services, pipeline, applied_only=False)


@router.get("/pipelines/{pipeline}/history", tags=["decisions"], response_model=DecisionPage)
def list_history(pipeline: Recorded, services: Using, wanted: Paged) -> Response:
    """The decisions that changed the pipeline, newest first. Pages end as those of decisions do."""
    return wanted.page(services, pipeline, applied_only=True)


@router.get("/pipelines/{pipeline}/record", tags=["decisions"])
def verify_record(pipeline: Recorded, services: Using, anchor: Anchor = None) -> RecordView:
    """Recompute the chain of digests over every entry; a problem names the first that was changed.

    Also one that was removed or put in. What was cut off at the end shows against an earlier head, `anchor`.
    """
    return record_view(pipeline, services.verify(pipeline, head_of(anchor) if anchor else None))


@router.get("/decisions/{decision_id}", tags=["decisions"])
def get_decision(decision_id: str, services: Using, response: Response) -> Decision:
    """A decision with the inputs it was taken from. Link: the decisions right before and after it."""
    decision = services.log.decision(decision_id)
    links = neighbours(services.log, decision).items()
    if links:
        response.headers["Link"] = ", ".join(
            f'</v1/decisions/{quote(each, safe="")}>; rel="{name}"' for name, each in links
        )
    return decision
