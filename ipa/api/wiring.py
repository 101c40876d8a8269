"""The API of a running service: its context, and the configuration of its HTTP server."""

from __future__ import annotations

import gc

from fastapi import FastAPI

from ipa.api.context import ApiContext, HttpMetrics, Streams, stream_figures
from ipa.api.limits import ApiLimits
from ipa.bootstrap.app import App
from ipa.bootstrap.service import make_service
from ipa.metering.traces import traced
from ipa.serving.connections import ServerBounds, raise_file_limit, within_files
from ipa.serving.protocol import BoundedConfig
from ipa.settings import Settings

# Seconds that an answer has to finish when the service ends.
GRACE_S = 5


def make_context(app: App) -> ApiContext:
    """The context of a running application."""
    streams = Streams(app.feed, stopping=app.stop.is_set)
    app.registry.register(stream_figures(streams))
    return ApiContext(
        service=make_service(app),
        limits=ApiLimits(
            app.settings.api_expensive_rps,
            app.settings.api_solves,
            app.settings.api_waiting_solves,
            reads_rps=app.settings.api_reads_rps,
            changes_rps=app.settings.api_changes_rps,
            body_s=app.settings.api_body_s,
            bodies_bytes=int(app.settings.api_bodies_mb * 1e6),
        ),
        registry=app.registry,
        http=HttpMetrics(app.registry),
        authenticators=app.authenticators,
        metrics_open=app.settings.metrics_access == "open",
        record=app.store,
        streams=streams,
    )


def server_bounds(settings: Settings) -> ServerBounds:
    """The bounds of the server's connections: the settings', lowered to fit the limit of open files."""
    bounds = ServerBounds(
        connections=settings.api_connections,
        address_connections=settings.api_address_connections,
        # The application answers 408 itself, a second before the connection is closed.
        body_s=settings.api_body_s + 1.0,
    )
    return within_files(bounds, raise_file_limit())


def server_config(app: FastAPI, bounds: ServerBounds | None = None) -> BoundedConfig:
    """The server's configuration. UsageError: OpenTelemetry's variables ask for an extra that is missing."""
    return BoundedConfig(
        traced(app, "ipa"),
        bounds or ServerBounds(),
        # uvloop, if it happens to be installed, reads and accepts without bounds in one round.
        loop="asyncio",
        log_level="warning",
        # Uvicorn's own would block on the terminal; ours does not.
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        # The client is the peer of the connection: anybody can send the header of a proxy.
        proxy_headers=False,
        server_header=False,
    )


def settle() -> None:
    """Exclude the present objects (modules, the service) from garbage collection.

    Under load a full collection runs every few seconds, and blocks all answers for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
