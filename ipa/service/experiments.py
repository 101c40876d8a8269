"""Experiments: start a simulation of a pipeline as a job, follow it, end it, and read its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ipa.control.canonical import plain
from ipa.control.jobs import Job, JobFault, JobPhase
from ipa.files import pipeline_to_mapping
from ipa.forecast.registry import FORECASTERS
from ipa.model.access import Operation
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.registry import POLICIES
from ipa.report.stats import span
from ipa.service.experiment_report import ExperimentReport, PolicyCurves, unpacked
from ipa.service.job_queue import UNKNOWN, JobQueue
from ipa.service.service import Service
from ipa.service.simulation import forecast_values, guard_values
from ipa.service.visibility import Caller
from ipa.settings import Settings
from ipa.simulate.arrivals import WORKLOADS, workload_rates

# A day.
MOST_S = 86_400
# A request takes some ten bytes until its run is over, and a waiting one a kilobyte meanwhile.
MOST_REQUESTS = 5_000_000
# Seeds are smaller.
SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class ExperimentRequest:
    """A simulation of a pipeline under a load: one of `workload` and `rates_rps`.

    Each of the policies controls it under the same requests. `minutes` is how much of the workload is used,
    `times` multiplies its rates; `rates_rps` has one rate for each second. It is run with `repeats` seeds,
    from `seed` on. The cluster has `capacity_cores` and the `accelerators`, a count by kind; what is not
    given is unlimited. `asked` is the request as shown.
    """

    pipeline: str
    asked: Mapping[str, Any]
    workload: str | None = None
    rates_rps: Sequence[float] | None = None
    policies: Sequence[str] = ("ours",)
    objective: str | None = None
    minutes: float | None = None
    times: float = 1.0
    seed: int = 0
    repeats: int = 1
    spacing: str = "poisson"
    forecaster: str = "ladder"
    capacity_cores: float | None = None
    accelerators: Mapping[str, int] | None = None

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
        for at, policy in enumerate(self.policies):
            pointer = f"/policies/{at}" if "policies" in self.asked else "/policy"
            if policy not in POLICIES:
                message = f"there is no policy {policy!r}. {POLICIES.known(policy)}"
                problems.append(Problem(message, pointer=pointer))
            elif policy in self.policies[:at]:
                problems.append(Problem(f"policy {policy!r} is there twice", pointer=pointer))
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
        """InputError if all runs, of `of_one` requests each, have too many requests."""
        policies = len(self.policies)
        if policies * self.repeats * of_one <= MOST_REQUESTS:
            return
        words, pointer = f"{of_one:.3g} requests", "/times"
        if of_one <= MOST_REQUESTS and self.repeats > 1:
            words, pointer = f"{self.repeats} repeats of {words}", "/repeats"
        if self.repeats * of_one <= MOST_REQUESTS:
            words, pointer = f"{policies} policies with {words}", "/policies"
        message = f"{words} are more than the {MOST_REQUESTS} of one experiment"
        raise InputError("the load is too large", problems=[Problem(message, pointer=pointer)])


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The outcome of one policy of an experiment.

    `difference` is its figures minus those of the first policy, seed by seed; with several seeds
    `half_width` is half of the 95 % interval of each. A policy that cannot control the pipeline has a `fault`
    in place of its result.
    """

    policy: str
    result: dict[str, Any] | None
    difference: dict[str, dict[str, float | None]] | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class ExperimentCurves:
    """The runs of an experiment over time, of its representative seed.

    Latencies are at the `percentile` of the SLA.
    """

    experiment_id: str
    seed: int
    sla_s: float
    percentile: float
    runs: tuple[PolicyCurves, ...]


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment: its progress and its result.

    `asked` is the request; in place of more than 600 rates of its own it has `rates_s`, their number.
    `result` has the figures of `ipa simulate -o json`: with `repeats` their means over the seeds, and beside
    them `intervals`, half the width of the 95 % interval of each. `fault` says why there are none. `report`
    is the address of its report, about all policies. The result is that of the first policy; `policies` has
    that of each.
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
    policies: tuple[PolicyView, ...] = ()


def start(caller: Caller, jobs: JobQueue, request: ExperimentRequest, client: str) -> ExperimentView:
    """Queue the experiment of that client.

    Errors: NotFoundError (pipeline, objective), ForbiddenError, InputError, BusyError (too many wait).
    """
    service = caller.service
    pipeline = service.pipeline(request.pipeline)
    caller.must(Operation.WHAT_IF, pipeline.namespace)
    pipeline.objective(request.objective)
    spec = specification(
        service.settings, pipeline, service.profiles(pipeline.name), request, request.rates()
    )
    record = service.records.of(pipeline.name)
    return experiment_view(jobs.submit(request.asked, spec, record=record, client=client))


