"""The worlds the service acts on: local processes, or a cluster, read and written or only read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from ipa.adapters.kube.backoff import Limits
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.dialects import Dialect
from ipa.adapters.prometheus.query_batching import Ask
from ipa.adapters.prometheus.server import start_metrics_server
from ipa.adapters.prometheus.shaped import ShapedMetrics
from ipa.bootstrap.options import ServeOptions
from ipa.control.ports import DecisionLog, Metrics, Workload
from ipa.model.errors import ConfigurationError, InfeasibleError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.policies.planning import plan_pipeline
from ipa.policies.table import shares_load
from ipa.settings import Settings
from ipa.targets.gitops.folder import Folder
from ipa.targets.gitops.repository import Branch, Repository
from ipa.targets.gitops.workload import GitOpsWorkload, Manifests, paths_faults
from ipa.targets.local.costs import LocalCosts
from ipa.targets.local.workload import LocalWorkload
from ipa.targets.seldon.layouts import KubeWorkload
from ipa.targets.seldon.ownership import OwningClient
from ipa.targets.seldon.split import is_split
from ipa.targets.simulated import simulated_worlds

SCRAPE_INTERVAL_S = 1.0


def world_of(
    settings: Settings,
    options: ServeOptions,
    pipelines: Mapping[str, Pipeline],
    profiles: Mapping[str, Mapping[str, StageProfile]],
    registry: CollectorRegistry,
    resources: ExitStack,
    client: KubeClient | None,
) -> tuple[Workload, Metrics, Mapping[str, str]]:
    """What runs, what measures it, and where requests go (local pipelines only)."""
    if client is not None:
        of_dialect = partial(_prometheus, settings, settings.prometheus_url, pipelines.values)
        metrics: Metrics = ShapedMetrics(of_dialect)
        workload: Workload = KubeWorkload(OwningClient(client, settings.install))
        endpoints: dict[str, str] = {}
    elif settings.target == "local":
        local = LocalWorkload(options.folder)
        resources.callback(local.stop)
        for name, pipeline in pipelines.items():
            local.start(pipeline, start_configs(settings, options, pipeline, profiles[name]))
        targets = [target for name in pipelines for target in local.scrape_targets(name)]
        server = start_metrics_server(
            targets, scrape_interval_s=SCRAPE_INTERVAL_S, folder=options.folder / "metrics"
        )
        resources.callback(server.stop)
        registry.register(LocalCosts(local, tuple(pipelines)))
        workload, metrics = local, _prometheus(settings, server.source, pipelines.values, Dialect.LOCAL)
        endpoints = {name: local.endpoint(name) for name in pipelines}
    elif settings.target == "simulated":
        starts = {
            name: start_configs(settings, options, it, profiles[name]) for name, it in pipelines.items()
        }
        worlds = simulated_worlds(options, pipelines, profiles, starts)
        workload, metrics, endpoints = worlds.workload, worlds.metrics, {}
    else:
        raise UsageError(f"target is 'local' or 'kubernetes', not {settings.target!r}")
    return workload, metrics, endpoints


def check_carried(settings: Settings, pipelines: Mapping[str, Pipeline], policy: str) -> None:
    """UsageError where the policy's plans have parts side by side, and the world runs one configuration."""
    if not shares_load(policy):
        return
    problems = []
    if settings.target == "local":
        problems.append(Problem("target local: one queue a stage serves one variant at a time"))
    else:
        split = [name for name, pipeline in pipelines.items() if is_split(pipeline)]
        problems += [Problem(f"pipeline {name!r} has the shape split, with one router") for name in split]
    if problems:
        raise UsageError(
            f"the policy {policy} runs several variants side by side, which is not carried here",
            hint="Use --policy ms+, which runs one at a time, or --target kubernetes with the shape single; "
            f"--shadow-policy {policy} says what it would do.",
            problems=problems,
        )


def kube_client_of(settings: Settings, resources: ExitStack) -> KubeClient | None:
    """The client of the target cluster, closed with the resources; None where the target is none."""
    if settings.target != "kubernetes":
        return None
    client = kube_client(settings)
    resources.callback(client.close)
    return client


def through_gitops(settings: Settings, cluster: Workload, decisions: DecisionLog) -> Workload:
    """The cluster, only read; what a GitOps tool takes from is written. ConfigurationError lists faults."""
    problems = [Problem(fault) for fault in gitops_faults(settings)]
    folder = Path(settings.gitops_dir)
    if problems:
        raise ConfigurationError("nothing can be written for a GitOps tool so", problems=problems)
    manifests: Manifests = Folder(folder)
    if settings.gitops_branch:
        branch = Branch(settings.gitops_branch, settings.gitops_remote, settings.gitops_author)
        manifests = Repository(folder, branch, settings.gitops_timeout_s)
    return GitOpsWorkload(cluster, manifests, settings.gitops_path, decisions.decision)


def gitops_faults(settings: Settings) -> Iterator[str]:
    """What is wrong with the settings of the GitOps mode."""
    if settings.actuation != "gitops":
        return
    yield from (f"IPA_GITOPS_PATH: {fault}" for fault in paths_faults(settings.gitops_path))
    if settings.target != "kubernetes":
        yield "IPA_ACTUATION=gitops needs the target kubernetes"
    if not settings.gitops_dir or not Path(settings.gitops_dir).is_dir():
        yield f"IPA_GITOPS_DIR {settings.gitops_dir!r} is no folder"
    if settings.gitops_remote and not settings.gitops_branch:
        yield "IPA_GITOPS_REMOTE needs IPA_GITOPS_BRANCH"


def _prometheus(
    settings: Settings, source: str | Ask, pipelines: Callable[[], Collection[Pipeline]], dialect: Dialect
) -> PrometheusMetrics:
    return PrometheusMetrics(
        source,
        settings.prometheus_timeout_s,
        settings.stale_after_s,
        dialect,
        namespace_label=settings.prometheus_namespace_label,
        pipelines=pipelines,
    )


def kube_client(settings: Settings, limits: Limits | None = None) -> KubeClient:
    """The client of the settings' cluster; ConfigurationError where it cannot be made."""
    if settings.kubeconfig:
        return KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s, limits=limits)
    return KubeClient.in_cluster(settings.kube_timeout_s, limits=limits)


def start_configs(
    settings: Settings, options: ServeOptions, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> tuple[StageConfig, ...]:
    """What a local pipeline starts with. InfeasibleError says what would make a plan for the start rate."""
    plan = plan_pipeline(
        pipeline,
        profiles,
        options.start_rate_rps,
        objective=options.objective,
        solver=settings.solver,
        deadline_s=settings.solver_deadline_s,
    )
    if not plan.configs:
        raise InfeasibleError(
            f"no plan of {pipeline.name!r} carries {options.start_rate_rps:g} rps",
            hint="; ".join(plan.relaxations),
        )
    return plan.configs
