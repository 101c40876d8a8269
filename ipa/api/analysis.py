"""Routes for analysis: explanations, frontier, fits and replays; the fleet."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import PlanBody, ReplayBody
from ipa.api.limits import JsonRoute, Rationed, client_of, while_asked
from ipa.api.queries import Named, Using
from ipa.control.audit.replay import ReplayResult
from ipa.optimize.explanation import Explanation
from ipa.service import analysis, fleet, history
from ipa.service.analysis import FrontierView, StageFits
from ipa.service.fleet import FleetView

# The request without a body.
AS_IT_WAS = ReplayBody()
router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post("/pipelines/{pipeline}/explanations", tags=["plans"], dependencies=[Rationed])
async def explain_plan(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> Explanation:
    """Explain a plan: what limits it, its alternatives, and where it changes. `unfinished`: not in time."""
    place = context.limits.solves.enter(client_of(request.scope))
    return await while_asked(request, analysis.explain(service, pipeline, body.request(), place))


@router.post("/pipelines/{pipeline}/frontiers", tags=["plans"], dependencies=[Rationed])
async def find_frontier(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> FrontierView:
    """Return the Pareto frontier of accuracy and cost within the limits of the body; it is exact.

    Empty: nothing is feasible. 504: not all points were found in time. Nothing is kept or changed.
    """
    place = context.limits.solves.enter(client_of(request.scope))
    return await while_asked(request, analysis.find_frontier(service, pipeline, body.request(), place))


@router.get("/pipelines/{pipeline}/profiles/{stage}/fits", tags=["profiles"])
def get_fits(pipeline: Named, stage: str, service: Using) -> StageFits:
    """Return the fits of latency over batch size that plans use, one for each number of cores measured."""
    return analysis.stage_fits(service, pipeline, stage)


@router.post("/decisions/{decision_id}:replay", tags=["decisions"], dependencies=[Rationed])
async def replay_decision(
    request: Request, decision_id: str, caller: CurrentCaller, context: Context, body: ReplayBody = AS_IT_WAS
) -> ReplayResult:
    """Re-run the decision from its recorded inputs: `same`, or what differs. Nothing is changed.

    With `policy`, compare with what that policy decides. `stale`: the pipeline or its profiles have changed;
    `nothing`: the decision has no recorded inputs to re-run; `why` gives the reason.
    """
    place = context.limits.solves.enter(client_of(request.scope))
    return await history.replay_decision(caller, decision_id, body.policy, place)


@router.get("/fleet", tags=["fleet"])
def get_fleet(service: Using) -> FleetView:
    """Return the usage of all pipelines, their bounds, and the share of each."""
    return fleet.fleet_use(service)
