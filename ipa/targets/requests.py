"""HTTP requests to the servers of a pipeline, bounded in time and size, for probes and measurements."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from ipa.adapters.processes import processor_name
from ipa.dataplane import tensors
from ipa.model.errors import UnavailableError, UsageError
from ipa.model.masking import mask_url
from ipa.model.probe import V2, ProbeRequest, ProbeResult
from ipa.profiling.measure import BatchMeasurement, Item

# An answer is read to see that it is one; a larger one is not.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# Of an answer that is none, in messages.
MOST_SHOWN = 200
# For one batch.
TIMEOUT_S = 60.0


def check_url(address: str) -> None:
    """UsageError unless the address is an http or https URL."""
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{mask_url(address)!r} is not an http or https URL", hint="For example http://127.0.0.1:8000"
        )


def shown(value: Any) -> str:
    """The value as JSON, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def post(client: httpx.Client, url: str, body: bytes, timeout_s: float) -> ProbeResult:
    """The answer to the body, a JSON document; a failed request is a result, not an error."""
    status, timing, content, detail = None, "", bytearray(), ""
    started_s = time.perf_counter()
    try:
        # Without redirects, which another server would answer.
        sent = {"content-type": "application/json"}
        with client.stream("POST", url, content=body, headers=sent) as response:
            status, timing = response.status_code, response.headers.get("server-timing", "")
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    detail = f"the answer has more than {MAX_ANSWER_BYTES} bytes"
                    break
                if time.perf_counter() - started_s > timeout_s:
                    raise httpx.ReadTimeout("the answer was not complete in time")
    except httpx.TimeoutException:
        detail = f"no answer within {timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # A host name may be too long to be encoded.
        detail = f"no answer: {error or type(error).__name__}"
    answer = None
    if not detail:
        try:
            answer = orjson.loads(content)
        except ValueError:
            text = content.decode("utf-8", "replace")
            detail = f"the answer is not JSON: {shown(text)}"
            answer = None if status == httpx.codes.OK else text
        if status != httpx.codes.OK:
            detail = f"it answered {status}: {shown(answer)}"
    latency_s = time.perf_counter() - started_s
    return ProbeResult(mask_url(url), latency_s, detail, answer, status, timing)


def v2_fault(answer: Any) -> str:
    """The reason why the document is not an answer of protocol V2; empty if it is one."""
    if isinstance(answer, Mapping) and isinstance(answer.get("outputs"), list) and answer["outputs"]:
        return ""
    return f"the answer has no outputs: {shown(answer)}"


def probe_http(
    request: ProbeRequest, url: str, protocol: str = V2, fault: Callable[[Any], str] = v2_fault
) -> ProbeResult:
    """The result of posting the request's body to the URL; `fault` judges an answer of the protocol."""
    # Sent to the address itself, without the environment's proxies.
    with httpx.Client(timeout=request.timeout_s, trust_env=False) as client:
        result = post(client, url, orjson.dumps(dict(request.body)), request.timeout_s)
    return replace(result, protocol=protocol, detail=result.detail or fault(result.answer))


def machine() -> str:
    """The cores of this process and the name of the processor, in the form of a profile's `hardware`."""
    return f"{len(os.sched_getaffinity(0))} cores, {processor_name()}"


class MeasuredServer:
    """A model server under measurement, called over V2 at `url`.

    Its readiness and its memory are None if they cannot be read.
    """

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        readiness_s: float | None = None,
        memory_gib: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._client, self._url = client, url
        self.readiness_s, self.memory_gib = readiness_s, memory_gib

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        """Send the items as one batch and measure it: inputs merged, JSON, answers split again.

        UnavailableError if there is no answer.
        """
        parts = [tensors.parse(list(item), "inputs") for item in items]
        started_s = time.perf_counter()
        result = post(self._client, self._url, tensors.dump("inputs", tensors.merge(parts)), TIMEOUT_S)
        if result.fault:
            raise UnavailableError(result.fault)
        split = tensors.split(tensors.parse(result.answer["outputs"], "outputs"), [1] * len(items))
        latency_s = time.perf_counter() - started_s
        outputs = tuple({tensor.name: tensor.data for tensor in part} for part in split)
        return BatchMeasurement(latency_s, outputs)


class ServedBench:
    """Model servers that run already, each at the URL with its {stage}, {variant} and {cores} (500m)."""

    method = (
        "One replica that ran already, called over V2 at its address. One client sends batches back to back "
        "over HTTP, JSON coding included; latency is the p99 of a batch, throughput the batch size over the "
        "mean."
    )

    def __init__(self, url: str) -> None:
        check_url(url)
        self._url = url
        # The place of the servers, whose machine is not seen.
        self.hardware = f"servers at {mask_url(url)}"

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = TIMEOUT_S
    ) -> Iterator[MeasuredServer]:
        """The server of the variant with those cores. UnavailableError if it does not answer a batch."""
        url = self._url
        for name, value in (("stage", stage), ("variant", variant), ("cores", f"{round(cores * 1000)}m")):
            url = url.replace(f"{{{name}}}", value)
        with httpx.Client(timeout=within_s, trust_env=False) as client:
            yield MeasuredServer(client, url)
