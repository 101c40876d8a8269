"""A stage's queue as a process: `python -m ipa.dataplane.queue`, configured by its environment.

    POST /v2/models/{stage}/infer   a V2 request; its answer has one row an item, or as fan_out says
    GET  /v2/models/{stage}         V2's metadata: the inputs and outputs that its model declares
    GET  /v2/models/{stage}/ready   200 once there is a replica, 503 before; also /v2/health/ready
    GET  /v2                        V2's metadata of the server
    GET  /metrics                   Prometheus
    GET  /admin/config              the configuration and the replicas: active, draining, suspected to hang
    PUT  /admin/config              {"batch_size": 4, "batch_timeout_s": 0.02, "replicas": ["http://..."],
                                     "largest_batch_size": 8, "profiled_s": {"small": [0.02, 0.01]}}

Every key of a PUT is optional. `profiled_s` are by variant the seconds for the first item of a batch
and for each further one, as profiled: they say how long a batch takes until such a one was seen. A replica
may be {"url": "http://...", "variant": "large", "lighter": ["small"], "heavier": ["huge"]}: errors then name
the variant, batches that would be late are served by a lighter one, and heavier ones serve while there is
time. Where several configurations run side by side, each has a queue of its own: the header ipa-part says
which of them a request, or a configuration, is for.

The admin address answers callers on this machine that have the token of IPA_ADMIN_TOKEN. It is off without a
token, as in a container.

The settings are IPA_PIPELINE, IPA_STAGE, IPA_PARTS (JSON: by part a configuration as of a PUT),
IPA_MODEL_URL (the headless Service of the model: each of its pods is a replica), IPA_MODEL (the model's name
at MLServer, in which {variant} is the replica's: those that have several loaded switch with a PUT),
IPA_VARIANT (the variant to run, of several that each pod has loaded), IPA_LIGHTER (those that may stand in
for it), IPA_HEAVIER (those that may serve while there is time), IPA_RESIDENTS (the variants that a pod has
loaded together, a group a word), IPA_PROFILED_S, MLSERVER_MODEL_MAX_BATCH_SIZE and
MLSERVER_MODEL_MAX_BATCH_TIME (with MLServer's meaning),
IPA_MAX_ITEMS, IPA_MAX_BODY_MB, IPA_MAX_HELD_MB, IPA_HOST, IPA_DRAIN_S, IPA_METRICS_PORT, and IPA_PORT or
the port that the operator gives it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from ipa.dataplane import binary, http
from ipa.dataplane.batching import LossCause, Outcome, QueuedRequest
from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.declared import LOOK_EVERY_S, UNDECLARED, Declarations
from ipa.dataplane.environment import edge, required, serve, setting
from ipa.dataplane.expectation import (
    AHEAD_HEADER,
    AIM_HEADER,
    ASKED_HEADER,
    EXPECTED_HEADER,
    NAME_HEADER,
    TIMING_HEADER,
    TOOK_HEADER,
    parse_ms,
    parse_ratio,
    parse_times,
    server_timing,
)
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.queue_config import QueueConfig, parse_config, parse_parts, parse_profile
from ipa.dataplane.replicas import UNKNOWN_VARIANTS
from ipa.dataplane.stagequeue import Sender, StageQueue
from ipa.dataplane.tensors import (
    INLINE_VALUES,
    NOTHING,
    InferRequest,
    check_outputs,
    parse_object,
    parse_request,
    values_of,
)
from ipa.dataplane.v2 import VERSION, V2Server, json_response, model_ready
from ipa.model.errors import InputError
from ipa.model.resident import ANY_VARIANT
from ipa.model.serving import FAN_OUT
from ipa.serving.body_budget import aside

log = logging.getLogger("ipa.dataplane")

# A model server answers for its model at once, but for while it loads.
METADATA_S = 2.0

# A pod of which it is asked which variants it has answers within that.
LOADED_WITHIN_S = 1.0

# (host, port) -> its addresses; OSError if there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


# Base URLs of the replicas -> True if they are served with, all of them.
Found = Callable[[tuple[str, ...]], Awaitable[bool]]


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; OSError if the name is not known."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """A poller that reports the replicas behind the base URL of their Service to a queue.

    If the name cannot be resolved, the last known replicas stay: sending to one finds out if it is gone.
    Those of which `found` is not sure (False) are reported again.
    """

    def __init__(self, url: str, found: Found, lookup: Resolve = resolve) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._found = found
        self._resolve = lookup
        self._last: tuple[str, ...] = ()

    async def look(self) -> None:
        """Resolve once, and report the replicas if they differ from the last report."""
        try:
            addresses = await self._resolve(self._host, self._port)
        except OSError as error:
            log.debug("%s cannot be resolved: %s", self._host, error)
            return
        urls = tuple(sorted({f"http://{http.bracketed(address)}:{self._port}" for address in addresses}))
        if urls and urls != self._last and await self._found(urls):
            self._last = urls

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)


# The time budget of a request that has none.
DEFAULT_BUDGET_S = 30.0
TURNED_AWAY = (LossCause.OVERLOAD, LossCause.QUEUE_FULL)


class QueueServer(V2Server):
    """The HTTP server of a stage's queue. Without `sender` and `describe` it asks MLServer replicas.

    `model` is the model's name at MLServer (default: the stage's), in which {variant} stands for that of the
    replica, `model_url` the Service of its replicas. `variants` are those that replicas found there run: the
    first and the lighter ones that may stand in for it; `heavier_variants` may while there is time. `groups`
    say which variants a replica has loaded together, in an order in which neighbours are alike (empty: all).
    `parts` are the configurations of further parts by their names; the other settings are those of the first.
    `hosts` are the accepted host names, empty for any. `admin_token` enables the admin address.
    """

    def __init__(
        self,
        pipeline: str,
        stage: str,
        *,
        model: str | None = None,
        model_url: str | None = None,
        variants: tuple[str, ...] = UNKNOWN_VARIANTS,
        heavier_variants: tuple[str, ...] = (),
        groups: Sequence[tuple[str, ...]] = (),
        sender: Sender | None = None,
        describe: Callable[[], Awaitable[bytes]] | None = None,
        hosts: frozenset[str] = frozenset(),
        limits: http.BodyLimits = http.DEFAULT_LIMITS,
        admin_token: str = "",
        parts: Mapping[str, QueueConfig] = NOTHING,
        **queue: Any,
    ) -> None:
        self._metrics = QueueMetrics(pipeline, stage)
        super().__init__(stage, self._metrics, hosts=hosts, limits=limits, admin_token=admin_token)
        self._model = model or stage
        self._sender = sender
        self._max_items = {key: queue[key] for key in ("max_items",) if key in queue}
        first = StageQueue(self._send_of(http.FIRST_PART), self._metrics, stage=stage, **queue)
        self._queues = {http.FIRST_PART: first}
        self._parts = parts
        self._discovery = Discovery(model_url, self._serve_with) if model_url else None
        self._declared = Declarations(self._describe if sender is None else describe)
        self._looking: list[asyncio.Task[None]] = []
        self._asked, self._heavier, self._groups = variants, heavier_variants, groups
        # By URL: what it has loaded of them.
        self._loaded: dict[str, tuple[str, ...]] = {}

    async def _start(self) -> None:
        await super()._start()
        now_s = asyncio.get_running_loop().time
        for part, config in self._parts.items():
            self._queue_of(part).configure(config)
        # Called by the thread of the scrape.
        self._metrics.suspects.set_function(
            lambda: sum(len(queue.suspects(now_s())) for queue in list(self._queues.values()))
        )
        self._declared.change()
        self._looking.append(asyncio.create_task(self._declared.run()))
        if self._discovery:
            self._looking.append(asyncio.create_task(self._discovery.run()))

    async def _stop(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))
        await super()._stop()

    async def _describe(self) -> bytes:
        """The metadata of a replica's model. ConnectionLostError: no replica answers for its model."""
        for queue in list(self._queues.values()):
            for url, variant in queue.running().items():
                model = self._model.replace(ANY_VARIANT, variant)
                status, body = await self._client.get(f"{url}/v2/models/{model}", METADATA_S)
                if status == 200:
                    return body
        raise ConnectionLostError("no replica answers for its model")

    def _send_of(self, part: str) -> Sender:
        """Sends the batches of that part."""

        async def post(url: str, body: bytes) -> tuple[int, bytes]:
            model = self._model.replace(ANY_VARIANT, self._queues[part].given_variant(url))
            status, answer, _ = await self._client.post(f"{url}/v2/models/{model}/infer", body, {})
            return status, answer

        return self._sender or post

    def _queue_of(self, part: str) -> StageQueue:
        """The queue of that part, which has no replicas until it is configured."""
        if part not in self._queues:
            metrics = self._metrics.of_part(part)
            made = StageQueue(self._send_of(part), metrics, stage=self._name, **self._max_items)
            self._queues[part] = made
        return self._queues[part]

    async def _serve_with(self, urls: tuple[str, ...]) -> bool:
        """Serve with the replicas there, and return True if it is known of all which variants they have."""
        self._loaded = {url: self._loaded.get(url) or await self._variants_of(url) for url in urls}
        known = {url: names for url, names in self._loaded.items() if names}
        if known:
            heavier = {url: self._heavier for url, names in known.items() if names == self._asked}
            self._queues[http.FIRST_PART].configure(QueueConfig(replicas=known, heavier=heavier))
            self._declared.change()
        return len(known) == len(urls)

    async def _variants_of(self, url: str) -> tuple[str, ...]:
        """The variants that the replica runs; empty while it is not known which it has loaded.

        One that has others loaded, as while pods are replaced, runs that which is most like the first.
        """
        if len(self._groups) < 2:
            return self._asked
        for group in self._groups:
            if not await self._has(url, group[0]):
                continue
            if self._asked[0] in group:
                return self._asked
            order = [name for each in self._groups for name in each]
            place = order.index(self._asked[0])
            return (min(group, key=lambda name: abs(order.index(name) - place)),)
        return ()

    async def _has(self, url: str, variant: str) -> bool:
        """True if the replica has the variant loaded."""
        model = self._model.replace(ANY_VARIANT, variant)
        try:
            status, _ = await self._client.get(f"{url}/v2/models/{model}/ready", LOADED_WITHIN_S)
        except ConnectionLostError:
            return False
        return status == 200

    async def _infer(self, call: http.Call) -> http.Response:
        now_s = asyncio.get_running_loop().time
        came_s = now_s()
        budget_s = call.budget_s()
        budget_s = DEFAULT_BUDGET_S if budget_s is None else budget_s
        ahead = parse_times(call.headers.get(AHEAD_HEADER))
        aim_s = parse_ms(call.headers.get(AIM_HEADER))
        queue = self._queue_of(call.part())
        queue.asked(parse_ratio(call.headers.get(ASKED_HEADER)))
        try:
            asked = await self._parse(call)
            request = await queue.infer(asked.inputs, budget_s, asked.members, ahead, aim_s)
            is_large = values_of(request.answer) > INLINE_VALUES
            response = await aside(is_large, self._answer, call, asked, request, now_s())
        except InputError as error:
            raise http.HttpError(400, error.code, str(error), cause=LossCause.INVALID_REQUEST) from error
        expected = queue.expected(request.items).to_header()
        times = {EXPECTED_HEADER: expected, TOOK_HEADER: f"{(now_s() - came_s) * 1000:.3f}"}
        return response.with_headers(times)

    async def _parse(self, call: http.Call) -> InferRequest:
        """The request of a call; InputError if it is none, or none that the model takes."""
        text, rest = binary.json_part(call.body, call.headers.get(binary.JSON_LENGTH_HEADER))
        body = await call.parse_object(text)
        has_binary = bool(rest) or b'"' + binary.SIZE.encode() in text
        if has_binary:
            call.hold(binary.made_bytes(body.get("inputs"), rest, call.limits.values))
        return await aside(call.is_large, self._request_of, body, rest, has_binary, call.limits.values)

    def _request_of(
        self, body: dict[str, Any], rest: bytes, has_binary: bool, most_values: int
    ) -> InferRequest:
        declared = self._declared.model
        if has_binary:
            binary.fill(body.get("inputs"), rest, declared.content_type, most_values)
        asked = parse_request(body, most_values)
        declared.check_inputs(asked.inputs)
        if asked.wanted is not None and declared.outputs:
            check_outputs(asked.wanted, [FAN_OUT, *(it.name for it in declared.outputs)])
        return asked

    def _answer(
        self, call: http.Call, asked: InferRequest, request: QueuedRequest, ended_s: float
    ) -> http.Response:
        """The response to a request that has ended; InputError: it names outputs that there are not."""
        if request.outcome is not Outcome.ANSWERED:
            return _loss(request).response()
        outputs = asked.select(request.answer) if request.answer else ()
        name = call.headers.get(NAME_HEADER) or self._name
        body, length = binary.dump_with_bytes(outputs, asked.is_binary, model_name=name, id=asked.request_id)
        waited_s = request.taken_s - request.arrived_s
        served_s = ended_s - request.taken_s
        headers = {TIMING_HEADER: server_timing({"wait": waited_s, "model": served_s})}
        if length is None:
            return http.Response(body, headers=headers)
        return http.Response(
            body,
            content_type=binary.CONTENT_TYPE,
            headers={**headers, binary.JSON_LENGTH_HEADER: str(length)},
        )

    async def _metadata(self, _call: http.Call) -> http.Response:
        if self._declared.model is UNDECLARED:
            await self._declared.look()
        return json_response(self._declared.model.to_json(self._name, VERSION))

    async def _ready(self, _call: http.Call) -> http.Response:
        self._require_replica()
        return http.Response(b'{"ready":true}')

    async def _model_ready(self, _call: http.Call) -> http.Response:
        self._require_replica()
        return model_ready(self._name)

    def _require_replica(self) -> None:
        if not any(queue.has_replicas for queue in self._queues.values()):
            raise http.HttpError(503, "not_ready", f"stage {self._name} has no replica yet")

    async def _read_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        return http.Response(orjson.dumps(self._queue_of(call.part()).to_json()))

    async def _write_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        queue = self._queue_of(call.part())
        try:
            queue.configure(parse_config(parse_object(call.body, "the body")))
        except InputError as error:
            raise http.HttpError(422, "input", str(error)) from error
        self._declared.change()
        return http.Response(orjson.dumps(queue.to_json()))


