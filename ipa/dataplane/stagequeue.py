"""A stage's queue on an event loop: its configuration as JSON, tensors, and `batchqueue` between the two."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any
from urllib.parse import urlsplit

from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.tensors import (
    INLINE_BYTES,
    INLINE_VALUES,
    NOTHING,
    Tensors,
    dump,
    items_of,
    kind_of,
    merge,
    parse_answer,
    parse_object,
    split,
    values_of,
)
from ipa.model.errors import InputError
from ipa.serving.batching import Batch, Batcher, LossCause, Outcome, QueuedRequest
from ipa.serving.batchqueue import KEYS, BatchQueue, QueueConfig, Variants
from ipa.serving.body_budget import aside
from ipa.serving.expectation import UNKNOWN, StageTimes
from ipa.serving.replicas import ModelServer

log = logging.getLogger("ipa.dataplane")

# (replica's URL, variant, body) -> (status, body); ConnectionLostError if the replica is gone.
Sender = Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]]

# The answer of an MLServer that is stopping or still loading; handled like a lost connection.
UNAVAILABLE = 503
# When the queue stops, batches with waiting requests have this long; the server has drained before.
CLOSE_S = 1.0
# The most that is quoted of a model server's error.
QUOTED_BYTES = 300
MAX_BATCH_SIZE = 1024
MAX_REPLICAS = 1024
# Longer than requests wait that have no time budget of their own.
MAX_BATCH_TIMEOUT_S = 30.0


FIRST_CONFIG = QueueConfig()


def parse_config(given: Any, before: QueueConfig = FIRST_CONFIG) -> QueueConfig:
    """Return the configuration `before` with the changes of a JSON object.

    InputError lists all faults.
    """
    if not isinstance(given, dict):
        raise InputError("the configuration must be a JSON object")
    wrong = [f"unknown key {key!r}" for key in given.keys() - {*KEYS}]
    changes = {key: value for key, value in given.items() if value is not None}
    for key in ("batch_size", "largest_batch_size"):
        if not (type(size := changes.get(key, 1)) is int and 1 <= size <= MAX_BATCH_SIZE):
            wrong.append(f"{key} must be a whole number from 1 to {MAX_BATCH_SIZE}")
    if not _is_between(changes.get("batch_timeout_s", 0), 0, MAX_BATCH_TIMEOUT_S):
        wrong.append(f"batch_timeout_s must be a number from 0 to {MAX_BATCH_TIMEOUT_S:g}")
    if "profiled_s" in changes:
        try:
            times = {name: (first, more) for name, (first, more) in changes["profiled_s"].items()}
            is_valid = all(_is_between(it, 0, sys.float_info.max) for pair in times.values() for it in pair)
        except (AttributeError, TypeError, ValueError):
            times, is_valid = {}, False
        if not is_valid or not all(first for first, _ in times.values()):
            wrong.append("profiled_s must be [first, next] by variant, in seconds")
        changes["profiled_s"] = times
    if "replicas" in changes:
        try:
            changes["replicas"], changes["heavier"] = _parse_replicas(changes["replicas"])
        except (AttributeError, TypeError, ValueError):
            example = "addresses like http://127.0.0.1:9000"
            wrong.append(f"replicas must be a list of at most {MAX_REPLICAS} {example}")
    if wrong:
        raise InputError("; ".join(wrong))
    return replace(before, **changes)


def parse_parts(text: str) -> dict[str, QueueConfig]:
    """Return the configurations of a JSON object by part; InputError: it has another form."""
    return {part: parse_config(given) for part, given in parse_object(text.encode(), "it").items()}


def _is_between(given: Any, least: float, most: float) -> bool:
    return type(given) in (int, float) and least <= given <= most


def _parse_replicas(given: Any) -> tuple[Variants, Variants]:
    """The variants by URL, and the heavier ones if any; TypeError, ValueError: not a list of replicas."""
    if not isinstance(given, list) or len(given) > MAX_REPLICAS:
        raise TypeError
    replicas: dict[str, tuple[str, ...]] = {}
    heavier: dict[str, tuple[str, ...]] = {}
    for each in given:
        entry = {"url": each} if isinstance(each, str) else each
        known = {"url": "", "variant": "", "lighter": [], "heavier": [], **entry}
        url, variant, lighter, more = known.values()
        parts = urlsplit(url)
        is_address = parts.scheme == "http" and parts.hostname and parts.port != 0
        is_valid = len(known) == 4 and isinstance(lighter, list) and isinstance(more, list)
        names = (variant, *lighter, *more)
        if not (is_valid and is_address and not parts.path + parts.query) or {*map(type, names)} != {str}:
            raise ValueError(url)
        replicas[url] = (variant, *lighter)
        if more:
            heavier[url] = tuple(more)
    return replicas, heavier


def merged_inputs(batch: Batch) -> Tensors:
    """The inputs of all slices, concatenated."""
    return merge(
        [tuple(it.rows(start, stop) for it in request.content[0]) for request, start, stop, _ in batch.slices]
    )


def batch_body(batch: Batch) -> bytes:
    """The V2 request to the model server."""
    return dump("inputs", merged_inputs(batch), **batch.slices[0].request.content[1])


def answer_batch(batcher: Batcher, batch: Batch, outputs: Tensors, where: str = "") -> list[QueuedRequest]:
    """Record the outputs of the batch, and return the requests that they complete or fail.

    `where` is the prefix of the details of failures.
    """
    try:
        answers = split(outputs, [piece.items for piece in batch.slices])
    except ValueError as error:
        return batcher.fail(batch, f"{where}{error}")
    ended = []
    for piece, part in zip(batch.slices, answers, strict=True):
        request = piece.request
        if not piece.is_open:
            continue
        if name := next((tensor.name for tensor in part if tensor.has_null), ""):
            detail = f"{where}output {name!r} contains null, which stands for NaN or infinity"
            ended += batcher.fail_requests([request], LossCause.MODEL_ERROR, detail)
            continue
        request.parts[piece.start] = part
        request.served += piece.items
        if request.served < request.items:
            continue
        ended.append(request)
        try:
            request.answer = merge([request.parts[start] for start in sorted(request.parts)])
        except ValueError as error:
            batcher.fail_requests([request], LossCause.MODEL_ERROR, str(error))
        else:
            batcher.end(request, Outcome.ANSWERED)
    return ended


class StageQueue(BatchQueue):
    """A stage's queue: it accepts requests, sends batches to replicas, and ends each request exactly once.

    A request ends by its deadline, whatever the replicas do. `config` are the fields of the first
    `QueueConfig`; `BatchQueue` chooses the batches.
    """

    def __init__(
        self, send: Sender, metrics: QueueMetrics, *, stage: str = "", max_items: int = 4096, **config: Any
    ) -> None:
        super().__init__(QueueConfig(**config), max_items)
        self._send = send
        self._metrics = metrics
        self._stage = stage
        self._futures: dict[QueuedRequest, asyncio.Future[None]] = {}
        self._batches: dict[asyncio.Task[None], Batch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    async def infer(
        self,
        inputs: Tensors,
        budget_s: float,
        members: Mapping[str, Any] = NOTHING,
        ahead: StageTimes = UNKNOWN,
        aim_s: float = inf,
    ) -> QueuedRequest:
        """Serve a request. Return it answered, dropped or failed. InputError: it is too large to queue.

        `ahead` are the times of the later stages. The request is dropped after `budget_s`; to answer it
        within `aim_s` lighter variants may serve it. Both are reduced by the later stages' least time.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        content, items, most = (inputs, members), items_of(inputs), self.batcher.max_items
        if items > max(1, most):
            raise InputError(
                f"the request has {items} items, more than the {most} that may wait",
                hint="Send it in several requests.",
            )
        self._metrics.arrivals.inc(items)
        kind, times_s = kind_of(inputs, members), (now_s, now_s + budget_s, now_s + aim_s)
        request = self.arrive(content, items, *times_s, ahead, kind)
        if request.outcome is None:
            self._futures[request] = ended = loop.create_future()
            self._pump()
            # A caller that disconnects does not stop its request: it may be part of a batch.
            await ended
        self._metrics.items[request.outcome or Outcome.FAILED].inc(request.items)
        if request.cause:
            self._metrics.losses[request.cause].inc(request.items)
        if request.outcome is Outcome.ANSWERED:
            self._metrics.stage_s.observe(loop.time() - now_s)
        return request

    def configure(self, config: QueueConfig) -> None:
        """Apply this configuration."""
        self.set_config(config, asyncio.get_running_loop().time())
        self._pump()

    def to_json(self) -> dict[str, Any]:
        """The configuration, the number of waiting items, and the replicas that drain or seem to hang."""
        report = self.replicas.to_json(asyncio.get_running_loop().time())
        return {**self.config.to_json(), "waiting_items": self.batcher.waiting_items, **report}

    def _pump(self) -> None:
        """Drop late requests, send batches that are due, and set the timer for the next of either."""
        loop = asyncio.get_running_loop()
        ended, batches, next_s = self.pump(loop.time())
        self._end(ended)
        for replica, batch in batches:
            task = loop.create_task(self._serve(replica, batch))
            self._batches[task] = batch
            task.add_done_callback(self._batches.pop)
        self._metrics.length.set(self.batcher.waiting_items)
        # An earlier timer is left: to pump once more is cheaper than a new timer with each request.
        if self._timer and self._timer_s > next_s:
            self._timer.cancel()
            self._timer = None
        if not self._timer and next_s < inf:
            # Stored here, since a timer of uvloop that is due at once does not know its time.
            self._timer, self._timer_s = loop.call_at(next_s, self._wake), next_s

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    async def _serve(self, replica: ModelServer, batch: Batch) -> None:
        """Send the batch to the replica, which gets no other until it answers, whoever still waits."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        batcher = self.batcher
        where = f"stage {self._stage!r}, {replica.label}"
        values = sum(values_of(piece.request.content[0]) for piece in batch.slices)
        try:
            sent = await aside(values > INLINE_VALUES, batch_body, batch)
            status, body = await self._send(replica.url, replica.given_variant, sent)
            if status == UNAVAILABLE:
                raise ConnectionLostError("it is stopping or still loading")
        except ConnectionLostError as error:
            self.replicas.lost(replica, loop.time())
            self._metrics.retries.inc()
            if error.was_sent:
                self._end(batcher.lose(batch, f"{where}: {error}"))
            else:
                batcher.requeue(batch)
        except OversizedAnswerError as error:
            self.replicas.release(replica, loop.time(), loop.time() - began_s)
            self._end(batcher.fail(batch, f"{where}: {error}"))
        except Exception as error:  # no fault of one batch may stop the queue
            log.exception("%s: a batch could not be sent", where)
            self.replicas.lost(replica, loop.time())
            self._end(batcher.fail(batch, f"{where}: the batch could not be sent: {error}"))
        else:
            service_s = loop.time() - began_s
            if replica.given_level <= 0:
                # The causes that slow a heavier variant also slow the planned one.
                self._metrics.service_s.observe(service_s / replica.given_ratio)
                self._metrics.batch_size.observe(batch.items)
            self.note_answer(replica, batch, loop.time(), service_s, is_ok=status == 200)
            self._end(await self._answered(replica, batch, where, status, body))
        self._pump()

    async def _answered(
        self, replica: ModelServer, batch: Batch, where: str, status: int, body: bytes
    ) -> list[QueuedRequest]:
        """The requests that end with the model's answer."""
        batcher = self.batcher
        if status != 200:
            quoted = body[:QUOTED_BYTES].decode(errors="replace")
            return batcher.fail(batch, f"{where}: the model answered {status}: {quoted}")
        # A replica may be given the next batch meanwhile.
        variant = replica.given_variant
        try:
            outputs = await aside(len(body) > INLINE_BYTES, parse_answer, body)
        except InputError as error:
            return self.batcher.fail(batch, f"{where}: the model's answer is not a V2 response: {error}")
        if variant:
            self._metrics.variant_items(variant).inc(batch.items)
            for piece in batch.slices:
                piece.request.variants.add(variant)
        return answer_batch(batcher, batch, outputs, f"{where}: ")

    def _end(self, requests: list[QueuedRequest]) -> None:
        for request in requests:
            ended = self._futures.pop(request)
            # The future is cancelled if its caller disconnected.
            if not ended.done():
                ended.set_result(None)

    async def close(self) -> None:
        """Wait for the batches whose requests still wait, and cancel the others."""
        if self._timer:
            self._timer.cancel()
        awaited = [task for task, batch in self._batches.items() if batch.open_slices]
        if awaited:
            await asyncio.wait(awaited, timeout=CLOSE_S)
        left = list(self._batches)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
