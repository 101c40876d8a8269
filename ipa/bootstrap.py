"""The composition root: the only file that names concrete adapters."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from ipa.adapters.files import load_pipelines, load_profiles
from ipa.adapters.forecasting import Sight, sight_of
from ipa.adapters.gitops.folder import Folder
from ipa.adapters.gitops.repository import Branch, Repository
from ipa.adapters.gitops.workload import GitOpsWorkload, Manifests, paths_faults
from ipa.adapters.kube.backoff import Backoff, Limits
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.health import KubeHealth
from ipa.adapters.kube.lease import LeaseLeadership, LeasePlace, TermLeadership
from ipa.adapters.kube.ownership import OwningClient
from ipa.adapters.kube.shapes import KubeWorkload
from ipa.adapters.kube.watchers import Watchers
from ipa.adapters.local.costs import LocalCosts
from ipa.adapters.local.workload import LocalWorkload
from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.publish import Publisher
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.dialects import Dialect
from ipa.adapters.prometheus.server import start_metrics_server
from ipa.adapters.prometheus.shaped import ShapedMetrics
from ipa.adapters.solvers.supervised import supervised
from ipa.adapters.store.store import Store, open_store
from ipa.control.beside import beside
from ipa.control.clock import StopSignal, SystemClock
from ipa.control.election import ALONE, Standing, Times
from ipa.control.guards import GuardSettings
from ipa.control.loop import ControlLoop, Hook, World
from ipa.control.ports import AlwaysLeading, DecisionLog, Metrics, NoEvents, Workload
from ipa.model.decision import Mode
from ipa.model.errors import ConfigurationError, InfeasibleError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Pipeline, at_cluster
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE
from ipa.policies.base import Policy
from ipa.policies.planning import plan_pipeline
from ipa.policies.table import PolicyInputs, make_policy
from ipa.settings import Settings
from ipa.simulate.plancheck import with_checker

# What a policy is made of, and itself.
Chosen = tuple[PolicyInputs, Policy]
SCRAPE_INTERVAL_S = 1.0
# A change in the cluster brings a tick forward; at most one in this part of an interval.
WAKE_GAP_RATIO = 0.25
# Which namespace a pod is in.
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `ipa serve` was asked for; a local pipeline starts with the plan for `start_rate_rps`."""

    names: tuple[str, ...] = ()
    policy: str = "ours"
    objective: str | None = None
    mode: Mode | None = None
    start_rate_rps: float = 1.0
    folder: Path = Path("runs/local")
    # A second policy that only says what it would do.
    shadow_policy: str | None = None


@dataclass(frozen=True, slots=True)
class App:
    """Everything that runs: the loops, the store and the world they act on. `close` ends what was started."""

    settings: Settings
    pipelines: Mapping[str, Pipeline]
    profiles: Mapping[str, Mapping[str, StageProfile]]
    loops: Mapping[str, ControlLoop]
    endpoints: Mapping[str, str]
    store: Store
    registry: CollectorRegistry
    clock: SystemClock
    stop: StopSignal
    resources: ExitStack
    # None where the service runs alone.
    leadership: LeaseLeadership | None = None
    # The loops of the policy that only says what it would do, by pipeline.
    beside: Mapping[str, ControlLoop] = field(default_factory=dict)

    def standing(self) -> Standing:
        """Whether this replica leads, and who does where it does not."""
        return self.leadership.standing() if self.leadership else ALONE

    def hand_over(self, settled: Callable[[], bool]) -> None:
        """Write no more, and let another replica lead at once where no write is under way."""
        if self.leadership is not None:
            self.leadership.close(settled)

    def close(self) -> None:
        """Stop the loops, then everything they needed, in reverse order of starting."""
        self.stop.set()
        self.resources.close()


