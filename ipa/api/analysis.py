"""Routes for analysis: the explanation of a plan, the frontier, and the fits of profiles."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ipa.api.auth import Context
from ipa.api.bodies import PlanBody
from ipa.api.cancellation import while_asked
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.queries import Named, Using
from ipa.optimize.explanation import Explanation
from ipa.service import analysis
from ipa.service.analysis import FrontierView, StageFits

router = APIRouter(prefix="/v1/pipelines/{pipeline}", route_class=JsonRoute)


@router.post("/explanations", tags=["plans"], dependencies=[Rationed])
async def explain_plan(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> Explanation:
    """Explain a plan: what limits it, its alternatives, and where it changes. `unfinished`: not in time."""
    place = context.limits.solves.enter(client_of(request.scope))
    return await while_asked(request, analysis.explain(service, pipeline, body.request(), place))


@router.post("/frontiers", tags=["plans"], dependencies=[Rationed])
async def find_frontier(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> FrontierView:
    """Return the Pareto frontier of accuracy and cost within the limits of the body; it is exact.

    Empty: nothing is feasible. 504: not all points were found in time. Nothing is kept or changed.
    """
    place = context.limits.solves.enter(client_of(request.scope))
    return await while_asked(request, analysis.find_frontier(service, pipeline, body.request(), place))


@router.get("/profiles/{stage}/fits", tags=["profiles"])
def get_fits(pipeline: Named, stage: str, service: Using) -> StageFits:
    """Return the fits of latency over batch size that plans use, one for each number of cores measured."""
    return analysis.stage_fits(service, pipeline, stage)
