"""The context of the API for a running service."""

from __future__ import annotations

from ipa.api.context import ApiContext
from ipa.api.limits import ApiLimits
from ipa.api.metered import HttpMetrics
from ipa.api.streams import Streams, stream_figures
from ipa.bootstrap.app import App
from ipa.bootstrap.experiments import experiment_jobs
from ipa.bootstrap.service import service_of
from ipa.settings import Settings


def context_of(app: App) -> ApiContext:
    """The context of a running application. Its experiments end with it."""
    jobs = experiment_jobs(app.clock)
    app.resources.callback(jobs.close)
    app.roster.on_end = jobs.end_record
    return ApiContext(
        service=service_of(app),
        jobs=jobs,
        limits=_limits(app.settings),
        registry=app.registry,
        http=HttpMetrics(app.registry),
        authenticators=app.authenticators,
        metrics_open=app.settings.metrics_access == "open",
        record=app.store,
        streams=_streams(app),
    )


def _limits(settings: Settings) -> ApiLimits:
    return ApiLimits(
        settings.api_expensive_rps,
        settings.api_solves,
        settings.api_waiting_solves,
        reads_rps=settings.api_reads_rps,
        changes_rps=settings.api_changes_rps,
        body_s=settings.api_body_s,
        bodies_bytes=int(settings.api_bodies_mb * 1e6),
    )


def _streams(app: App) -> Streams:
    streams = Streams(app.feed, stopping=app.stop.is_set)
    app.registry.register(stream_figures(streams))
    return streams
