"""The target `scale`: plans for pipelines whose objects somebody else scales, such as KEDA or an HPA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ipa.control.ports import Metrics
from ipa.model.errors import IpaError
from ipa.model.findings import DoctorCheck, Finding, failed, ok
from ipa.model.pipeline import Pin, Pipeline, Stage
from ipa.model.serving import Batching, Rebatch, ServingSemantics
from ipa.settings import Settings
from ipa.targets import base
from ipa.targets.kubernetes.target import ClusterTarget, Listed
from ipa.targets.scale.section import ROLLING, SECTIONS, scale_of

if TYPE_CHECKING:
    from ipa.targets.scale.workload import ScaleWorkload

# Its servers may batch, each the requests that were spread to it.
SERVING = ServingSemantics(
    batching=Batching.IN_REPLICA,
    spread="whatever balances the load of its objects picks a replica",
    rolling=ROLLING,
    rebatch=Rebatch.NEW_REPLICAS,
    drops_late=False,
)
SCRAPE = "have Prometheus scrape what serves the pipeline, every 5 to 15 s"
LOOK = "kubectl auth can-i get deployments/scale; docs/how-to/advise-an-autoscaler.md"


class ScaleTarget(ClusterTarget):
    """Objects with a scale subresource on a Kubernetes cluster: read, planned, and never written.

    It takes part in no election, which needs the right to write a Lease.
    """

    name = "scale"
    title = "target scale"
    workload = "whoever scales its objects"
    sections = SECTIONS
    acts = False

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The serving semantics: replicas that batch for themselves, of one variant at a time."""
        return SERVING

    def shape(self, pipeline: Pipeline, profiles: base.Profiles) -> Pipeline:
        """The pipeline with each stage pinned to what its replicas run: scaling changes only their number."""

        def pinned(stage: Stage) -> Stage:
            runs = scale_of(pipeline).stages[stage.name]
            pin = Pin(runs.variant, runs.batch_size, runs.cores, stage.pin.replicas)
            return replace(stage, pin=pin, in_replica=True)

        if not self.placed(pipeline):
            return pipeline
        stages = (pinned(stage) if stage.variants else stage for stage in pipeline.stages)
        return replace(pipeline, stages=tuple(stages))

    def open(self, site: base.Site) -> base.World:
        """The objects of the settings' cluster, and the load in the settings' Prometheus."""
        workload = self._workload(site.settings)
        site.resources.callback(workload.client.close)
        return base.World(workload, self.metrics(site.settings))

    def metrics(self, settings: Settings, pipelines: Listed = tuple) -> Metrics:
        """The series of the load that the pipeline's file names."""
        from ipa.adapters.prometheus.client import PrometheusMetrics
        from ipa.targets.scale.metrics import GIVEN

        return PrometheusMetrics(settings, GIVEN, pipelines=pipelines)

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """Checks of the series of each pipeline's load, and of its objects and the right to read them."""
        from ipa.adapters.prometheus.doctor import metrics_checks
        from ipa.targets.scale.metrics import GIVEN

        placed = {name: it for name, it in pipelines.items() if self.placed(it)}
        series = {name: (it, GIVEN) for name, it in placed.items()}
        objects = {f"objects of {name}": partial(self._objects, settings, it) for name, it in placed.items()}
        checks = [DoctorCheck(name, partial(look, name)) for name, look in objects.items()]
        return [*metrics_checks(settings, series, SCRAPE), *checks]

    def imported(self, settings: Settings, where: str, request: base.ImportRequest) -> base.Imported:
        """The chain of the named Deployments, in a cluster or a file."""
        from ipa.targets.scale.imported import import_pipeline

        return import_pipeline(self.settings_at(settings, where), request)

    def _objects(self, settings: Settings, pipeline: Pipeline, name: str) -> Iterator[Finding]:
        try:
            stages = self._workload(settings).read(pipeline).stages
        except IpaError as error:
            yield failed(name, error, LOOK)
            return
        ready = (f"{it.config}: {it.ready_replicas} of {it.config.replicas} are ready" for it in stages)
        yield ok(name, "; ".join(ready))

    def _workload(self, settings: Settings) -> ScaleWorkload:
        from ipa.adapters.kube.client import KubeClient
        from ipa.targets.scale.workload import ScaleWorkload

        client = KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)
        return ScaleWorkload(client)


SCALE = ScaleTarget()
