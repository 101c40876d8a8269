"""Traces of requests and ticks by OpenTelemetry, where its own variables name a collector."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, TypeVar

from ipa.model.errors import UsageError

App = TypeVar("App")
# What OpenTelemetry's variables begin with; one of ENDPOINTS is set where there is a collector.
VARIABLES = "OTEL_"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# They are asked every few seconds, each alike, and nobody waits for them.
UNTRACED = "/metrics$,/v2/health/,/admin/,/healthz$,/readyz$"


@cache
def named() -> str | None:
    """The variable that names a collector, as it was when this was first asked; None without one."""
    return next(filter(os.environ.get, ENDPOINTS), None)


@cache
def tracing(service: str) -> Any:
    """The provider of tracers for that collector; None without one. UsageError: the extra is missing."""
    if named() is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        remedy = "Install ipa with its extra `opentelemetry`, or unset the variable."
        raise UsageError(f"{named()} is set, and the extra is missing: {error}", hint=remedy) from error
    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def traced(application: App, service: str) -> App:
    """The ASGI application, with a span for each request that goes on with its caller's trace."""
    if (provider := tracing(service)) is None:
        return application
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(  # type: ignore[no-any-return]
        application,
        tracer_provider=provider,
        excluded_urls=UNTRACED,
        exclude_spans=["receive", "send"],
        # Where a request's time went, as router and queue answer it.
        http_capture_headers_server_response=["server-timing"],
    )


def onward() -> dict[str, str]:
    """The headers by which the next server goes on with the trace of this request; none without one."""
    headers: dict[str, str] = {}
    if named() is not None:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers
