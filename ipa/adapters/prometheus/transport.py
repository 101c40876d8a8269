"""prometheus-api-client over an HTTP session with a deadline, a size limit and checked answers.

The client returns `data.result` alone, so status, warnings and sizes are checked here.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from ipa.adapters.prometheus.connection import PrometheusConnection, tls_reason
from ipa.adapters.prometheus.queries import Query
from ipa.adapters.prometheus.query_batching import Span
from ipa.control.loop.scheduler import WORKERS
from ipa.model.errors import InputError, UnavailableError

# The largest answer to our queries (a load of 120 steps, a handful of stages) has 10 kB.
MAX_BYTES = 4_000_000
CHUNK_BYTES = 65_536
# A server error means that it cannot answer now, any other error that the query or the answer is wrong.
SERVER_ERROR = 500
OK = 200
REFUSALS = (401, 403)
# The load is read as one rate per second.
STEP_S = 1.0


class PrometheusHttp:
    """A Prometheus over its HTTP API. Errors: UnavailableError (no answer), InputError (invalid answer)."""

    def __init__(self, connection: PrometheusConnection) -> None:
        place, session = connection.url.rstrip("/"), CheckedSession(connection)
        self._prometheus = PrometheusConnect(
            url=place, session=session, retry=Retry(0), timeout=connection.timeout_s
        )
        # Replaces the client's own, which keeps ten connections and opens all others anew each time.
        session.mount(place, HTTPAdapter(max_retries=Retry(0), pool_maxsize=WORKERS))

    def fetch(self, query: Query | str, span: Span = None) -> list[Any]:
        """Return the result of the query, now or for each second of the span."""
        if span is None:
            return list(self._prometheus.custom_query(str(query)))
        start, end = (datetime.fromtimestamp(second, UTC) for second in span)
        return list(self._prometheus.custom_query_range(str(query), start, end, f"{STEP_S:g}"))


class CheckedSession(requests.Session):
    """A session in which every request returns a complete, successful answer within the time limit.

    Errors: UnavailableError (no answer), InputError (invalid answer). It follows no redirect, and uses no
    proxy or .netrc of the environment: only the configured metrics server is asked, and gets credentials.
    """

    def __init__(self, connection: PrometheusConnection) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"
        self.verify = connection.ca_file or True
        pair = connection.cert_file, connection.key_file
        self.cert = pair if connection.key_file else connection.cert_file or None
        self.auth = self._identified
        self._connection = connection
        self._timeout_s = connection.timeout_s

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send the request, and return the checked answer."""
        deadline_s = time.monotonic() + self._timeout_s
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": self._timeout_s}
        try:
            response = super().request(method, url, **kwargs)
            with response:
                body = self._read(response, deadline_s)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise UnavailableError(tls_reason(error) or type(error).__name__) from error
        response._content = body
        _check(response.status_code, body)
        return response

    def _identified(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request with the credentials as they are now."""
        request.headers.update(self._connection.headers())
        return request

    def _read(self, response: requests.Response, deadline_s: float) -> bytes:
        """The body. `read1` returns available bytes at once, so a slow server cannot exceed the deadline."""
        body = bytearray()
        while chunk := response.raw.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BYTES:
                raise InputError(f"more than {MAX_BYTES} bytes")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"not finished after {self._timeout_s:g} s")
        return bytes(body)


def _check(status: int, body: bytes) -> None:
    """Raise an error unless the answer is Prometheus' JSON, successful and without warnings.

    "PromQL info" annotations are remarks about a query, not about missing data.
    """
    if status >= SERVER_ERROR:
        raise UnavailableError(f"HTTP {status}")
    if status in REFUSALS:
        raise InputError(
            f"HTTP {status}: it refuses the service's credentials (IPA_PROMETHEUS_TOKEN_FILE, _USER, _TENANT)"
        )
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InputError(f"HTTP {status} with a body that is not a JSON object")
    if status != OK or answer.get("status") != "success":
        raise InputError(f"HTTP {status}: {_short(answer.get('error', 'no success'))}")
    warnings = [text for text in answer.get("warnings") or [] if not str(text).startswith("PromQL info")]
    if warnings:
        raise InputError(f"warning: {_short(warnings[0])}")
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise InputError("no result in the answer")


def _short(text: Any) -> str:
    """The first 200 characters of the server's message, on one line."""
    return " ".join(str(text).split())[:200]