def build(settings: Settings, options: ServeOptions) -> App:
    """The service, its pipelines running and its loops not yet started.

    Call it from a thread that lives as long as the service: what it starts ends with that thread. Errors:
    InputError (files), NotFoundError (a pipeline by name), UsageError (target, policy), InfeasibleError (the
    start rate), ConfigurationError, UnavailableError.
    """
    pipelines = _chosen(load_pipelines(settings.pipelines_dir), options.names)
    if settings.target == "kubernetes":
        pipelines = {name: at_cluster(pipeline) for name, pipeline in pipelines.items()}
    stop = StopSignal()
    clock = SystemClock(stop)
    registry = CollectorRegistry()
    with ExitStack() as resources:
        store = open_store(settings.store_url)
        resources.callback(store.close)
        profiles = {name: _profiles(settings, store, pipeline) for name, pipeline in pipelines.items()}
        if options.mode is not None:
            for name in pipelines:
                store.set_control(name, replace(store.control(name), mode=options.mode))
        # Before anything is started: a name that is wrong is said at once.
        inputs = {name: _inputs(settings, options, it, profiles[name]) for name, it in pipelines.items()}
        chosen = {name: _policy(options.policy, it) for name, it in inputs.items()}
        other = options.shadow_policy
        shadows = {name: _policy(other, it) for name, it in inputs.items()} if other else {}
        client = _kube_client_of(settings, resources)
        workload, metrics, endpoints = _world(
            settings, options, pipelines, profiles, registry, resources, client
        )

        def wake_all() -> None:
            for loop in loops.values():
                loop.wake()

        leadership = _leadership(settings, wake_all, resources)
        # Where a GitOps tool writes the cluster, nothing at all of it is ours to write.
        events = KubeEvents(client, clock) if client and settings.actuation == "cluster" else None
        leads = leadership or AlwaysLeading()
        if settings.actuation == "gitops":
            workload = _through_gitops(settings, workload, store)
        world = World(clock, metrics, workload, store, store, leads, events or NoEvents())
        catalogue = Catalogue(registry, tuple(pipelines.values()))
        if leadership is not None:
            catalogue.leader.set_function(leadership.leading)
        publisher = Publisher(catalogue)
        sight = sight_of(settings, profiles)
        loops = {
            name: _loop(settings, sight, each, _own(world, leadership), (publisher,), stop.linked())
            for name, each in chosen.items()
        }
        others = {
            name: _loop_beside(settings, sight, each, _own(world, leadership), stop.linked())
            for name, each in shadows.items()
        }
        if client and events:
            gap_s = WAKE_GAP_RATIO * settings.tick_s
            watchers = Watchers(
                client, pipelines.values(), lambda name: loops[name].wake(), gap_s=gap_s, stop=stop
            )
            registry.register(KubeHealth(client, events, watchers.watchers))
            watchers.start()
            resources.callback(watchers.close)
        return App(
            settings=settings,
            pipelines=pipelines,
            profiles=profiles,
            loops=loops,
            endpoints=endpoints,
            store=store,
            registry=registry,
            clock=clock,
            stop=stop,
            resources=resources.pop_all(),
            leadership=leadership,
            beside=others,
        )


def _chosen(found: Mapping[str, Pipeline], names: Sequence[str]) -> dict[str, Pipeline]:
    unknown = [name for name in names if name not in found]
    if unknown:
        known = ", ".join(sorted(found)) or "none"
        raise NotFoundError(f"there is no pipeline {', '.join(unknown)}", hint=f"There are: {known}")
    return {name: found[name] for name in names or sorted(found)}


def _profiles(settings: Settings, store: Store, pipeline: Pipeline) -> Mapping[str, StageProfile]:
    """The profiles of the files, kept in the store as newest; the store's where there are no files."""
    for profile in load_profiles(settings.profiles_dir, pipeline.name).values():
        store.save_profile(profile)
    return store.profiles(pipeline.name)


