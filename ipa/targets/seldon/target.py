"""The target `kubernetes`: pipelines as SeldonDeployments on a cluster, in shape single or split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa.control.ports import Metrics
from ipa.model.findings import DoctorCheck
from ipa.model.pipeline import Pipeline
from ipa.model.probe import ProbeRequest, ProbeResult, RequestAddress
from ipa.model.rolling import DEPLOYMENT
from ipa.model.serving import Batching, Rebatch, ServingSemantics, Unhonoured
from ipa.settings import Settings
from ipa.targets import base
from ipa.targets.kubernetes import split
from ipa.targets.kubernetes.target import KubernetesTarget, Listed
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.section import (
    SECTIONS,
    SeldonTarget,
    Shape,
    WireProtocol,
    is_microservice,
    is_split,
    seldon_of,
)
from ipa.targets.seldon.variants import at_cluster, unbatched_stages

if TYPE_CHECKING:
    from ipa.targets.kubernetes.layout import Layout

# The predictors of one SeldonDeployment that may share its requests.
MOST_PREDICTORS = 3
SINGLE = ServingSemantics(
    batching=Batching.IN_REPLICA,
    spread="kube-proxy picks a replica for each connection of the orchestrator",
    rolling=DEPLOYMENT,
    rebatch=Rebatch.NEW_REPLICAS,
    drops_late=False,
    most_parts=MOST_PREDICTORS,
)
# The shape that honours a key which the other one does not.
HONOURED_BY = {"drop_after": Shape.SPLIT, "sets": Shape.SINGLE, "canary": Shape.SINGLE, "graph": Shape.SINGLE}
USUAL = SeldonTarget("")


class Seldon(KubernetesTarget):
    """SeldonDeployments on a Kubernetes cluster."""

    kind = SELDON_DEPLOYMENT

    name = "kubernetes"
    title = "target kubernetes"
    workload = "the SeldonDeployment"
    sections = replace(SECTIONS, unbatched=unbatched_stages)

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The shape's semantics: replicas batch by themselves (single), or queues batch (split)."""
        return split.SERVING if is_split(pipeline) else SINGLE

    def place(self, pipeline: Pipeline) -> str:
        """The words "Seldon", and the pipeline's shape."""
        return f"Seldon in shape {Shape.SPLIT if is_split(pipeline) else Shape.SINGLE}"

    def unhonoured(self, pipeline: Pipeline) -> list[Unhonoured]:
        """Keys of the pipeline and its section without effect in its shape.

        Keys that the section `ignores` are left out.
        """
        faults, section = super().unhonoured(pipeline), seldon_of(pipeline)
        if section is None:
            return faults
        there = {key: f"; or use `seldon: {{shape: {shape}}}`" for key, shape in HONOURED_BY.items()}
        faults = [replace(fault, remedy=fault.remedy + there.get(fault.key, "")) for fault in faults]
        return [*faults, *_section_faults(pipeline, section)]

    def shape(self, pipeline: Pipeline, profiles: base.Profiles) -> Pipeline:
        """The pipeline with the cores of orchestrator, router and queues, and stages that must not batch."""
        return at_cluster(pipeline, profiles)

    def starting_section(self, pipeline: str, namespace: str) -> Mapping[str, Any]:
        """The section of a SeldonDeployment with the pipeline's name."""
        return {"name": pipeline, "namespace": namespace}

    def layout_of(self, pipeline: Pipeline) -> Layout:
        """The metrics of Seldon's executor or of ipa's router and queues, by the shape of each pipeline."""
        from ipa.targets.seldon.layouts import layout_of

        return layout_of(pipeline)

    def metrics(self, settings: Settings, pipelines: Listed = tuple) -> Metrics:
        """The pipeline's metrics, by the shape of each pipeline."""
        from ipa.adapters.prometheus.client import PrometheusMetrics
        from ipa.targets.seldon.metrics import ShapedMetrics

        return ShapedMetrics(lambda dialect: PrometheusMetrics(settings, dialect, pipelines=pipelines))

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """Checks of the metrics, the cluster and the service's rights, Seldon, and the pipelines' objects."""
        from ipa.targets.seldon.doctor import checks_of

        return checks_of(self, settings, pipelines, namespaces, elects=elects)

    def address_of(self, pipeline: Pipeline, settings: Settings, endpoint: str) -> RequestAddress:
        """The address by the gateway of the settings, or by the Service of the pipeline's shape."""
        from ipa.targets.seldon.probe import address

        return address(pipeline, settings, endpoint)

    def probe(self, pipeline: Pipeline, request: ProbeRequest, settings: Settings) -> ProbeResult:
        """The result of a smoke request by the Service or the gateway, in the pipeline's protocol."""
        from ipa.targets.seldon.probe import probe

        return probe(pipeline, request, settings)

    def imported(self, settings: Settings, where: str, request: base.ImportRequest) -> base.Imported:
        """The pipeline of a SeldonDeployment in a cluster or a file."""
        from ipa.targets.seldon.imported import import_pipeline

        return import_pipeline(self.settings_at(settings, where), request)


def _section_faults(pipeline: Pipeline, section: SeldonTarget) -> list[Unhonoured]:
    """The section's own keys that have no effect in its shape, and microservices in shape split."""
    if section.shape is Shape.SINGLE:
        why, remedy = "shape single has no router and no queues of ours", "leave it out, or use shape split"
        given = {"image": section.image is not None, "queue_cores": section.queue_cores != USUAL.queue_cores}
        return [Unhonoured(f"seldon.{key}", why, remedy) for key, is_given in given.items() if is_given]
    faults, remedy = [], "leave it out, or use shape single"
    if not section.separate_orchestrator:
        why = "in shape split the router always has a pod of its own"
        faults.append(Unhonoured("seldon.separate_orchestrator", why, remedy))
    # Queues send batches of V2 requests.
    why = "in shape split our router and queues speak V2 to MLServer"
    served = [it.name for it in pipeline.served if any(is_microservice(pipeline, v) for v in it.variants)]
    if section.protocol is not WireProtocol.V2:
        faults.append(Unhonoured("seldon.protocol", why, remedy))
    elif served:
        faults.append(Unhonoured(f"seldon.server of {', '.join(served)}", why, remedy))
    return faults


SELDON = Seldon()
