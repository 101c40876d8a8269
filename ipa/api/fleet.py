"""Routes over all pipelines together: what they use, their forecasts, and plans under one budget of cores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ipa.api.bodies import Body, Name, Positive, RateRps, at_most
from ipa.api.gate import Asker
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.reading import Named, Using, known_rate
from ipa.api.services import Services
from ipa.forecast.monitor import ForecastTick, Monitor, monitor
from ipa.model.access import Operation
from ipa.model.decision import Mode, ReasonCode
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.forecast import Forecast
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.optimize.fleet.plan import Member
from ipa.optimize.problem import Compat
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation
from ipa.service.live import LiveState
from ipa.service.status import control_view

router = APIRouter(prefix="/v1", route_class=JsonRoute)
# More than one service keeps; a body of more is a mistake.
MOST_MEMBERS = 2000


@dataclass(frozen=True, slots=True)
class Expected:
    """What was seen and expected at one tick; `at` in RFC 3339, None is what was not known."""

    at: str
    rate_rps: float | None
    point_rps: float | None
    upper_rps: float | None


@dataclass(frozen=True, slots=True)
class ForecastView:
    """What is expected of a pipeline's load now, and how right that was lately.

    `forecast` (None before the first) names the rung that made it and why the rungs above it did not; the
    band is from its point to its upper quantile. `errors` is None before the first forecast can be judged.
    """

    pipeline: str
    at: str
    rate_rps: float | None
    forecast: Forecast | None
    errors: Monitor | None
    series: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What a pipeline takes of the fleet. `cores` is None where what runs was not seen.

    `latency_s` is at the percentile of its SLA, `sla_s`; None where it was not seen.
    `budget_cores` is its own bound, `share_ratio` its part of the cores that were seen of all pipelines.
    """

    pipeline: str
    mode: Mode
    paused: bool
    healthy: bool
    rate_rps: float | None
    forecast_upper_rps: float | None
    latency_s: float | None
    sla_s: float
    cores: float | None
    share_ratio: float | None
    budget_cores: float | None
    pas: float | None
    reason: ReasonCode | None


@dataclass(frozen=True, slots=True)
class FleetView:
    """All pipelines together. `cores` are those that were seen, `budget_cores` the sum of the pipelines'
    bounds: None where one of them has none.
    """

    at: str
    cores: float
    budget_cores: float | None
    pipelines: tuple[Share, ...]


class MemberBody(Body):
    """A pipeline of the fleet; without a rate it is planned for its forecast."""

    pipeline: Name
    rate_rps: RateRps | None = None
    objective: Name | None = None
    weight: Positive = 1.0
    priority: Annotated[
        int,
        Field(alias="class", ge=-1000, le=1000, strict=True, description="higher classes are served first"),
    ] = 0


class FleetPlanBody(Body):
    """A what-if over many pipelines; all of them where none are named."""

    budget_cores: Positive
    pipelines: Annotated[
        list[MemberBody], Field(max_length=MOST_MEMBERS, default_factory=list), at_most(MOST_MEMBERS)
    ]
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE


class ClassView(BaseModel):
    """What the pipelines of one class have together; `price_per_core` is what one more core would add."""

    priority: Annotated[int, Field(alias="class")]
    budget_cores: float
    cost_cores: float
    worth: float
    bound: float | None
    gap: float | None
    price_per_core: float
    termination: Termination


class MemberView(BaseModel):
    """What a pipeline of the fleet runs; `worth` is its objective times its weight."""

    weight: float
    priority: Annotated[int, Field(alias="class")]
    worth: float
    plan: Plan


class FleetPlanView(BaseModel):
    """The plans of most worth together within the budget, in the order asked."""

    budget_cores: float
    cost_cores: float
    worth: float
    termination: Termination
    solve_s: float
    classes: tuple[ClassView, ...]
    pipelines: tuple[MemberView, ...]


@router.get("/pipelines/{pipeline}/forecast", tags=["forecasts"])
def get_forecast(pipeline: Named, services: Using) -> ForecastView:
    """What is expected of the load now, which forecaster says so, and how right it was lately."""
    live = services.live(pipeline.name)
    return ForecastView(
        pipeline=pipeline.name,
        at=live.at,
        rate_rps=live.rate_rps,
        forecast=live.forecast,
        errors=_errors(live),
        series=tuple(
            Expected(each.at, each.rate_rps, each.forecast_rps, each.forecast_upper_rps)
            for each in live.series
        ),
    )