def listed(service: Service, jobs: JobQueue) -> tuple[ExperimentView, ...]:
    """The experiments about visible pipelines, newest first."""
    return tuple(experiment_view(job) for job in jobs.jobs() if _is_seen(service, job))


def experiment(service: Service, jobs: JobQueue, experiment_id: str) -> ExperimentView:
    """The experiment of that id; NotFoundError also if its pipeline may not be seen."""
    return experiment_view(_job(service, jobs, experiment_id))


def report(service: Service, jobs: JobQueue, experiment_id: str) -> ExperimentReport:
    """The data of the experiment's report; NotFoundError if there is none."""
    job = _job(service, jobs, experiment_id)
    if job.report is None:
        raise NotFoundError(
            f"experiment {job.job_id!r} has no report; it is {job.phase.value}",
            hint="One that is done has: GET /v1/experiments/ID says how far it is.",
        )
    return unpacked(job.report)


def curves(service: Service, jobs: JobQueue, experiment_id: str) -> ExperimentCurves:
    """The experiment's runs over time; NotFoundError unless it is done."""
    found = report(service, jobs, experiment_id)
    pipeline = service.pipelines[_job(service, jobs, experiment_id).asked["pipeline"]]
    return ExperimentCurves(experiment_id, found.seed, found.sla_s, pipeline.sla.percentile, found.curves)


def cancel(caller: Caller, jobs: JobQueue, experiment_id: str) -> ExperimentView:
    """End an experiment that waits or runs; one that ended stays as it is."""
    _check_may(caller, jobs, experiment_id)
    return experiment_view(jobs.cancel(experiment_id))


def forget(caller: Caller, jobs: JobQueue, experiment_id: str) -> None:
    """Cancel the experiment unless it has ended, and forget it."""
    _check_may(caller, jobs, experiment_id)
    jobs.forget(experiment_id)


def specification(
    settings: Settings,
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    request: ExperimentRequest,
    rates_rps: Sequence[float],
) -> dict[str, Any]:
    """The run that the process of the experiment simulates, with the settings of the service, in JSON."""
    return {
        "pipeline": pipeline_to_mapping(pipeline),
        "profiles": plain(list(profiles.values())),
        "target": settings.target,
        "memory_mb": settings.experiment_memory_mb,
        "rates_rps": list(rates_rps),
        "load": request.load,
        "policies": list(request.policies),
        "objective": request.objective,
        "seed": request.seed,
        "repeats": request.repeats,
        "spacing": request.spacing,
        "capacity_cores": request.capacity_cores,
        "accelerators": None if request.accelerators is None else dict(request.accelerators),
        "guards": guard_values(settings),
        "forecast": forecast_values(settings, request.forecaster, pipeline.sla.percentile),
    }


def experiment_view(job: Job) -> ExperimentView:
    """The job as the API shows it."""
    result = None if job.result is None else dict(job.result)
    address = None if job.report is None else f"/v1/experiments/{job.job_id}/report"
    policies = None if result is None else result.pop("policies", None)
    if result is not None and policies is None:
        policies = [{"policy": result["policy"], "result": result, "difference": None, "fault": None}]
    return ExperimentView(
        experiment_id=job.job_id,
        phase=job.phase,
        percent=job.percent,
        asked=dict(job.asked),
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        result=result,
        fault=job.fault,
        report=address,
        policies=tuple(PolicyView(**each) for each in policies or ()),
    )


def _is_seen(service: Service, job: Job) -> bool:
    return service.sees(job.asked["pipeline"], job.key)


def _job(service: Service, jobs: JobQueue, experiment_id: str) -> Job:
    job = jobs.job(experiment_id)
    if not _is_seen(service, job):
        raise NotFoundError(f"there is no experiment {experiment_id!r}", hint=UNKNOWN)
    return job


def _check_may(caller: Caller, jobs: JobQueue, experiment_id: str) -> None:
    """ForbiddenError unless the caller could start an experiment with the same pipeline."""
    name = _job(caller.service, jobs, experiment_id).asked["pipeline"]
    caller.must(Operation.WHAT_IF, caller.service.pipelines[name].namespace)
