"""Routes for experiments: what `ipa simulate` does, as jobs with their progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from ipa.api.auth import Asker, Context
from ipa.api.bodies import Body, Name, Positive
from ipa.api.context import ApiContext
from ipa.api.jobs import UNKNOWN, Job, JobFault, JobPhase
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.queries import Using
from ipa.api.report_data import as_json, unpacked
from ipa.control.canonical import plain
from ipa.control.engine.guards import GuardSettings
from ipa.files import pipeline_to_mapping
from ipa.forecast.registry import FORECASTERS
from ipa.model.access import Operation
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.registry import POLICIES
from ipa.report.run import Run, html_of, markdown_of
from ipa.report.seeds import span
from ipa.service.service import Service
from ipa.service.visibility import Caller
from ipa.settings import Settings
from ipa.simulate.arrivals import WORKLOADS, workload_rates

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], route_class=JsonRoute)
# A day.
MOST_S = 86_400
# Some ten bytes each stay in memory until the run is over, and of one that waits a kilobyte meanwhile.
MOST_REQUESTS = 5_000_000
MOST_REPEATS = 20
# A rate is some thirty bytes while it is kept.
KEPT_RATES = 600
# They are below.
SEEDS = 2**32
# When to look again; a run takes some seconds.
AGAIN_S = 2
# No script runs in it, it can ask for nothing, and its origin is its own; a sandbox may not isolate itself.
SANDBOX = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "unsafe-none",
}
ExperimentId = Annotated[str, Path(description="the id that the answer to its POST gave")]
Rate = Annotated[float, Field(ge=0, le=1e9, strict=True, allow_inf_nan=False)]


class ExperimentBody(Body):
    """A pipeline under a load, kept by a policy, in virtual time: one of `workload` and `rates_rps`.

    `minutes` is how much of the workload, `times` multiplies its rates; `rates_rps` is a rate a second.
    `repeats` is how many seeds it runs with, `seed` and those that follow.
    """

    pipeline: Name
    workload: Name | None = None
    # The first rate that is none is enough to say: there may be as many as seconds in a day.
    rates_rps: Annotated[list[Rate], Field(min_length=1, max_length=MOST_S, fail_fast=True)] | None = None
    policy: Name = "ours"
    objective: Name | None = None
    minutes: Annotated[float, Field(ge=1e-3, le=MOST_S / 60, strict=True)] | None = None
    times: Annotated[float, Field(ge=1e-6, le=1e6, strict=True)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=SEEDS, strict=True)] = 0
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS, strict=True)] = 1
    spacing: Literal["poisson", "even", "burst"] = "poisson"
    forecaster: Name = "ladder"
    capacity_cores: Positive | None = None

    @property
    def load(self) -> str:
        """The load in words."""
        minutes = "" if self.minutes is None else f", {self.minutes:g} min"
        times = "" if self.times == 1 else f", × {self.times:g}"
        return f"{self.workload or 'rates of its own'}{minutes}{times}"

    def rates(self) -> tuple[float, ...]:
        """The rates by the second; InputError lists what is wrong with the load, the policy and the seeds."""
        problems = []
        if (self.workload is None) == (self.rates_rps is None):
            problems.append(Problem("give one of workload and rates_rps", pointer="/workload"))
        if self.workload is not None and self.workload not in WORKLOADS:
            message = f"there is no workload {self.workload!r}; there are: {', '.join(WORKLOADS)}"
            problems.append(Problem(message, pointer="/workload"))
        if self.policy not in POLICIES:
            message = f"there is no policy {self.policy!r}. {POLICIES.known(self.policy)}"
            problems.append(Problem(message, pointer="/policy"))
        if self.forecaster not in FORECASTERS:
            message = f"there is no forecaster {self.forecaster!r}. {FORECASTERS.known(self.forecaster)}"
            problems.append(Problem(message, pointer="/forecaster"))
        if self.seed + self.repeats > SEEDS:
            message = (
                f"seeds {span(self.seed, self.repeats)} do not all stay below {SEEDS}; "
                f"give fewer, or a seed of at most {SEEDS - self.repeats}"
            )
            problems.append(Problem(message, pointer="/repeats"))
        if problems:
            raise InputError("the experiment cannot be run", problems=problems)
        found: Sequence[float] = self.rates_rps or [
            float(rate) for rate in workload_rates(self.workload or "")
        ]
        if self.minutes is not None:
            found = found[: max(round(min(60 * self.minutes, MOST_S)), 1)]
        rates = tuple(self.times * rate for rate in found)
        self._check_requests(sum(rates))
        return rates

    def _check_requests(self, of_one: float) -> None:
        """Raise where all repeats have too many requests, of `of_one` each."""
        if self.repeats * of_one <= MOST_REQUESTS:
            return
        is_many = of_one <= MOST_REQUESTS
        each = f"{self.repeats} repeats of {of_one:.3g} requests" if is_many else f"{of_one:.3g} requests"
        message = f"{each} are more than the {MOST_REQUESTS} of one experiment"
        pointer = "/repeats" if is_many else "/times"
        raise InputError("the load is too large", problems=[Problem(message, pointer=pointer)])


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment: how far it is, and what came of it.

    `asked` is the request; in the place of more than 600 rates of its own it has `rates_s`, their number.
    `result` has the figures of `ipa simulate -o json`: with `repeats` their means over the seeds, and beside
    them `intervals`, half the width of the 95 % interval of each. `fault` says why there are none. `report`
    is where its report is.
    """

    experiment_id: str
    phase: JobPhase
    percent: int
    asked: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    result: dict[str, Any] | None
    fault: JobFault | None
    report: str | None


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ExperimentList:
    """The experiments that are known, newest first; and the names of what one can be of."""

    experiments: tuple[ExperimentView, ...]
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    policies: tuple[str, ...] = field(default_factory=lambda: tuple(POLICIES))