def _inputs(
    settings: Settings, options: ServeOptions, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> PolicyInputs:
    return PolicyInputs(
        pipeline,
        profiles,
        options.objective,
        settings.solver,
        settings.solver_deadline_s,
        supervised,
        DEPLOYMENT if settings.target == "kubernetes" else SIDE_BY_SIDE,
    )


def _policy(name: str, inputs: PolicyInputs) -> Chosen:
    checked = with_checker(name, inputs)
    return checked, make_policy(name, checked)


def _loop_beside(
    settings: Settings, sight: Sight, chosen: Chosen, world: World, waker: threading.Event
) -> ControlLoop:
    """The loop of a policy that only says what it would do."""
    inputs, policy = chosen
    pipeline, seen = beside(world, inputs.pipeline, policy.name)
    return _loop(settings, sight, (replace(inputs, pipeline=pipeline), policy), seen, (), waker)


def _loop(
    settings: Settings,
    sight: Sight,
    chosen: Chosen,
    world: World,
    hooks: Sequence[Hook],
    waker: threading.Event,
) -> ControlLoop:
    inputs, policy = chosen
    return ControlLoop(
        inputs.pipeline,
        replace(world, clock=SystemClock(waker)),
        policy=policy,
        predict=inputs.predictor(),
        forecaster=sight.forecaster,
        settings=GuardSettings(
            tick_s=settings.tick_s,
            stale_after_s=settings.stale_after_s,
            down_after_ticks=settings.down_after_ticks,
            tolerance_ratio=settings.tolerance_ratio,
            max_step_replicas=settings.max_step_replicas,
            rollout_deadline_s=settings.rollout_deadline_s,
            quarantine_s=settings.quarantine_s,
            max_utilisation_ratio=settings.max_utilisation_ratio,
            crowded_ticks=settings.crowded_ticks,
            crowded_hold_s=settings.crowded_hold_s,
        ),
        window_s=sight.window_s,
        run_id=uuid.uuid4().hex[:8],
        on_decision=hooks,
        waker=waker,
    )


def _world(
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
        metrics: Metrics = ShapedMetrics(partial(_prometheus, settings, settings.prometheus_url))
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
        workload, metrics = local, _prometheus(settings, server.url, Dialect.LOCAL)
        endpoints = {name: local.endpoint(name) for name in pipelines}
    else:
        raise UsageError(f"target is 'local' or 'kubernetes', not {settings.target!r}")
    return workload, metrics, endpoints


def _kube_client_of(settings: Settings, resources: ExitStack) -> KubeClient | None:
    if settings.target != "kubernetes":
        return None
    client = kube_client(settings)
    resources.callback(client.close)
    return client


def _through_gitops(settings: Settings, cluster: Workload, decisions: DecisionLog) -> Workload:
    """The cluster, only read; what a GitOps tool takes from is written. ConfigurationError lists faults."""
    problems = [Problem(f"IPA_GITOPS_PATH: {fault}") for fault in paths_faults(settings.gitops_path)]
    if settings.target != "kubernetes":
        problems.append(Problem("IPA_ACTUATION=gitops needs the target kubernetes"))
    folder = Path(settings.gitops_dir)
    if not settings.gitops_dir or not folder.is_dir():
        problems.append(Problem(f"IPA_GITOPS_DIR {settings.gitops_dir!r} is no folder"))
    if settings.gitops_remote and not settings.gitops_branch:
        problems.append(Problem("IPA_GITOPS_REMOTE needs IPA_GITOPS_BRANCH"))
    if problems:
        raise ConfigurationError("nothing can be written for a GitOps tool so", problems=problems)
    manifests: Manifests = Folder(folder)
    if settings.gitops_branch:
        branch = Branch(settings.gitops_branch, settings.gitops_remote, settings.gitops_author)
        manifests = Repository(folder, branch, settings.gitops_timeout_s)
    return GitOpsWorkload(cluster, manifests, settings.gitops_path, decisions.decision)


def _prometheus(settings: Settings, url: str, dialect: Dialect) -> PrometheusMetrics:
    return PrometheusMetrics(
        url,
        settings.prometheus_timeout_s,
        settings.stale_after_s,
        dialect,
        namespace_label=settings.prometheus_namespace_label,
    )


def _own(world: World, leadership: LeaseLeadership | None) -> World:
    """The world of one loop, which is told when another replica may have led since it looked last."""
    return replace(world, leadership=TermLeadership(leadership)) if leadership else world


def _leadership(
    settings: Settings, on_lead: Callable[[], None], resources: ExitStack
) -> LeaseLeadership | None:
    """The part this replica takes in the election, not yet started; None where there is none."""
    in_pod = settings.target == "kubernetes" and not settings.kubeconfig
    if settings.leader_election == "off" or (settings.leader_election == "auto" and not in_pod):
        return None
    times = Times(settings.lease_s, settings.lease_renew_deadline_s, settings.lease_retry_s)
    problems = [Problem(fault) for fault in times.faults()]
    namespace = settings.lease_namespace
    if settings.target != "kubernetes":
        problems.append(Problem("IPA_LEADER_ELECTION=on needs the target kubernetes"))
    elif not namespace and in_pod and POD_NAMESPACE.is_file():
        namespace = POD_NAMESPACE.read_text(encoding="utf-8").strip()
    elif not namespace:
        problems.append(Problem("IPA_LEASE_NAMESPACE is needed outside of a pod"))
    if problems:
        raise ConfigurationError("no leader can be elected with these settings", problems=problems)
    # A client of its own: renewals do not wait for what else the service asks, nor for its pushback. One call
    # that hangs leaves time for another before the deadline.
    limits = Limits(backoff=Backoff(longest_s=settings.lease_retry_s))
    timeout_s = min(settings.kube_timeout_s, settings.lease_renew_deadline_s / 2)
    client = kube_client(replace(settings, kube_timeout_s=timeout_s), limits)
    resources.callback(client.close)
    name = settings.lease_identity or socket.gethostname()
    identity = f"{name}_{uuid.uuid4().hex[:8]}"
    place = LeasePlace(namespace, settings.lease_name or f"{settings.install}-serving")
    return LeaseLeadership(client, place, identity, times, on_lead=on_lead)


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
