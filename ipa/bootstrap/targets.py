"""The targets: the settings' own, checks of what it supports, and what verbs need of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.transport import BACKOFF, Backoff
from ipa.files import load_profiles
from ipa.model.decision import Mode
from ipa.model.errors import InfeasibleError, InputError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.probe import V2, ProbeRequest, ProbeResult, RequestAddress
from ipa.model.profile import StageProfile
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.policies.table import shares_load
from ipa.settings import Settings
from ipa.simulate.realtime import Simulated
from ipa.targets.base import ImportRequest, Target, check_honoured, target_named, targets
from ipa.targets.gitops import base_checkout, gitops_faults

if TYPE_CHECKING:
    from ipa.profiling.measure import MeasurementBench

__all__ = [
    "ImportRequest",
    "ServeOptions",
    "Simulated",
    "Target",
    "base_checkout",
    "check_carried",
    "check_honoured",
    "default_target",
    "find_target",
    "infer_at",
    "measurement_bench",
    "target_named",
    "targets",
]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of `ipa serve`; a local pipeline starts with the plan for `start_rate_rps`."""

    names: tuple[str, ...] = ()
    policy: str = "ours"
    objective: str | None = None
    mode: Mode | None = None
    start_rate_rps: float = 1.0
    folder: Path = Path("runs/local")
    # A second policy that only says what it would do.
    shadow_policy: str | None = None
    # The world of `ipa demo`.
    simulated: Simulated | None = None


def find_target(settings: Settings) -> Target:
    """The target of the settings; UsageError lists the existing ones."""
    return target_named(settings.target)


def default_target(pipeline: Pipeline) -> Target:
    """The first target whose section the pipeline has; else `local`."""
    placed = (each for each in targets() if each.placed(pipeline))
    return next((each for each in placed if each.sections.pipeline is not None), target_named("local"))


def cluster_target(settings: Settings, pipeline: Pipeline | None = None) -> Target:
    """A target on Kubernetes: one whose section the pipeline has, else that of the settings, else any."""
    found = [each for each in (find_target(settings), *targets()) if each.on_kubernetes]
    return next((each for each in found if pipeline and each.placed(pipeline)), found[0])


def check_carried(target: Target, pipelines: Iterable[Pipeline], policy: str) -> None:
    """Check that the target and the policy support everything that the pipelines specify.

    UsageError if the policy's plans have parts side by side and the target runs one configuration at a time,
    or the policy does not support `sets`; InputError lists keys that have no effect on the target.
    """
    pipelines = list(pipelines)
    check_sharing(target, pipelines, policy)
    asking = [it.name for it in pipelines if it.sets]
    if asking and not shares_load(policy):
        raise UsageError(
            f"`sets` of {', '.join(asking)} has no effect: the policy {policy} runs one variant of a stage",
            hint="Use the policy infadapter, or leave out `sets`.",
        )
    check_honoured(target, pipelines)


def check_sharing(target: Target, pipelines: Iterable[Pipeline], policy: str) -> None:
    """UsageError if the policy's plans have parts side by side and the target runs one configuration."""
    alone = [pipeline for pipeline in pipelines if target.serving(pipeline).most_parts == 1]
    if alone and shares_load(policy):
        raise UsageError(
            f"the policy {policy} runs several variants side by side, which this target cannot do",
            hint="Use --policy ms+, which runs one at a time, or --target kubernetes with the shape single; "
            f"--shadow-policy {policy} says what it would do.",
            problems=[
                Problem(f"pipeline {it.name!r}: {target.place(it)} runs one configuration at a time")
                for it in alone
            ],
        )


def actuation_faults(settings: Settings) -> Iterator[str]:
    """Problems of the settings for actuation."""
    yield from gitops_faults(settings)
    if settings.actuation == "gitops" and not find_target(settings).on_kubernetes:
        yield "IPA_ACTUATION=gitops needs a target that writes a cluster: kubernetes or deployments"


def usable_profiles(settings: Settings, name: str) -> Mapping[str, StageProfile]:
    """The profiles of the files; none if they cannot be used: then only accuracies are unknown."""
    try:
        return load_profiles(settings.profiles_dir, name)
    except (InputError, NotFoundError):
        return {}


@contextmanager
def measurement_bench(pipeline: Pipeline, url: str = "") -> Iterator[MeasurementBench]:
    """A context with model servers of the pipeline's variants on this machine, which end with it.

    With a `url`: servers that already run there. UsageError if it is not a URL.
    """
    if url:
        from ipa.targets.requests import ServedBench

        yield ServedBench(url)
        return
    from ipa.targets.local.workload import Bench

    with TemporaryDirectory(prefix="ipa-profile-") as folder, closing(Bench(pipeline, Path(folder))) as bench:
        yield bench


def infer_at(address: RequestAddress, body: Mapping[str, Any], timeout_s: float) -> ProbeResult:
    """The result of the request, sent to the address of a pipeline over HTTP.

    UsageError: its requests have no URL, or a protocol other than V2.
    """
    from ipa.targets.requests import probe_http

    if not address.url:
        raise UsageError(f"there is no URL to send the request to: {address.note}")
    if address.protocol != V2:
        raise UsageError(
            f"{address.url} speaks protocol {address.protocol}, not {V2}",
            hint="Use `ipa probe PIPELINE --request FILE`, which sends it in the protocol of its file.",
        )
    return probe_http(ProbeRequest(body, timeout_s), address.url)


def kube_client(settings: Settings, backoff: Backoff = BACKOFF) -> KubeClient:
    """The client of the settings' cluster; ConfigurationError if it cannot be made."""
    return KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s, backoff=backoff)


def start_configs(
    settings: Settings, options: ServeOptions, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> tuple[StageConfig, ...]:
    """The initial configuration of a pipeline. InfeasibleError names changes that make the rate feasible."""
    problem = planning_problem(pipeline, profiles, options.start_rate_rps, objective=options.objective)
    plan = solve(problem, settings.solver, settings.solver_deadline_s)
    if not plan.configs:
        raise InfeasibleError(
            f"no plan of {pipeline.name!r} carries {options.start_rate_rps:g} rps",
            hint="; ".join(plan.relaxations),
        )
    return plan.configs
