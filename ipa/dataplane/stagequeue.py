"""One stage's queue at work: the rules of `batching` on an event loop, with replicas behind a sender."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ipa.dataplane.batching import Batch, Batcher, Outcome, Request
from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.replicas import Replica, Replicas
from ipa.dataplane.tensors import Tensors, dump, parse
from ipa.model.errors import InputError

# (replica's URL, body) -> (status, body); ConnectionLostError where the replica is gone.
Sender = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]

# An MLServer that is stopping or still loading answers so; like one that is gone.
UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """What can be changed while the queue runs; None leaves it as it is."""

    batch_size: int | None = None
    batch_timeout_s: float | None = None
    replicas: tuple[str, ...] | None = None


class StageQueue:
    """Accepts requests, gives batches to replicas, and ends every accepted request exactly once."""

    def __init__(
        self,
        send: Sender,
        metrics: QueueMetrics,
        *,
        batch_size: int = 1,
        batch_timeout_s: float = 0.1,
        replicas: tuple[str, ...] = (),
        max_items: int = 4096,
    ) -> None:
        self._send = send
        self._metrics = metrics
        self._batcher = Batcher(batch_size, batch_timeout_s, max_items)
        self._replicas = Replicas(replicas)
        self._futures: dict[Request, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def infer(self, inputs: Tensors, budget_s: float) -> Request:
        """The request, ended: answered, dropped or failed."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        request = Request(inputs, now_s, now_s + budget_s)
        self._metrics.arrivals.inc(request.items)
        if not request.items:
            request.end(Outcome.ANSWERED)
        elif self._batcher.offer(request):
            self._futures[request] = ended = loop.create_future()
            self._pump()
            # A caller that went away does not stop its request: it may be part of a batch.
            await asyncio.shield(ended)
        else:
            request.is_refused = True
            request.end(Outcome.DROPPED, "the queue is full")
        self._metrics.items[request.outcome or Outcome.FAILED].inc(request.items)
        if request.outcome is Outcome.ANSWERED:
            self._metrics.stage_s.observe(loop.time() - now_s)
        return request

    def configure(self, config: QueueConfig) -> None:
        """Go on with this configuration."""
        if config.batch_size is not None:
            self._batcher.batch_size = config.batch_size
        if config.batch_timeout_s is not None:
            self._batcher.batch_timeout_s = config.batch_timeout_s
        if config.replicas is not None:
            self._replicas.set_urls(config.replicas)
        self._pump()

    def to_json(self) -> dict[str, Any]:
        """The configuration, the replicas with their load, those that still drain, and the items waiting."""
        return {
            "batch_size": self._batcher.batch_size,
            "batch_timeout_s": self._batcher.batch_timeout_s,
            "waiting_items": self._batcher.waiting_items,
            **self._replicas.to_json(),
        }

    def _pump(self) -> None:
        """Drop what is late, give away what is due, and set the timer for the next of either."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        service_s = self._replicas.least_service_s
        self._end(self._batcher.drop_late(now_s, service_s))
        while self._replicas.has_idle(now_s) and (batch := self._batcher.take(now_s)):
            task = loop.create_task(self._serve(self._replicas.acquire(now_s), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._metrics.length.set(self._batcher.waiting_items)
        self._set_timer(loop, now_s, service_s)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now_s: float, service_s: float) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        next_batch_s = self._batcher.next_batch_s()
        if next_batch_s is None:
            return
        if not self._replicas.has_idle(now_s):
            next_batch_s = self._replicas.next_up_s(now_s)
        moments = [
            moment for moment in (next_batch_s, self._batcher.next_drop_s(service_s)) if moment is not None
        ]
        if moments:
            self._timer = loop.call_at(min(moments), self._pump)

    async def _serve(self, replica: Replica, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            status, body = await self._send(replica.url, dump("inputs", batch.inputs()))
        except ConnectionLostError:
            status, body = UNAVAILABLE, b""
        now_s = loop.time()
        if status == UNAVAILABLE:
            self._replicas.lost(replica, now_s)
            self._batcher.requeue(batch)
            self._metrics.retries.inc()
        else:
            self._replicas.release(replica, now_s - began_s)
            self._metrics.service_s.observe(now_s - began_s)
            self._metrics.batch_size.observe(batch.items)
            self._end(self._settle(batch, status, body))
        self._pump()

    def _settle(self, batch: Batch, status: int, body: bytes) -> list[Request]:
        if status != 200:
            return self._batcher.fail(
                batch, f"the model answered {status}: {body[:300].decode(errors='replace')}"
            )
        try:
            outputs = parse(orjson.loads(body)["outputs"], "outputs")
        except (InputError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            return self._batcher.fail(batch, f"the model's answer is not a V2 response: {error}")
        return self._batcher.answer(batch, outputs)

    def _end(self, requests: list[Request]) -> None:
        for request in requests:
            self._futures.pop(request).set_result(None)

    async def close(self) -> None:
        """Wait for the batches in flight."""
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*self._tasks)
