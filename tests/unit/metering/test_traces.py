"""Traces, at a receiver of OpenTelemetry's protocol."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import Context
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="needs the extra opentelemetry")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ipa.adapters.metrics.tick_spans import TickSpans
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer
from ipa.metering import traces
from ipa.model.errors import UsageError
from tests.fakes.chain_loop import BODY, Answer, call
from tests.fakes.world import scenario

ENDPOINT = traces.ENDPOINTS[1]


class Collector(ThreadingHTTPServer):
    """Receives spans over HTTP as OpenTelemetry's own collector does, and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Export)
        self.spans: list[Any] = []
        self.services: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for one in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.services.append(words(one.resource)["service.name"])
            self.server.spans += [span for scope in one.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()


def forget() -> None:
    for known in (traces.named, traces.tracing):
        known.cache_clear()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    # Set, so that what the first traced server sets for the process is taken back.
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    with Collector() as made:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{made.server_port}")
        forget()
        yield made
        forget()
        made.shutdown()


def words(span: Any) -> dict[str, str]:
    return {
        it.key: it.value.string_value or str([one.string_value for one in it.value.array_value.values])
        for it in span.attributes
    }


def test_a_request_is_one_trace_through_router_and_queue(collector: Collector) -> None:
    async def serve(_url: str, _variant: str, body: bytes) -> tuple[int, bytes]:
        return 200, orjson.dumps({"outputs": orjson.loads(body)["inputs"]})

    async def scenario() -> Answer:
        queue = QueueServer("p", "detect", sender=serve, replicas={"http://127.0.0.1:9000": ("toy",)})
        served = traces.traced(queue.application(), "ipa-queue")

        async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
            asked = call(served, "POST", "/" + url.split("/", 3)[3], body, headers)
            # The queue is another process: it knows of the trace by the headers alone.
            return await asyncio.create_task(asked, context=Context())

        router = RouterServer("p", [("detect", "http://queue")], post=post)
        application = traces.traced(router.application(), "ipa-router")
        await call(application, "GET", "/v2/health/live")
        given = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        return await call(application, "POST", "/v2/models/p/infer", BODY, given)

    assert asyncio.run(scenario())[0] == 200
    for service in ("ipa-router", "ipa-queue"):
        traces.tracing(service).shutdown()
    first, second = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert set(collector.services) == {"shop"}
    assert first.trace_id.hex() == second.trace_id.hex() == "a" * 32
    assert first.parent_span_id.hex() == "b" * 16
    assert second.parent_span_id == first.span_id
    assert "detect-wait;dur=" in words(first)["http.response.header.server_timing"]
    assert "wait;dur=" in words(second)["http.response.header.server_timing"]


def test_each_tick_is_a_span_with_its_decision(collector: Collector) -> None:
    world = scenario(0.2)
    spans = TickSpans(traces.tracing("ipa"))
    decision = world.loop.tick_once()
    spans(decision, world.loop.snapshot())
    traces.tracing("ipa").shutdown()
    (span,) = collector.spans
    assert span.name == "tick"
    assert words(span)["ipa.reason"] == decision.reason.value
    assert words(span)["ipa.decision"] == decision.decision_id


def test_without_a_collector_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in traces.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    forget()
    application = RouterServer("p", [("detect", "http://queue")]).application()
    assert traces.traced(application, "ipa-router") is application
    assert traces.onward() == {}


def test_a_missing_extra_is_told_with_the_remedy(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=f"{ENDPOINT} is set, and the extra is missing") as refused:
        traces.tracing("ipa")
    assert "its extra `opentelemetry`" in refused.value.hint
