"""Model servers that run, called as a queue or an orchestrator calls them, to measure what they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
import orjson

from ipa.adapters.processor import processor_name
from ipa.dataplane import tensors
from ipa.model.errors import UnavailableError
from ipa.model.masking import mask_url
from ipa.profiling.measure import BatchMeasurement, CpuTimes, Item

TIMEOUT_S = 60.0
METHOD = (
    "A server that ran already, at its address: one client sends requests back to back, coding included; "
    "latency is the p99, throughput the batch size over the mean. Cores are those that were said to be its; "
    "what else ran there was not seen."
)


class ServerCall(Protocol):
    """Sends the items to the server as one batch."""

    def __call__(self, client: httpx.Client, *, items: Sequence[Any]) -> BatchMeasurement: ...


def machine() -> str:
    """The cores of this process and the name of the processor, as profiles name the machine they are of."""
    return f"{len(os.sched_getaffinity(0))} cores, {processor_name()}"


def infer_v2(client: httpx.Client, *, url: str, items: Sequence[Item]) -> BatchMeasurement:
    """The answer over V2 to the items as one batch: merged inputs, JSON, answers split again.

    UnavailableError if there is none.
    """
    parts = [tensors.parse(list(item), "inputs") for item in items]
    started_s = time.perf_counter()
    answer = _posted(client, url, tensors.dump("inputs", tensors.merge(parts)))
    split = tensors.split(tensors.parse(answer["outputs"], "outputs"), [1] * len(items))
    latency_s = time.perf_counter() - started_s
    return BatchMeasurement(latency_s, tuple({tensor.name: tensor.data for tensor in part} for part in split))


def call_as_is(client: httpx.Client, *, url: str, items: Sequence[Any]) -> BatchMeasurement:
    """The JSON answer to the JSON body of the one item. UnavailableError if there is none."""
    (item,) = items
    started_s = time.perf_counter()
    answer = _posted(client, url, orjson.dumps(item))
    return BatchMeasurement(time.perf_counter() - started_s, (answer,))


def _posted(client: httpx.Client, url: str, body: bytes) -> Any:
    try:
        response = client.post(url, content=body, headers={"content-type": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"{mask_url(url)} gave no answer: {type(error).__name__}") from error
    if response.is_error:
        raise UnavailableError(f"{mask_url(url)} answered {response.status_code}: {response.text[:300]}")
    try:
        return orjson.loads(response.content)
    except ValueError as error:
        raise UnavailableError(f"{mask_url(url)} did not answer JSON: {response.text[:300]}") from error


class MeasuredServer:
    """A model server under measurement, and what is known of it: None of what cannot be seen from here."""

    def __init__(
        self,
        client: httpx.Client,
        call: ServerCall,
        readiness_s: float | None = None,
        memory_gib: Callable[[], float | None] = lambda: None,
        cpu_times: Callable[[], CpuTimes | None] = lambda: None,
    ) -> None:
        self._client, self._call = client, call
        self.readiness_s, self.memory_gib, self.cpu_times = readiness_s, memory_gib, cpu_times

    def infer(self, items: Sequence[Any]) -> BatchMeasurement:
        """The answer to the items as one batch; UnavailableError if there is none."""
        return self._call(self._client, items=items)


class RunningBench:
    """Measures one server that runs, whatever variant and cores it is said to be."""

    method = METHOD

    def __init__(self, hardware: str, call: ServerCall) -> None:
        self.hardware, self._call = hardware, call

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = TIMEOUT_S
    ) -> Iterator[MeasuredServer]:
        """The server; nothing is started or ended."""
        with httpx.Client(timeout=within_s, trust_env=False) as client:
            yield MeasuredServer(client, self._call)