@router.get("/fleet", tags=["fleet"])
def get_fleet(services: Using) -> FleetView:
    """What all pipelines use, the bounds they have, and the share of each."""
    pipelines = [services.pipelines.get(name) for name in sorted(services.pipelines)]
    found = [(each, services.live(each.name)) for each in pipelines if each is not None]
    cores = sum(live.cost_cores or 0.0 for _, live in found)
    bounds = [pipeline.bounds.cores for pipeline, _ in found]
    known = [bound for bound in bounds if bound is not None]
    return FleetView(
        at=services.clock.now().isoformat(),
        cores=cores,
        budget_cores=sum(known) if len(known) == len(bounds) else None,
        pipelines=tuple(_share(services, pipeline, live, cores) for pipeline, live in found),
    )


@router.post("/fleet/plans", tags=["fleet"], dependencies=[Rationed], response_model=FleetPlanView)
async def plan_fleet(request: Request, services: Using, asker: Asker, body: FleetPlanBody) -> Response:
    """The plans that are worth most together under one budget of cores (a what-if; nothing is changed).

    409: the budget holds not even the cheapest plans, and how many cores are missing.
    """
    asked = body.pipelines or [MemberBody(pipeline=name) for name in sorted(services.pipelines)]
    for each in asked:
        if each.pipeline in services.pipelines:
            asker.must(Operation.WHAT_IF, services.pipelines[each.pipeline].namespace)

    def together() -> str:
        found = services.fleet(_members(services, body, asked), body.budget_cores)
        # As text at once, in the thread: there may be thousands of plans.
        return FleetPlanView.model_validate(found.to_json()).model_dump_json(by_alias=True)

    async with services.limits.solves.enter(client_of(request.scope)):
        return Response(await run_in_threadpool(together), media_type="application/json")


def _members(services: Services, body: FleetPlanBody, asked: list[MemberBody]) -> list[Member]:
    """InputError lists every pipeline that is not there, is there twice, or has no rate."""
    problems, members = [], []
    twice = {name for name, count in Counter(each.pipeline for each in asked).items() if count > 1}
    for at, each in enumerate(asked):
        pipeline = services.pipelines.get(each.pipeline)
        where = f"/pipelines/{at}"
        if pipeline is None or each.pipeline in twice:
            fault = "is there twice" if each.pipeline in twice else "does not exist"
            problems.append(Problem(f"pipeline {each.pipeline!r} {fault}", pointer=f"{where}/pipeline"))
            continue
        rate_rps = each.rate_rps or known_rate(services, pipeline)
        if not rate_rps:
            message = f"no load of {each.pipeline!r} was seen yet, so a rate must be given"
            problems.append(Problem(message, pointer=f"{where}/rate_rps"))
            continue
        try:
            members.append(_member(services, body, each, pipeline, rate_rps))
        except NotFoundError as error:
            problems.append(Problem(error.message, pointer=where))
    if problems:
        raise InputError("the fleet cannot be planned", problems=problems)
    if not members:
        raise InputError("there are no pipelines to plan", problems=[Problem("none", pointer="/pipelines")])
    return members


def _member(
    services: Services, body: FleetPlanBody, each: MemberBody, pipeline: Pipeline, rate_rps: float
) -> Member:
    problem = planning_problem(
        pipeline,
        services.profiles(pipeline.name),
        rate_rps,
        objective=each.objective,
        compat=body.compat,
        allocation=body.allocation,
    )
    return Member(problem, each.weight, each.priority)


def _share(services: Services, pipeline: Pipeline, live: LiveState, cores: float) -> Share:
    control = control_view(services.controls.control(pipeline.name, may_lag=True), services.clock.now())
    own = live.cost_cores
    return Share(
        pipeline=pipeline.name,
        mode=control.mode,
        paused=control.paused,
        healthy=not live.degraded,
        rate_rps=live.rate_rps,
        forecast_upper_rps=live.forecast.upper_rps if live.forecast else None,
        latency_s=live.latency_s,
        sla_s=pipeline.sla.latency_s,
        cores=own,
        share_ratio=own / cores if own is not None and cores else None,
        budget_cores=pipeline.bounds.cores,
        pas=live.pas,
        reason=live.reason,
    )


def _errors(live: LiveState) -> Monitor | None:
    if live.forecast is None:
        return None
    ticks = [
        ForecastTick(
            datetime.fromisoformat(each.at).timestamp(),
            each.rate_rps,
            each.forecast_rps,
            each.forecast_upper_rps,
        )
        for each in live.series
    ]
    return monitor(ticks, live.forecast.horizon_s)
