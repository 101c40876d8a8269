"""Routes over all pipelines: their usage, their forecasts, and plans under one budget."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import AcceleratorCounts, Body, Name, Positive, RateRps, at_most
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.queries import Named, Using
from ipa.model.pipeline import Bounds
from ipa.model.plan import Plan, Termination
from ipa.optimize.fleet.plan import Fleet
from ipa.optimize.problem import Compat
from ipa.profiling.points import Allocation
from ipa.service import alerts, fleet
from ipa.service.alerts import AlertsView
from ipa.service.fleet import FleetMember, FleetRequest, FleetView, ForecastView

router = APIRouter(prefix="/v1", route_class=JsonRoute)
# More than one service keeps; a body of more is a mistake.
MOST_MEMBERS = 2000


class MemberBody(Body):
    """A pipeline of the fleet; its forecast is the rate if none is given."""

    pipeline: Name
    rate_rps: RateRps | None = None
    objective: Name | None = None
    weight: Positive = 1.0
    priority: Annotated[
        int,
        Field(alias="class", ge=-1000, le=1000, strict=True, description="higher classes are served first"),
    ] = 0


class FleetPlanBody(Body):
    """A what-if over many pipelines; over all if none are named.

    `budget_cores`, `memory_gib` and `accelerators`, a count by kind such as `nvidia.com/gpu`, are the budget
    of all pipelines together; memory and kinds that are not given are unlimited.
    """

    budget_cores: Positive
    memory_gib: Positive | None = None
    accelerators: AcceleratorCounts | None = None
    pipelines: Annotated[
        list[MemberBody], Field(max_length=MOST_MEMBERS, default_factory=list), at_most(MOST_MEMBERS)
    ]
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE

    def request(self) -> FleetRequest:
        """The what-if of the body."""
        members = [
            FleetMember(each.pipeline, each.rate_rps, each.objective, each.weight, each.priority)
            for each in self.pipelines
        ]
        limits = Bounds(memory_gib=self.memory_gib, accelerators=self.accelerators or {}).limits
        return FleetRequest(self.budget_cores, members, self.compat, self.allocation, limits)


class ClassView(BaseModel):
    """The totals of the pipelines of one class; `price_per_core` is the gain of one more core.

    `budget`, `held` and `prices` are the budget, the use and the gain of one unit more of each resource:
    `cpu_cores`, `memory_gib`, and accelerators by their kind.
    """

    priority: Annotated[int, Field(alias="class")]
    budget_cores: float
    cost_cores: float
    budget: dict[str, float]
    held: dict[str, float]
    worth: float
    bound: float | None
    gap: float | None
    price_per_core: float
    prices: dict[str, float]
    termination: Termination


class MemberView(BaseModel):
    """The plan of a pipeline of the fleet; `worth` is its objective times its weight."""

    weight: float
    priority: Annotated[int, Field(alias="class")]
    worth: float
    plan: Plan


class FleetPlanView(BaseModel):
    """The plans of the highest total worth within the budget, in the order of the request."""

    budget_cores: float
    cost_cores: float
    budget: dict[str, float]
    held: dict[str, float]
    worth: float
    termination: Termination
    solve_s: float
    classes: tuple[ClassView, ...]
    pipelines: tuple[MemberView, ...]


@router.get("/pipelines/{pipeline}/forecast", tags=["forecasts"])
def get_forecast(pipeline: Named, service: Using) -> ForecastView:
    """Return the forecast of the load, the forecaster that made it, and its recent errors."""
    return fleet.forecast(service, pipeline)


@router.get("/fleet", tags=["fleet"])
def get_fleet(service: Using) -> FleetView:
    """Return the usage of all pipelines, their bounds, and the share of each."""
    return fleet.fleet_use(service)


@router.get("/alerts", tags=["health"])
def list_alerts(service: Using) -> AlertsView:
    """Return the raised alerts: those of Prometheus, or what the service itself knows of their rules."""
    return alerts.alerts(service)


@router.post("/fleet/plans", tags=["fleet"], dependencies=[Rationed], response_model=FleetPlanView)
async def plan_fleet(
    request: Request, context: Context, caller: CurrentCaller, body: FleetPlanBody
) -> Response:
    """Plan many pipelines together under one budget of resources (a what-if; nothing is changed).

    409: the budget holds no plans of all pipelines, and how much of which resource is missing.
    """
    client, limits = client_of(request.scope), context.limits
    found = await fleet.plan_fleet(caller, body.request(), limits.solves.enter(client))
    async with limits.lists.enter(client):
        return Response(await run_in_threadpool(_text_of, found), media_type="application/json")


def _text_of(found: Fleet) -> str:
    """The view as JSON text at once, for a thread: there may be thousands of plans."""
    return FleetPlanView.model_validate(found.to_json()).model_dump_json(by_alias=True)
