"""The Target protocol: the interface of service, planner and command line to a place that runs pipelines.

A target is one folder and one entry point in the group `ipa.targets`, which names an instance of a subclass
of `Target`. A small one implements `name`, `serving` and `open`; other operations are refused by name. The
module of the entry point is loaded to read any pipeline file, so imports that only `open` needs belong in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ipa.control import ports
from ipa.control.loop.scheduler import StopSignal, SystemClock
from ipa.files.targets import TARGETS, TargetSections
from ipa.model.decision import Decision
from ipa.model.errors import InputError, Problem, UsageError
from ipa.model.findings import DoctorCheck
from ipa.model.parts import parts_of, share_faults
from ipa.model.pipeline import Pipeline, Sla
from ipa.model.plan import StageConfig
from ipa.model.probe import ProbeRequest, ProbeResult, ProbeTransport, RequestAddress
from ipa.model.profile import StageProfile
from ipa.model.serving import Rebatch, ServingSemantics, Unhonoured, unhonoured
from ipa.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ipa.adapters.kube.kinds import ResourceKind
    from ipa.adapters.kube.watch import Watchers
    from ipa.simulate.cluster import ClusterSettings
    from ipa.simulate.metrics import MetricsSettings
    from ipa.simulate.realtime import Simulated

Profiles = Mapping[str, StageProfile]
Configs = tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """The arguments of `Target.open`: the pipelines, and the service's resources for them.

    `pipelines` changes in place as pipelines come and go over the API. `start` is the plan with which a
    pipeline starts, if it does not run yet; InfeasibleError if there is none. `decision` returns a recorded
    decision by id. Whatever the target starts must end with `resources`; `registry` takes the target's own
    metrics.
    """

    settings: Settings
    pipelines: Mapping[str, Pipeline]
    profiles: Mapping[str, Profiles]
    folder: Path
    clock: ports.Clock
    start: Callable[[Pipeline], Configs]
    decision: Callable[[str], Decision]
    registry: CollectorRegistry
    resources: ExitStack
    load: Simulated | None = None


class Adopting(Protocol):
    """Applies changed files to running pipelines without a restart."""

    def check(self, pipeline: Pipeline) -> None:
        """ConflictError if the pipeline needs a restart for the change."""

    def adopt(self, pipeline: Pipeline) -> None:
        """Take over the change, which `check` has accepted."""


# Starts a watch: pipelines, the loop to wake, the least seconds between two wakes, the signal that ends it.
Watch = Callable[[Iterable[Pipeline], Callable[[str], None], float, StopSignal], "Watchers"]


@dataclass(frozen=True, slots=True)
class World:
    """The running pipelines of a target. `endpoints` has the URL of a pipeline's requests, if it is known."""

    workload: ports.Workload
    metrics: ports.Metrics
    endpoints: Mapping[str, str] = field(default_factory=dict)
    events: ports.EventSink = field(default_factory=ports.NoEvents)
    # None: the next tick finds changes by other writers.
    watch: Watch | None = None
    # None: the workload need not be told of changed pipelines.
    adopting: Adopting | None = None


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A request to import a pipeline: from the named workloads or the only one, in a cluster or in a file.

    Several workloads are the stages of a chain in their order. `pipeline` is the new pipeline's name, empty
    for the workload's. `part` is the configuration to read, if several share the requests; empty for the
    busiest.
    """

    sla: Sla
    pipeline: str = ""
    part: str = ""
    workloads: tuple[str, ...] = ()
    namespace: str | None = None
    file: Path | None = None

    @property
    def workload(self) -> str | None:
        """The one named workload, if any; UsageError if there are several."""
        if len(self.workloads) > 1:
            raise UsageError("a pipeline there is one workload", hint="Name one; a chain needs --at scale.")
        return next(iter(self.workloads), None)


@dataclass(frozen=True, slots=True)
class Imported:
    """The pipeline, its running configuration (empty if no plan could have it), and notes for the user."""

    pipeline: Pipeline
    configs: Configs
    notes: tuple[str, ...]


class Target(ABC):
    """A place to run pipelines. Methods that are not abstract refuse, or have a default."""

    # As the setting `target` and `--at` have it.
    name: ClassVar[str]
    # In messages: "target local".
    title: ClassVar[str]
    # What of it says what is to run, in messages.
    workload: ClassVar[str] = "the target"
    # What it adds to pipeline files.
    sections: ClassVar[TargetSections] = TargetSections()
    # True if the service runs beside it on Kubernetes: leaders are elected by a Lease, and a GitOps tool may
    # carry changes out (IPA_ACTUATION=gitops).
    on_kubernetes: ClassVar[bool] = False
    # False if it carries no decision out.
    acts: ClassVar[bool] = True
    # Seconds over which its metrics average a rate.
    rate_window_s: ClassVar[float] = 5.0

    @abstractmethod
    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The serving semantics of the pipeline in its shape."""

    @abstractmethod
    def open(self, site: Site) -> World:
        """The world of the site's pipelines. Errors: ConfigurationError, UsageError, UnavailableError."""

    def clock(self, stop: Event, load: Simulated | None = None) -> ports.Clock:
        """The clock of the target's world; a wait ends early once `stop` is set."""
        return SystemClock(stop)

    def shape(self, pipeline: Pipeline, profiles: Profiles) -> Pipeline:
        """The pipeline as it runs here: the target's own cores in the overhead, `Stage.unbatched` set."""
        return pipeline

    def place(self, pipeline: Pipeline) -> str:
        """The name of the target and the pipeline's shape in messages."""
        return self.title

    def unhonoured(self, pipeline: Pipeline) -> list[Unhonoured]:
        """The keys of the pipeline's file that have no effect on this target."""
        return list(unhonoured(pipeline, self.serving(pipeline), self.place(pipeline)))

    def unfit(self, pipeline: Pipeline) -> str:
        """The reason why a pipeline created over the API cannot run there; empty if it can.

        By default only pipelines of files can run: a file may name programs to start.
        """
        return f"target {self.name} runs the pipelines of files only; it can be planned"

    def check_acts(self, pipeline: Pipeline) -> None:
        """UsageError if the target only advises: no mode that writes would have an effect."""
        if not self.acts:
            raise UsageError(
                f"{self.title} only advises, so {pipeline.name} cannot be in a mode that writes",
                hint="Use the mode advisory: whoever scales its objects follows ipa_desired_replicas.",
            )

    def placed(self, pipeline: Pipeline) -> bool:
        """True if the pipeline's file has a section for the target."""
        return not self.sections.key or self.sections.key in pipeline.targets

    def starting_section(self, pipeline: str, namespace: str) -> Mapping[str, Any]:
        """The target's section in the file of a new pipeline; empty without one."""
        return {}

    def access(self) -> tuple[ResourceKind, Callable[[Pipeline], Sequence[tuple[str, str]]]]:
        """The kind of object on which rights are checked, and (namespace, name) of a pipeline's objects."""
        raise self._cannot("check rights in a cluster")

    def simulation(self, pipeline: Pipeline) -> tuple[ClusterSettings, MetricsSettings]:
        """The start and the monitoring of replicas, for the simulator: by default derived from `serving`."""
        from ipa.simulate.cluster import ClusterSettings
        from ipa.simulate.metrics import MetricsSettings

        serving = self.serving(pipeline)
        restarts = serving.rebatch is Rebatch.NEW_REPLICAS
        return ClusterSettings(serving.rolling, rebatch_restarts=restarts), MetricsSettings()

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """The target's checks for `ipa doctor`; `elects`: the service takes part in leader election."""
        return []

    def settings_at(self, settings: Settings, where: str) -> Settings:
        """The settings changed by the WHERE of `--at NAME:WHERE`."""
        return settings

    def in_namespace(self, pipeline: Pipeline, namespace: str) -> Pipeline:
        """The pipeline in another namespace than its file names."""
        raise self._cannot("run a pipeline in a namespace of the caller's choice")

    def smallest(self, pipeline: Pipeline) -> Configs:
        """The smallest configuration within bounds and pins: first variants on one core, unbatched."""
        configs = []
        for stage in pipeline.served:
            pin, limits = stage.pin, stage.limits(pipeline.bounds)
            variant, batch_size = pin.variant or stage.variants[0].name, min(limits.batch_sizes or (1,))
            replicas = pin.replicas or limits.min_replicas or 1
            made = StageConfig(stage.name, variant, pin.batch_size or batch_size, pin.cores or 1.0, replicas)
            configs.append(made)
        return tuple(configs)

    def render(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The manifests that run the pipeline with these configurations. Errors: InputError."""
        raise self._cannot("render a pipeline")

    def address(self, pipeline: Pipeline, settings: Settings, endpoint: str = "") -> RequestAddress:
        """The address for the pipeline's requests: V2 to `endpoint`, its base URL if that is known."""
        if not endpoint:
            return RequestAddress(note=f"{self.title} cannot tell where the pipeline takes requests")
        return RequestAddress(f"{endpoint.rstrip('/')}/v2/models/{pipeline.name}/infer")

    def probe(self, pipeline: Pipeline, request: ProbeRequest, settings: Settings) -> ProbeResult:
        """The result of a smoke request, sent as a client of the pipeline sends it: V2 to the given address.

        Errors: UsageError (no known address, or a missing transport or client), UnavailableError.
        """
        from ipa.targets.requests import check_url, probe_http

        if request.transport is not ProbeTransport.REST:
            raise self._cannot("send requests except by plain HTTP")
        if not request.address:
            raise self._cannot("tell the address of the pipeline; give --url")
        check_url(request.address)
        return probe_http(request, self.address(pipeline, settings, request.address).url)

    def imported(self, settings: Settings, where: str, request: ImportRequest) -> Imported:
        """The pipeline that runs at `where`, the text after `NAME:` in `--at`."""
        raise self._cannot("import a pipeline from a running workload")

    def signals(self, settings: Settings, pipeline: Pipeline) -> ports.Signals:
        """The metrics of a pipeline that runs there."""
        raise self._cannot("read the metrics of a pipeline")

    def manifest(self, pipeline: Pipeline, text: str, path: str) -> ports.PipelineManifest:
        """The manifests of the pipeline in a file's text. NotFoundError if they are not in it."""
        raise self._cannot("read a pipeline's manifest from a file")

    def _cannot(self, what: str) -> UsageError:
        return UsageError(f"{self.title} cannot {what}")


def target_named(name: str) -> Target:
    """The target of that name. Errors: UsageError (lists the known targets), PluginError."""
    plugin = TARGETS.find(name)
    target: Target = plugin.load()
    plugin.check_has(target, "name", "serving", "open")
    return target


def targets() -> list[Target]:
    """Every target once, in the order of their names in the registry."""
    loaded = [target_named(name) for name in TARGETS]
    return [target for at, target in enumerate(loaded) if target not in loaded[:at]]


def check_parts(pipeline: Pipeline, configs: Sequence[StageConfig], most: int) -> None:
    """InputError unless these are 1 to `most` parts whose whole percents sum to 100."""
    faults, count = share_faults(configs), len(parts_of(configs))
    if not 1 <= count <= most:
        faults.insert(0, f"a set has 1 to {most} parts, not {count}")
    if faults:
        raise InputError(
            f"pipeline {pipeline.name!r} cannot run these parts", problems=[Problem(it) for it in faults]
        )


def check_honoured(target: Target, pipelines: Iterable[Pipeline]) -> None:
    """InputError lists every key of the pipelines that the target would ignore, each with the remedy."""
    problems = [
        Problem(f"pipeline {pipeline.name!r}: {fault}")
        for pipeline in pipelines
        for fault in target.unhonoured(pipeline)
    ]
    if problems:
        raise InputError(f"keys that have no effect on {target.title}", problems=problems)
