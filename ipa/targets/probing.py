"""A smoke request over HTTP, sent as a client of a pipeline sends it, with a bound on time and size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from ipa.model.errors import UsageError
from ipa.model.masking import mask_url
from ipa.model.probe import V2, ProbeRequest, ProbeResult, ProbeTransport

HTTP = "http"
# An answer is read to see that it is one; a larger one is not.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# Of an answer that is none, in messages.
MOST_SHOWN = 200

# The reason why a JSON document is no answer; empty if it is one.
Judge = Callable[[Any], str]


def check_url(address: str) -> SplitResult:
    """The parts of the base URL; UsageError if it is none of http or https."""
    try:
        found = urlsplit(address)
    except ValueError:
        found = urlsplit("")
    if found.scheme not in ("http", "https") or not found.hostname:
        raise UsageError(
            f"{mask_url(address)!r} is not an http or https URL", hint="For example http://127.0.0.1:8000"
        )
    return found


def v2_fault(answer: Any) -> str:
    """The reason why the document is no answer of protocol V2; empty if it is one."""
    if isinstance(answer, Mapping) and isinstance(answer.get("outputs"), list) and answer["outputs"]:
        return ""
    return f"the answer has no outputs: {shown(answer)}"


def shown(value: Any) -> str:
    """The value as JSON, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def probe_v2(asked: ProbeRequest, url: str) -> ProbeResult:
    """The result of posting the request to the URL as V2. UsageError for what HTTP cannot do with V2."""
    return post(asked, url, V2, v2_fault)


def post(asked: ProbeRequest, url: str, protocol: str, judge: Judge) -> ProbeResult:
    """The result of posting the request's body to the URL; nothing is raised for an answer that fails."""
    started_s = time.perf_counter()
    status, answer, detail, timing = _posted(url, asked.body, asked.timeout_s)
    latency_s = time.perf_counter() - started_s
    if not detail:
        detail = judge(answer)
    return ProbeResult(
        mask_url(url),
        protocol,
        ProbeTransport.REST,
        HTTP,
        not detail,
        latency_s,
        status=status,
        detail=detail,
        answer=answer,
        timing=timing,
    )


def _posted(url: str, body: Mapping[str, Any], timeout_s: float) -> tuple[int | None, Any, str, str]:
    """Status, JSON document, fault and `Server-Timing` of the answer, each as far as there is one."""
    status: int | None = None
    try:
        # No redirects: another server would answer. No proxy of the environment: the address is the server's.
        with (
            httpx.Client(timeout=timeout_s, trust_env=False) as client,
            client.stream("POST", url, json=dict(body)) as response,
        ):
            status = response.status_code
            timing = response.headers.get("server-timing", "")
            content = _read(response, time.monotonic() + timeout_s)
    except (httpx.TimeoutException, TimeoutError):
        return status, None, f"no answer within {timeout_s:g} s", ""
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # A host name may be too long to be encoded.
        return status, None, f"no answer: {error or type(error).__name__}", ""
    except OverflowError:
        return status, None, f"the answer has more than {MAX_ANSWER_BYTES} bytes", ""
    return status, *_judged(status, content), timing


def _read(response: httpx.Response, until_s: float) -> bytes:
    """The body. TimeoutError: it takes longer; OverflowError: it is larger than an answer."""
    content = b""
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise OverflowError
        if time.monotonic() > until_s:
            raise TimeoutError
    return content


def _judged(status: int, content: bytes) -> tuple[Any, str]:
    """The JSON document and its fault: a status other than 200, or no JSON."""
    try:
        answer = json.loads(content)
        fault = ""
    except ValueError:
        answer = content.decode("utf-8", "replace")
        fault = f"the answer is not JSON: {shown(answer)}"
    if status != httpx.codes.OK:
        return answer, f"it answered {status}: {shown(answer)}"
    return (None if fault else answer), fault
