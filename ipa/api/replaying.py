"""The route that takes a recorded decision again."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from ipa.api.bodies import ReplayBody
from ipa.api.gate import Asker
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.seen import pipeline_named
from ipa.control.audit.replay import ReplayResult
from ipa.model.access import Operation
from ipa.model.decision import Decision
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.policies.table import POLICIES

# Without a body.
AS_IT_WAS = ReplayBody()
router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post("/decisions/{decision_id}:replay", tags=["decisions"], dependencies=[Rationed])
async def replay_decision(
    request: Request, decision_id: str, asker: Asker, body: ReplayBody = AS_IT_WAS
) -> ReplayResult:
    """Take the decision again from its recorded inputs: `same`, or what differs. Nothing is changed.

    With `policy` it says where that one would have run or planned something else. `stale`: pipeline or
    profiles are others now; `nothing`: no tick decided it from inputs that are kept; `why` says more.
    """
    services, policy = asker.services, body.policy

    def found() -> tuple[Decision, Pipeline]:
        decision = services.log.decision(decision_id)
        pipeline = pipeline_named(services, decision.pipeline.partition("@")[0])
        asker.must(Operation.WHAT_IF, pipeline.namespace)
        return decision, pipeline

    decision, pipeline = await run_in_threadpool(found)
    if policy is not None and policy not in POLICIES:
        message = f"there is no policy {policy!r}; there are: {', '.join(POLICIES)}"
        raise InputError("it cannot be taken again so", problems=[Problem(message, pointer="/policy")])
    profiles = services.profiles(pipeline.name)
    async with services.limits.solves.enter(client_of(request.scope)):
        return await run_in_threadpool(services.replay, decision, pipeline, profiles, policy)
