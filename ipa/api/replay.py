"""The route that replays a recorded decision."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import ReplayBody
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.control.audit.replay import ReplayResult
from ipa.service import replay

# The request without a body.
AS_IT_WAS = ReplayBody()
router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post("/decisions/{decision_id}:replay", tags=["decisions"], dependencies=[Rationed])
async def replay_decision(
    request: Request, decision_id: str, caller: CurrentCaller, context: Context, body: ReplayBody = AS_IT_WAS
) -> ReplayResult:
    """Re-run the decision from its recorded inputs: `same`, or what differs. Nothing is changed.

    With `policy`, compare with what that policy decides. `stale`: the pipeline or its profiles have changed;
    `nothing`: the decision has no recorded inputs to re-run; `why` gives the reason.
    """
    place = context.limits.solves.enter(client_of(request.scope))
    return await replay.replay_decision(caller, decision_id, body.policy, place)
