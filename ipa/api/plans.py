"""Routes for plans and analysis: make, keep and apply what-ifs; explanations, fits, replays and the fleet."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import ApplyPlanBody, PlanBody, ReplayBody
from ipa.api.limits import JsonRoute, client_name, while_connected
from ipa.api.queries import (
    IdempotencyKey,
    IfMatch,
    Named,
    Using,
    check_key,
    etag,
    required_match,
)
from ipa.control.audit.replay import ReplayResult
from ipa.control.saved_plans import Basis, StoredPlan
from ipa.model.decision import Decision
from ipa.model.plan import Plan
from ipa.optimize.explain import Explanation
from ipa.service import history, plans, status
from ipa.service.plans import FrontierView, StageFits
from ipa.service.service import ChangeOrder
from ipa.service.status import FleetView

# The request without a body.
AS_IT_WAS = ReplayBody()
router = APIRouter(prefix="/v1", route_class=JsonRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView(Plan):
    """A stored plan: `asked` is its request, `computed_from` the versions of its inputs."""

    plan_id: str
    at: str
    asked: dict[str, Any]
    computed_from: Basis


_VIEW = TypeAdapter(PlanView)


@router.post(
    "/pipelines/{pipeline}/plans",
    tags=["plans"],
    status_code=201,
    response_model=PlanView,
)
async def make_plan(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> Response:
    """Make the best plan (a what-if; nothing is changed) and keep it under its `plan_id`.

    Infeasible is a `termination`, not an error. `:apply` carries the plan out if its inputs have not changed;
    the ETag is their version.
    """
    place = context.limits.solves.enter(client_name(request.scope))
    question = body.model_dump_json(exclude_unset=True)
    making_it = plans.make_plan(service, pipeline, body.request(), question, place)
    stored = await while_connected(request, making_it)
    headers = {"Location": f"/v1/plans/{stored.plan_id}", "ETag": _entity_tag(stored)}
    # As text: a slider requests hundreds, and validating the answer would take longer than the plan.
    return Response(_VIEW.dump_json(_view(stored)), 201, headers, "application/json")


@router.get("/plans/{plan_id}", tags=["plans"])
def get_plan(plan_id: str, service: Using, response: Response) -> PlanView:
    """Return a stored plan with the versions of its inputs."""
    stored = plans.stored_plan(service, plan_id)
    response.headers["ETag"] = _entity_tag(stored)
    return _view(stored)


@router.post("/plans/{plan_id}:apply", tags=["plans"], response_model=Decision)
def apply_plan(
    plan_id: str,
    caller: CurrentCaller,
    body: ApplyPlanBody,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Apply the plan, once for the Idempotency-Key, with its ETag as If-Match.

    412 names the inputs that changed since the plan was made; 409: it has no configuration. The decision may
    be a hold with the reason why nothing was changed.
    """
    key, expected = check_key(idempotency_key), required_match(if_match, "the plan")
    order = ChangeOrder(expected, caller.name(body.by), body.reason, body.confirmed)
    outcome = plans.apply_plan(caller, plan_id, key, order)
    headers = {"Idempotency-Replayed": "true"} if outcome.is_replayed else {}
    return Response(outcome.answer.body, outcome.answer.status, headers, "application/json")


@router.post("/pipelines/{pipeline}/explanations", tags=["plans"])
async def explain_plan(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> Explanation:
    """Explain a plan: what limits it, and its alternatives. `unfinished`: parts not ready in time."""
    place = context.limits.solves.enter(client_name(request.scope))
    return await while_connected(request, plans.explain(service, pipeline, body.request(), place))


@router.post("/pipelines/{pipeline}/frontiers", tags=["plans"])
async def find_frontier(
    request: Request, pipeline: Named, service: Using, context: Context, body: PlanBody
) -> FrontierView:
    """Return the Pareto frontier of accuracy and cost within the limits of the body; it is exact.

    Empty: nothing is feasible. 504: not all points were found in time. Nothing is kept or changed.
    """
    place = context.limits.solves.enter(client_name(request.scope))
    return await while_connected(request, plans.find_frontier(service, pipeline, body.request(), place))


@router.get("/pipelines/{pipeline}/profiles/{stage}/fits", tags=["profiles"])
def get_fits(pipeline: Named, stage: str, service: Using) -> StageFits:
    """Return the fits of latency over batch size that plans use, one for each number of cores measured."""
    return plans.stage_fits(service, pipeline, stage)


@router.post("/decisions/{decision_id}:replay", tags=["decisions"])
async def replay_decision(
    request: Request, decision_id: str, caller: CurrentCaller, context: Context, body: ReplayBody = AS_IT_WAS
) -> ReplayResult:
    """Re-run the decision from its recorded inputs: `same`, or what differs. Nothing is changed.

    With `policy`, compare with what that policy decides. `stale`: the pipeline or its profiles have changed;
    `nothing`: the decision has no recorded inputs to re-run; `why` gives the reason. With `certificate`, a
    result of `same` has the file for `ipa verify`.
    """
    place = context.limits.solves.enter(client_name(request.scope))
    return await history.replay(caller, decision_id, body.policy, place, certifies=body.certificate)


@router.get("/fleet", tags=["fleet"])
def get_fleet(service: Using) -> FleetView:
    """Return the usage of all pipelines, their bounds, and the share of each."""
    return status.fleet_use(service)


def _entity_tag(stored: StoredPlan) -> str:
    """The entity tag of the plan: the version of its inputs."""
    return etag(plans.version_of(stored.basis))


def _view(stored: StoredPlan) -> PlanView:
    values = {each.name: getattr(stored.plan, each.name) for each in fields(Plan)}
    request = json.loads(stored.asked)
    return PlanView(**values, plan_id=stored.plan_id, at=stored.at, asked=request, computed_from=stored.basis)
