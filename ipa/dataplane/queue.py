"""A stage's queue as a process: `python -m ipa.dataplane.queue`, configured by its environment.

    POST /v2/models/{stage}/infer   a V2 request; its answer has one row an item, or as fan_out says
    GET  /v2/models/{stage}         V2's metadata: the inputs and outputs that its model declares
    GET  /v2/models/{stage}/ready   200 once there is a replica, 503 before; also /v2/health/ready
    GET  /v2                        V2's metadata of the server
    GET  /metrics                   Prometheus
    GET  /admin/config              the configuration and the replicas: active, draining, suspected to hang
    PUT  /admin/config              {"batch_size": 4, "batch_timeout_s": 0.02, "replicas": ["http://..."],
                                     "largest_batch_size": 8, "profiled_s": {"small": [0.02, 0.01]}}

Every key of a PUT is optional. `profiled_s` gives, by variant, the profiled seconds for the first item of a
batch and for each further one: the expected time of a batch until one was measured. A replica may be {"url":
"http://...", "variant": "large", "lighter": ["small"], "heavier": ["huge"]}: errors then name the variant,
batches that would be late are served by a lighter one, and heavier ones serve while there is time. Where
several configurations run side by side, each has a queue of its own: the header ipa-part names the one that a
request, or a configuration, is for.

The admin address answers callers on this machine that have the token of IPA_ADMIN_TOKEN. It is off without a
token, as in a container.

The settings are IPA_PIPELINE, IPA_STAGE, IPA_PARTS (JSON: by part a configuration as in a PUT), IPA_MODEL_URL
(the headless Service of the model: each of its pods is a replica), IPA_MODEL (the model's name at MLServer;
{variant} in it stands for the replica's variant, so that replicas with several loaded switch by a PUT),
MLSERVER_MODEL_MAX_BATCH_SIZE and MLSERVER_MODEL_MAX_BATCH_TIME (with MLServer's meaning), IPA_MAX_ITEMS,
IPA_MAX_BODY_MB, IPA_MAX_HELD_MB, IPA_HOST, IPA_DRAIN_S, IPA_METRICS_PORT, and IPA_PORT or the port that the
operator gives it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ipa.dataplane import http, tensors
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.environment import edge, required, serve, setting
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.stagequeue import Sender, StageQueue, parse_config, parse_parts
from ipa.dataplane.v2 import UNDECLARED, V2Server, json_response, parse_model, v2_response
from ipa.model.errors import InputError
from ipa.model.measured import ANY_VARIANT
from ipa.model.serving import FAN_OUT
from ipa.serving.batching import LossCause, Outcome, QueuedRequest
from ipa.serving.batchqueue import QueueConfig
from ipa.serving.body_budget import aside
from ipa.serving.expectation import (
    AHEAD_HEADER,
    AIM_HEADER,
    ARRIVALS_HEADER,
    EXPECTED_HEADER,
    NAME_HEADER,
    TIMING_HEADER,
    TOOK_HEADER,
    VARIANTS_HEADER,
    parse_ms,
    parse_ratio,
    parse_times,
    server_timing,
)
from ipa.serving.replicas import UNKNOWN_VARIANTS

log = logging.getLogger("ipa.dataplane")

# A model server answers for its model at once, but for while it loads.
METADATA_S = 2.0
# A new ready pod is used after this, plus the 5 to 30 s for which the DNS of a cluster caches answers; a
# model that did not say what it declares is asked again.
LOOK_EVERY_S = 1.0
TURNED_AWAY = (LossCause.OVERLOAD, LossCause.QUEUE_FULL)

# (host, port) -> its addresses; OSError if there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; OSError if the name cannot be resolved."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]


class QueueServer(V2Server):
    """The HTTP server of a stage's queue. Without `sender` and `describe` its replicas are MLServers.

    `model` is the model's name at MLServer (default: the stage's); {variant} in it stands for the replica's
    variant. `model_url` is the Service of the replicas. `parts` are the configurations of further parts by
    name; the other settings are those of the first part. `hosts` are the accepted host names, empty for any.
    `admin_token` enables the admin address. `lookup` resolves names. If it fails, the last known replicas
    stay: a batch sent to one shows if it is gone.
    """

    def __init__(
        self,
        pipeline: str,
        stage: str,
        *,
        model: str | None = None,
        model_url: str | None = None,
        sender: Sender | None = None,
        describe: Callable[[], Awaitable[bytes]] | None = None,
        hosts: frozenset[str] = frozenset(),
        limits: http.BodyLimits = http.DEFAULT_LIMITS,
        admin_token: str = "",
        parts: Mapping[str, QueueConfig] = tensors.NOTHING,
        lookup: Resolve = resolve,
        **queue: Any,
    ) -> None:
        self._metrics = QueueMetrics(pipeline, stage)
        super().__init__(stage, self._metrics, hosts=hosts, limits=limits, admin_token=admin_token)
        self._model = model or stage
        self._sender = sender or self._post
        self._max_items = {key: queue[key] for key in ("max_items",) if key in queue}
        first = StageQueue(self._sender, self._metrics, stage=stage, **queue)
        self._queues = {http.FIRST_PART: first}
        self._parts = parts
        self._model_url, self._lookup = model_url, lookup
        self._describe = describe if sender else self._describe_replica
        self._declared = UNDECLARED
        # True until a replica has said what its model declares, since the last change.
        self._is_changed = True
        self._looking: asyncio.Task[None] | None = None
        # Of the replicas behind the Service.
        self._urls: list[str] = []

    async def _start(self) -> None:
        await super()._start()
        now_s = asyncio.get_running_loop().time
        for part, config in self._parts.items():
            self._queue_of(part).configure(config)
        # Called by the thread of the scrape.
        self._metrics.suspects.set_function(
            lambda: sum(len(queue.replicas.suspects(now_s())) for queue in list(self._queues.values()))
        )
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Update the replicas, and the inputs and outputs of their model, until cancelled."""
        while True:
            if self._model_url:
                await self.discover()
            if self._is_changed:
                await self._learn()
            await asyncio.sleep(LOOK_EVERY_S)

    async def discover(self) -> None:
        """Use the replicas behind the Service of the model, if they have changed."""
        parts = urlsplit(self._model_url or "")
        port = parts.port or 80
        try:
            addresses = await self._lookup(parts.hostname or "", port)
        except OSError as error:
            log.debug("%s cannot be resolved: %s", parts.hostname, error)
            return
        # Brackets around an address of IPv6.
        hosts = (f"[{address}]" if ":" in address else address for address in addresses)
        urls = sorted({f"http://{host}:{port}" for host in hosts})
        if urls and urls != self._urls:
            self._urls, queue = urls, self._queues[http.FIRST_PART]
            queue.configure(replace(queue.config, replicas=dict.fromkeys(urls, UNKNOWN_VARIANTS)))
            self._is_changed = True

    async def _learn(self) -> None:
        """Ask a replica for the inputs and outputs that its model declares."""
        self._is_changed = False
        if self._describe:
            try:
                self._declared = parse_model(await self._describe())
            except (ConnectionLostError, OversizedAnswerError) as error:
                log.debug("the metadata of the model cannot be read: %s", error)
                self._is_changed = True

    async def _stop(self) -> None:
        if self._looking:
            self._looking.cancel()
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))
        await super()._stop()

    async def _describe_replica(self) -> bytes:
        """The metadata of a replica's model. ConnectionLostError: no replica answers."""
        for queue in list(self._queues.values()):
            for url, variant in queue.config.running.items():
                model = self._model.replace(ANY_VARIANT, variant)
                status, body = await self._client.get(f"{url}/v2/models/{model}", METADATA_S)
                if status == 200:
                    return body
        raise ConnectionLostError("no replica answers for its model")

    async def _post(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        """Send a batch to a replica's model."""
        model = self._model.replace(ANY_VARIANT, variant)
        status, answer, _ = await self._client.post(f"{url}/v2/models/{model}/infer", body, {})
        return status, answer

    def _queue_of(self, part: str) -> StageQueue:
        """The queue of that part, which has no replicas until it is configured."""
        if part not in self._queues:
            metrics = self._metrics.of_part(part)
            made = StageQueue(self._sender, metrics, stage=self._name, **self._max_items)
            self._queues[part] = made
        return self._queues[part]

    async def _infer(self, call: http.Call) -> http.Response:
        now_s = asyncio.get_running_loop().time
        came_s = now_s()
        given_s = call.budget_s()
        budget_s = http.DEFAULT_BUDGET_S if given_s is None else given_s
        ahead = parse_times(call.headers.get(AHEAD_HEADER))
        aim_s = parse_ms(call.headers.get(AIM_HEADER))
        queue = self._queue_of(call.part())
        queue.set_arrivals_ratio(parse_ratio(call.headers.get(ARRIVALS_HEADER)), came_s)
        try:
            text, rest = tensors.json_part(call.body, call.headers.get(tensors.JSON_LENGTH_HEADER))
            body = await call.parse_object(text)
            has_binary = bool(rest) or b'"' + tensors.BINARY_SIZE.encode() in text
            if has_binary:
                call.hold(tensors.made_bytes(body.get("inputs"), rest, call.limits.values))
            parsed = await aside(call.is_large, self._request, call, body, rest if has_binary else None)
            aim = {} if aim_s is None else {"aim_s": aim_s}
            request = await queue.infer(parsed.inputs, budget_s, parsed.members, ahead, **aim)
            is_large = tensors.values_of(request.answer) > tensors.INLINE_VALUES
            response = await aside(is_large, self._answer, call, parsed, request, now_s())
        except InputError as error:
            raise http.HttpError(400, error.code, str(error), cause=LossCause.INVALID_REQUEST) from error
        expected = queue.expected(now_s(), request.items).to_header()
        times = {EXPECTED_HEADER: expected, TOOK_HEADER: f"{(now_s() - came_s) * 1000:.3f}"}
        # Several, if the request was split over batches.
        answered = {VARIANTS_HEADER: "+".join(sorted(request.variants))} if request.variants else {}
        return response.with_headers(times | answered)

    def _request(self, call: http.Call, body: dict[str, Any], rest: bytes | None) -> tensors.InferRequest:
        """The request of a call; InputError if it is invalid, or does not fit the model's inputs."""
        declared, most_values = self._declared, call.limits.values
        if rest is not None:
            tensors.fill(body.get("inputs"), rest, declared.content_type, most_values)
        parsed = tensors.parse_request(body, most_values)
        declared.check_inputs(parsed.inputs)
        if parsed.wanted is not None and declared.outputs:
            tensors.check_outputs(parsed.wanted, [FAN_OUT, *(it.name for it in declared.outputs)])
        return parsed

    def _answer(
        self, call: http.Call, parsed: tensors.InferRequest, request: QueuedRequest, ended_s: float
    ) -> http.Response:
        """The response to a request that has ended; InputError: it names unknown outputs.

        503: it was turned away; 504: it ran out of time.
        """
        if request.outcome is not Outcome.ANSWERED:
            is_failed = request.outcome is Outcome.FAILED
            return http.HttpError(
                502 if is_failed else 503 if request.cause in TURNED_AWAY else 504,
                "failed" if is_failed else "dropped",
                request.detail,
                cause=request.cause or "",
                retry_after_s=request.retry_after_s,
            ).response()
        outputs = parsed.select(request.answer) if request.answer else ()
        name = call.headers.get(NAME_HEADER) or self._name
        members = {"model_name": name, "id": parsed.request_id}
        body, length = tensors.dump_with_bytes(outputs, parsed.is_binary, **members)
        times = {"wait": request.taken_s - request.arrived_s, "model": ended_s - request.taken_s}
        return v2_response(body, length).with_headers({TIMING_HEADER: server_timing(times)})

    async def _metadata(self, _call: http.Call) -> http.Response:
        if self._declared is UNDECLARED:
            await self._learn()
        return json_response(self._declared.to_json(self._name))

    async def _ready(self, _call: http.Call) -> http.Response:
        if not any(queue.config.replicas for queue in self._queues.values()):
            raise http.HttpError(503, "not_ready", f"stage {self._name} has no replica yet")
        return json_response({"name": self._name, "ready": True})

    async def _read_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        return json_response(self._queue_of(call.part()).to_json())

    async def _write_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        queue = self._queue_of(call.part())
        try:
            queue.configure(parse_config(tensors.parse_object(call.body, "the body"), queue.config))
        except InputError as error:
            raise http.HttpError(422, "input", str(error)) from error
        self._is_changed = True
        return json_response(queue.to_json())


def main() -> None:
    """Serve until a stop signal, configured by the environment."""
    pipeline, stage = required("IPA_PIPELINE", "IPA_STAGE")
    server = QueueServer(
        pipeline,
        stage,
        model=setting("IPA_MODEL", str, None),
        model_url=setting("IPA_MODEL_URL", str, None),
        # As in MLServer, 0 means no batching.
        batch_size=max(1, setting("MLSERVER_MODEL_MAX_BATCH_SIZE", int, 1)),
        batch_timeout_s=setting("MLSERVER_MODEL_MAX_BATCH_TIME", float, 0.1),
        max_items=setting("IPA_MAX_ITEMS", int, 4096),
        parts=setting("IPA_PARTS", parse_parts, {}),
        **edge(),
    )
    serve(server.application(), server.registry, "ipa-queue")


if __name__ == "__main__":
    main()
