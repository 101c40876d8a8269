"""Routes for experiments: simulations as jobs, with their progress and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import AcceleratorCounts, Body, Name, Positive
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.queries import Using
from ipa.model.errors import InputError, Problem
from ipa.policies.registry import POLICIES
from ipa.service import experiments
from ipa.service.experiment_report import ExperimentReport, html_of, json_of, markdown_of
from ipa.service.experiments import MOST_S, SEEDS, ExperimentCurves, ExperimentRequest, ExperimentView
from ipa.simulate.arrivals import WORKLOADS

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], route_class=JsonRoute)
MOST_REPEATS = 20
# As many as a figure can tell apart.
MOST_POLICIES = 6
# A rate takes some thirty bytes while it is kept.
KEPT_RATES = 600
# Seconds after which to look again; a run takes some seconds.
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
    """A pipeline under a load, controlled by a policy, in virtual time: one of `workload` and `rates_rps`.

    `policies` in place of `policy` compares them under the same requests, each with the first.
    `minutes` is how much of the workload is used, `times` multiplies its rates; `rates_rps` has one rate for
    each second. It is run with `repeats` seeds, from `seed` on. The cluster has `capacity_cores` and the
    `accelerators`, a count by kind such as `nvidia.com/gpu`; what is not given is unlimited.
    """

    pipeline: Name
    workload: Name | None = None
    # The first wrong rate is enough to say: there may be as many as seconds in a day.
    rates_rps: Annotated[list[Rate], Field(min_length=1, max_length=MOST_S, fail_fast=True)] | None = None
    policy: Name = "ours"
    policies: Annotated[list[Name], Field(min_length=1, max_length=MOST_POLICIES)] | None = None
    objective: Name | None = None
    minutes: Annotated[float, Field(ge=1e-3, le=MOST_S / 60, strict=True)] | None = None
    times: Annotated[float, Field(ge=1e-6, le=1e6, strict=True)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=SEEDS, strict=True)] = 0
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS, strict=True)] = 1
    spacing: Literal["poisson", "even", "burst"] = "poisson"
    forecaster: Name = "ladder"
    capacity_cores: Positive | None = None
    accelerators: AcceleratorCounts | None = None

    def request(self) -> ExperimentRequest:
        """The request of the use case; it is kept without rates that are too long to keep for many."""
        if self.policies is not None and "policy" in self.model_fields_set:
            problem = Problem("give one of policy and policies", pointer="/policies")
            raise InputError("the experiment cannot be run", problems=[problem])
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "policy"}
        values["policies"] = self.policies or [self.policy]
        is_long = self.rates_rps is not None and len(self.rates_rps) > KEPT_RATES
        asked = self.model_dump(mode="json", exclude_unset=True, exclude={"rates_rps"} if is_long else None)
        if is_long:
            asked["rates_s"] = len(self.rates_rps or ())
        return ExperimentRequest(asked=asked, **values)


class ReportFormat(StrEnum):
    """The format of a report."""

    HTML = "html"
    MD = "md"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ExperimentList:
    """The experiments that are kept, newest first; and the names of workloads and policies to choose from."""

    experiments: tuple[ExperimentView, ...]
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    policies: tuple[str, ...] = field(default_factory=lambda: tuple(POLICIES))


WRITTEN: Mapping[ReportFormat, tuple[str, Callable[[ExperimentReport], str]]] = {
    ReportFormat.HTML: ("text/html", html_of),
    ReportFormat.MD: ("text/markdown", markdown_of),
    ReportFormat.JSON: ("application/json", json_of),
}


@router.post("", status_code=202, dependencies=[Rationed])
def start_experiment(
    context: Context, caller: CurrentCaller, body: ExperimentBody, request: Request, response: Response
) -> ExperimentView:
    """Simulate a pipeline under a load, in a process of its own; its address (Location) shows its progress.

    429 if too many wait already. Experiments survive a restart of the service; one that ran begins again.
    """
    view = experiments.start(caller, context.jobs, body.request(), client_of(request.scope))
    response.headers["Location"] = f"/v1/experiments/{view.experiment_id}"
    return _shown(view, response)


@router.get("")
def list_experiments(service: Using, context: Context) -> ExperimentList:
    """The experiments that are kept, newest first."""
    return ExperimentList(experiments.listed(service, context.jobs))


@router.get("/{experiment_id}")
def get_experiment(
    experiment_id: ExperimentId, service: Using, context: Context, response: Response
) -> ExperimentView:
    """The progress and the result of an experiment. Retry-After says when to look again."""
    return _shown(experiments.experiment(service, context.jobs, experiment_id), response)


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
    """The report of a finished experiment: one self-contained page, or its twins for programs.

    The same experiment has the same bytes. A browser shows it in a sandbox: it can run and ask for nothing.
    """
    report = experiments.report(service, context.jobs, experiment_id)
    kind, written = WRITTEN[as_]
    name = f'filename="experiment-{experiment_id}.{as_.value}"'
    headers = {**SANDBOX, "Content-Disposition": f"{'attachment' if save else 'inline'}; {name}"}
    return Response(written(report), headers=headers, media_type=kind)


@router.get("/{experiment_id}/curves")
def get_curves(experiment_id: ExperimentId, service: Using, context: Context) -> ExperimentCurves:
    """Load, latency, attainment, cores and accuracy over time of each policy of a finished experiment."""
    return experiments.curves(service, context.jobs, experiment_id)


@router.post("/{experiment_id}:cancel")
def cancel_experiment(experiment_id: ExperimentId, context: Context, caller: CurrentCaller) -> ExperimentView:
    """End an experiment that waits or runs; one that ended stays as it is."""
    return experiments.cancel(caller, context.jobs, experiment_id)


@router.delete("/{experiment_id}", status_code=204, response_class=Response, response_model=None)
def delete_experiment(experiment_id: ExperimentId, context: Context, caller: CurrentCaller) -> None:
    """Cancel an experiment unless it has ended, and forget it."""
    experiments.forget(caller, context.jobs, experiment_id)


def _shown(view: ExperimentView, response: Response) -> ExperimentView:
    if not view.phase.is_end:
        response.headers["Retry-After"] = str(AGAIN_S)
    return view