WRITTEN: Mapping[ReportFormat, tuple[str, Callable[[Run], str]]] = {
    ReportFormat.HTML: ("text/html", html_of),
    ReportFormat.MD: ("text/markdown", markdown_of),
    ReportFormat.JSON: ("application/json", as_json),
}


@router.post("", status_code=202, dependencies=[Rationed])
def start_experiment(
    context: Context, asker: Asker, body: ExperimentBody, request: Request, response: Response
) -> ExperimentView:
    """Simulate a pipeline under a load, in a process of its own; its address (Location) tells how far it is.

    429 where too many wait already. What is known of experiments ends with the service.
    """
    service = asker.service
    pipeline = service.pipeline(body.pipeline)
    asker.must(Operation.WHAT_IF, pipeline.namespace)
    pipeline.objective(body.objective)
    rates = body.rates()
    spec = spec_of(service.settings, pipeline, service.profiles(pipeline.name), body, rates)
    record = service.records.of(pipeline.name)
    job = context.jobs.submit(_asked(body), spec, record=record, client=client_of(request.scope))
    response.headers["Location"] = f"/v1/experiments/{job.job_id}"
    return _shown(job, response)


@router.get("")
def list_experiments(service: Using, context: Context) -> ExperimentList:
    """The experiments that are known, newest first."""
    return ExperimentList(tuple(_view(job) for job in context.jobs.jobs() if _is_seen(service, job)))


@router.get("/{experiment_id}")
def get_experiment(
    experiment_id: ExperimentId, service: Using, context: Context, response: Response
) -> ExperimentView:
    """How far an experiment is, and what came of it. Retry-After says when to look again."""
    return _shown(_job(service, context, experiment_id), response)


