"""A target whose pipelines are objects of a Kubernetes cluster: opened, watched and claimed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.control.loop.scheduler import StopSignal
from ipa.control.ports import Metrics, PipelineManifest, Signals
from ipa.model.errors import IpaError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.probe import RequestAddress
from ipa.model.serving import Unhonoured
from ipa.settings import Settings
from ipa.targets import base

if TYPE_CHECKING:
    from ipa.adapters.kube.client import KubeClient
    from ipa.simulate.cluster import ClusterSettings
    from ipa.simulate.metrics import MetricsSettings
    from ipa.targets.kubernetes.layout import Layout
    from ipa.targets.kubernetes.workload import KubeWorkload


Listed = Callable[[], Collection[Pipeline]]


class ClusterTarget(base.Target):
    """Objects in the cluster of the settings that a section of the pipeline's file names."""

    # Pods are scraped every 5 to 15 s, and a rate needs two samples.
    rate_window_s = 30.0

    @abstractmethod
    def metrics(self, settings: Settings, pipelines: Listed = tuple) -> Metrics:
        """The reader of the pipelines' metrics in the settings' Prometheus; their queries are shared."""

    def signals(self, settings: Settings, pipeline: Pipeline) -> Signals:
        """The metrics of the pipeline in the settings' Prometheus."""
        return self.metrics(settings).read(pipeline, self.rate_window_s)

    def unfit(self, pipeline: Pipeline) -> str:
        """The reason why the pipeline cannot be there: it has no section for the target."""
        if self.placed(pipeline):
            return ""
        return f"it has no {self.sections.key} section, so it can only be planned"

    def settings_at(self, settings: Settings, where: str) -> Settings:
        """The settings with that kubeconfig."""
        return replace(settings, kubeconfig=str(Path(where).expanduser())) if where else settings


class KubernetesTarget(ClusterTarget):
    """Objects of one kind on a Kubernetes cluster; a subclass defines the kind and reads its metrics."""

    kind: ClassVar[ResourceKind]
    # Of the files and names of the roles on its kind of object, which no other target needs.
    role_prefix: ClassVar[str] = ""
    on_kubernetes = True

    @abstractmethod
    def layout_of(self, pipeline: Pipeline) -> Layout:
        """The objects of the pipeline. InputError if its file does not let it run on this target."""

    def unhonoured(self, pipeline: Pipeline) -> list[Unhonoured]:
        """Keys of the pipeline without effect; those that the section `ignores` are left out."""
        ignored = getattr(pipeline.targets.get(self.sections.key), "ignores", ())
        return [fault for fault in super().unhonoured(pipeline) if fault.key not in ignored]

    def in_namespace(self, pipeline: Pipeline, namespace: str) -> Pipeline:
        """The pipeline with its objects in that namespace."""
        if not self.placed(pipeline):
            return pipeline
        section = replace(pipeline.targets[self.sections.key], namespace=namespace)
        return replace(pipeline, targets={**pipeline.targets, self.sections.key: section})

    def simulation(self, pipeline: Pipeline) -> tuple[ClusterSettings, MetricsSettings]:
        """The monitoring of replicas: counters are scraped every five seconds."""
        from ipa.simulate.metrics import ON_CLUSTER

        return super().simulation(pipeline)[0], ON_CLUSTER

    def manifest(self, pipeline: Pipeline, text: str, path: str) -> PipelineManifest:
        """The pipeline's objects in the text of a file."""
        from ipa.targets.kubernetes.manifest_edit import Manifest

        return Manifest(self.layout_of(pipeline), text, path)

    def places_of(self, pipeline: Pipeline) -> list[tuple[str, str]]:
        """Namespace and name of each of its objects; empty if it cannot run on this target."""
        try:
            layout = self.layout_of(pipeline)
            return [(layout.namespace, name) for name in layout.names]
        except IpaError:
            # Its file does not let it run here: every tick of it reports that.
            return []

    def entry_of(self, pipeline: Pipeline) -> ObjectRef:
        """The object where the pipeline's requests enter. InputError as `layout_of`."""
        return self.layout_of(pipeline).entry

    def address_of(self, pipeline: Pipeline, settings: Settings, endpoint: str) -> RequestAddress:
        """The address for the requests of a pipeline that runs on this target, at `endpoint` if not empty."""
        return super().address(pipeline, settings, endpoint)

    def address(self, pipeline: Pipeline, settings: Settings, endpoint: str = "") -> RequestAddress:
        """The address by `address_of`; a note only if the pipeline does not run here."""
        if not self.placed(pipeline):
            return RequestAddress(note=self.unfit(pipeline))
        if not pipeline.runnable:
            return RequestAddress(note=f"it is only planned: {pipeline.not_runnable_because}")
        return self.address_of(pipeline, settings, endpoint)

    def workload_of(self, client: KubeClient, install: str) -> KubeWorkload:
        """The workload over the objects of that install."""
        from ipa.targets.kubernetes.workload import KubeWorkload

        return KubeWorkload(client, self.layout_of, install)

    def access(self) -> tuple[ResourceKind, Callable[[Pipeline], Sequence[tuple[str, str]]]]:
        """The kind of the pipelines' objects, and (namespace, name) of each."""
        return self.kind, self.places_of

    def open(self, site: base.Site) -> base.World:
        """The cluster of the settings. Changes are written to it, or with IPA_ACTUATION=gitops to git."""
        from ipa.adapters.kube.client import KubeClient
        from ipa.adapters.kube.events import KubeEvents
        from ipa.adapters.kube.watch import Watchers, health_figures

        settings = site.settings
        client = KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)
        site.resources.callback(client.close)
        workload = self.workload_of(client, settings.install)
        metrics = self.metrics(settings, site.pipelines.values)
        if settings.actuation == "gitops":
            from ipa.targets.gitops import through_gitops

            # The GitOps tool writes the cluster, and the service only reads it.
            return base.World(through_gitops(settings, workload, self, site.decision), metrics)
        events = KubeEvents(client, site.clock, self.entry_of)

        def watch(
            pipelines: Iterable[Pipeline], wake: Callable[[str], None], gap_s: float, stop: StopSignal
        ) -> Watchers:
            watchers = Watchers(client, self.kind, self.places_of, pipelines, wake, gap_s=gap_s, stop=stop)
            site.registry.register(health_figures(client, events, watchers.watchers))
            site.resources.callback(watchers.close)
            return watchers

        return base.World(workload, metrics, events=events, watch=watch)

    def render(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """Every object of the pipeline with these configurations."""
        return self.layout_of(pipeline).render(configs)


def port_forward_note(service: str, namespace: str) -> str:
    """The ways to reach the Service at that URL."""
    host, _, port = service.removeprefix("http://").partition(":")
    forward = f"kubectl -n {namespace} port-forward svc/{host.partition('.')[0]} {port}"
    return f"reachable from within the cluster, or at http://127.0.0.1:{port} by `{forward}`"
