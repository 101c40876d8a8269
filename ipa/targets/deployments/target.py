"""The target `deployments`: pipelines as plain Deployments and Services on a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipa.adapters.kube.kinds import DEPLOYMENT
from ipa.control.ports import Metrics
from ipa.model.findings import DoctorCheck
from ipa.model.measured import with_profiles
from ipa.model.parts import Overhead
from ipa.model.pipeline import Pipeline
from ipa.model.probe import ProbeRequest, ProbeResult, RequestAddress
from ipa.model.serving import ServingSemantics
from ipa.settings import Settings
from ipa.targets import base
from ipa.targets.deployments.section import SECTIONS, deployments_of
from ipa.targets.kubernetes import split
from ipa.targets.kubernetes.target import KubernetesTarget, Listed, port_forward_note

if TYPE_CHECKING:
    from ipa.targets.deployments.layout import DeploymentsLayout


class Deployments(KubernetesTarget):
    """Deployments and Services on a Kubernetes cluster, without an operator."""

    kind = DEPLOYMENT

    name = "deployments"
    title = "target deployments"
    workload = "the Deployments"
    sections = SECTIONS
    role_prefix = "deployments-"

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """Our router and queues before replicas that Deployments replace."""
        return split.SERVING

    def shape(self, pipeline: Pipeline, profiles: base.Profiles) -> Pipeline:
        """The pipeline with the cores of router and queues, and the time of a hop."""
        if not self.placed(pipeline):
            return with_profiles(pipeline, profiles)
        section = deployments_of(pipeline)
        hop_s = split.HOP_S if section.hop_s is None else section.hop_s
        overhead = Overhead(section.router_cores + section.queue_cores * len(pipeline.served))
        return with_profiles(split.shaped(pipeline, overhead, section.ignores, hop_s=hop_s), profiles)

    def layout_of(self, pipeline: Pipeline) -> DeploymentsLayout:
        """The Deployments of the pipeline. InputError without a section, or if it is not a chain."""
        from ipa.targets.deployments.layout import DeploymentsLayout

        return DeploymentsLayout(pipeline)

    def metrics(self, settings: Settings, pipelines: Listed = tuple) -> Metrics:
        """The metrics of our router and queues, scraped by Prometheus."""
        from ipa.adapters.prometheus.client import PrometheusMetrics
        from ipa.adapters.prometheus.queries import ON_CLUSTER

        return PrometheusMetrics(settings, ON_CLUSTER, pipelines=pipelines)

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """Checks of the metrics, the cluster and the service's rights, and the pipelines' Deployments."""
        from ipa.adapters.prometheus.queries import ON_CLUSTER
        from ipa.targets.kubernetes.doctor import OwnChecks, checks_of

        own = OwnChecks("kubectl apply -f deploy/prometheus/podmonitor.yaml", lambda _: ON_CLUSTER)
        return checks_of(self, settings, pipelines, namespaces, own, elects=elects)

    def imported(self, settings: Settings, where: str, request: base.ImportRequest) -> base.Imported:
        """The pipeline of Deployments that `ipa render` made, or of stock ones; in a cluster or a file."""
        from ipa.targets.deployments.imported import import_pipeline

        return import_pipeline(self.settings_at(settings, where), request)

    def address_of(self, pipeline: Pipeline, settings: Settings, endpoint: str) -> RequestAddress:
        """The address at `endpoint`, or by the Service of the router."""
        layout = self.layout_of(pipeline)
        at_router = super().address_of(pipeline, settings, endpoint or layout.router.service)
        return (
            at_router
            if endpoint
            else replace(at_router, note=port_forward_note(layout.router.service, layout.namespace))
        )

    def probe(self, pipeline: Pipeline, request: ProbeRequest, settings: Settings) -> ProbeResult:
        """The result of a smoke request by V2, to the given address or the router's Service."""
        address = request.address or self.layout_of(pipeline).router.service
        return super().probe(pipeline, replace(request, address=address), settings)


DEPLOYMENTS = Deployments()