@router.get(
    "/{experiment_id}/report",
    response_class=Response,
    responses={200: {"description": "The report", "content": {kind: {} for kind, _ in WRITTEN.values()}}},
)
def get_report(
    experiment_id: ExperimentId,
    service: Using,
    context: Context,
    as_: Annotated[ReportFormat, Query(alias="as")] = ReportFormat.HTML,
    save: Annotated[bool, Query(description="as a file to keep, instead of to look at")] = False,
) -> Response:
    """The report of an experiment that is done: one page that needs nothing else, or its twins for programs.

    The same experiment has the same bytes. A browser shows it in a sandbox: it can run and ask for nothing.
    """
    job = _job(service, context, experiment_id)
    if job.report is None:
        raise NotFoundError(
            f"experiment {experiment_id!r} has no report; it is {job.phase.value}",
            hint="One that is done has: GET /v1/experiments/ID says how far it is.",
        )
    kind, written = WRITTEN[as_]
    name = f'filename="experiment-{job.job_id}.{as_.value}"'
    headers = {**SANDBOX, "Content-Disposition": f"{'attachment' if save else 'inline'}; {name}"}
    return Response(written(unpacked(job.report)), headers=headers, media_type=kind)


@router.post("/{experiment_id}:cancel")
def cancel_experiment(experiment_id: ExperimentId, context: Context, asker: Asker) -> ExperimentView:
    """End an experiment that waits or runs; one that ended stays as it is."""
    _check_may(asker, context, experiment_id)
    return _view(context.jobs.cancel(experiment_id))


@router.delete("/{experiment_id}", status_code=204, response_class=Response, response_model=None)
def delete_experiment(experiment_id: ExperimentId, context: Context, asker: Asker) -> None:
    """Cancel an experiment where it had not ended, and forget it."""
    _check_may(asker, context, experiment_id)
    context.jobs.forget(experiment_id)


def spec_of(
    settings: Settings,
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    body: ExperimentBody,
    rates_rps: Sequence[float],
) -> dict[str, Any]:
    """What the process of the experiment is told: the run with the settings of the service."""
    guards = {
        each.name: getattr(settings, each.name)
        for each in fields(GuardSettings)
        if hasattr(settings, each.name)
    }
    return {
        "pipeline": pipeline_to_mapping(pipeline),
        "profiles": plain(list(profiles.values())),
        "target": settings.target,
        "memory_mb": settings.experiment_memory_mb,
        "rates_rps": list(rates_rps),
        "load": body.load,
        "policy": body.policy,
        "objective": body.objective,
        "seed": body.seed,
        "repeats": body.repeats,
        "spacing": body.spacing,
        "capacity_cores": body.capacity_cores,
        "guards": guards,
        "forecast": {
            "name": body.forecaster,
            "window_s": settings.window_s,
            "horizon_s": settings.horizon_s,
            "quantile": settings.forecast_quantile,
            "smooth_s": settings.smooth_s,
        },
    }


def _asked(body: ExperimentBody) -> dict[str, Any]:
    """The request as it is kept: without rates that are too long to be kept of many."""
    long = body.rates_rps is not None and len(body.rates_rps) > KEPT_RATES
    asked = body.model_dump(mode="json", exclude_unset=True, exclude={"rates_rps"} if long else None)
    return {**asked, "rates_s": len(body.rates_rps or ())} if long else asked


def _is_seen(service: Service, job: Job) -> bool:
    return service.sees(job.asked["pipeline"], job.key)


def _job(service: Service, context: ApiContext, experiment_id: str) -> Job:
    """That experiment; NotFoundError also where its pipeline may not be seen."""
    job = context.jobs.job(experiment_id)
    if not _is_seen(service, job):
        raise NotFoundError(f"there is no experiment {experiment_id!r}", hint=UNKNOWN)
    return job


def _check_may(caller: Caller, context: ApiContext, experiment_id: str) -> None:
    """Who may start one of a pipeline may also end it."""
    name = _job(caller.service, context, experiment_id).asked["pipeline"]
    caller.must(Operation.WHAT_IF, caller.service.pipelines[name].namespace)


def _shown(job: Job, response: Response) -> ExperimentView:
    if not job.phase.is_end:
        response.headers["Retry-After"] = str(AGAIN_S)
    return _view(job)


def _view(job: Job) -> ExperimentView:
    return ExperimentView(
        experiment_id=job.job_id,
        phase=job.phase,
        percent=job.percent,
        asked=dict(job.asked),
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        result=None if job.result is None else dict(job.result),
        fault=job.fault,
        report=None if job.report is None else f"/v1/experiments/{job.job_id}/report",
    )