def _loss(request: QueuedRequest) -> http.HttpError:
    """The error of a request without an answer. 503: it was turned away; 504: it ran out of time."""
    status = 502 if request.outcome is Outcome.FAILED else 503 if request.cause in TURNED_AWAY else 504
    code = "failed" if request.outcome is Outcome.FAILED else "dropped"
    return http.HttpError(
        status,
        code,
        request.detail,
        cause=request.cause or "",
        retry_after_s=request.retry_after_s,
    )


def main() -> None:
    """Serve until a stop signal, as the environment says."""
    pipeline, stage = required("IPA_PIPELINE", "IPA_STAGE")
    server = QueueServer(
        pipeline,
        stage,
        model=setting("IPA_MODEL", str, None),
        model_url=setting("IPA_MODEL_URL", str, None),
        variants=(setting("IPA_VARIANT", str, ""), *setting("IPA_LIGHTER", str.split, [])),
        heavier_variants=tuple(setting("IPA_HEAVIER", str.split, [])),
        groups=[tuple(group.split(",")) for group in setting("IPA_RESIDENTS", str.split, [])],
        # As MLServer's: 0 is no batching.
        batch_size=max(1, setting("MLSERVER_MODEL_MAX_BATCH_SIZE", int, 1)),
        batch_timeout_s=setting("MLSERVER_MODEL_MAX_BATCH_TIME", float, 0.1),
        profiled_s=setting("IPA_PROFILED_S", parse_profile, {}),
        max_items=setting("IPA_MAX_ITEMS", int, 4096),
        parts=setting("IPA_PARTS", parse_parts, NOTHING),
        **edge(),
    )
    serve(server.application(), server.registry)


if __name__ == "__main__":
    main()
