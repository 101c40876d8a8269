"""The target `local`: pipelines as processes of this machine, behind our router and queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipa.model.findings import DoctorCheck
from ipa.model.pipeline import Pipeline
from ipa.model.serving import ServingSemantics
from ipa.settings import Settings
from ipa.targets.base import Site, Target, World
from ipa.targets.local.section import SECTIONS

SCRAPE_INTERVAL_S = 1.0


class LocalTarget(Target):
    """Model servers on this machine."""

    name = "local"
    title = "target local"
    sections = SECTIONS

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """A queue for each stage of a chain, which serves one variant at a time."""
        return ServingSemantics(runs_graphs=False)

    def open(self, site: Site) -> World:
        """The pipelines, started with the plan of each, and a scraper of their metrics."""
        from ipa.adapters.prometheus.client import PrometheusMetrics
        from ipa.adapters.prometheus.dialects import LOCAL as DIALECT
        from ipa.adapters.prometheus.server import start_metrics_server
        from ipa.targets.local.costs import LocalCosts
        from ipa.targets.local.workload import LocalWorkload

        local = LocalWorkload(site.folder)
        site.resources.callback(local.stop)
        for pipeline in site.pipelines.values():
            local.start(pipeline, site.start(pipeline))
        scraped = [target for name in site.pipelines for target in local.scrape_targets(name)]
        folder = site.folder / "metrics"
        server = start_metrics_server(scraped, scrape_interval_s=SCRAPE_INTERVAL_S, folder=folder)
        site.resources.callback(server.stop)
        site.registry.register(LocalCosts(local, tuple(site.pipelines)))
        settings = site.settings
        metrics = PrometheusMetrics(
            server.source,
            settings.prometheus_timeout_s,
            settings.stale_after_s,
            DIALECT,
            namespace_label=settings.prometheus_namespace_label,
            pipelines=site.pipelines.values,
        )
        return World(local, metrics, {name: local.endpoint(name) for name in site.pipelines})

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """The model servers' packages."""
        from ipa.targets.local.doctor import local_findings

        return [DoctorCheck("local runtime", lambda: local_findings(pipelines))]


LOCAL = LocalTarget()
