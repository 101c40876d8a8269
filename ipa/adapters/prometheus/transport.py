"""An HTTP session for prometheus-api-client that ends in time, reads only so much, and checks answers.

The client hands on `data.result` and drops the rest: status, warnings and the sizes are looked at here.
"""

from __future__ import annotations

import json
import time
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from ipa.model.errors import InputError, UnavailableError

# The largest answer to our queries (a load of 120 steps, a handful of stages) has 10 kB.
MAX_BYTES = 4_000_000
CHUNK_BYTES = 65_536
# Server errors mean that it cannot answer now, all others that the question or the answer is wrong.
SERVER_ERROR = 500
OK = 200


class CheckedSession(requests.Session):
    """A session whose every request ends within `timeout_s` with a whole, successful answer.

    Raises UnavailableError where none came, InputError where it cannot be used. Redirects are not followed,
    proxies and .netrc of the environment not used: the metrics server is where the settings say.
    """

    def __init__(self, timeout_s: float, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """The answer, read and checked."""
        deadline_s = time.monotonic() + self._timeout_s
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": self._timeout_s}
        try:
            response = super().request(method, url, **kwargs)
            with response:
                body = self._read(response, deadline_s)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise UnavailableError(type(error).__name__) from error
        response._content = body
        _check(response.status_code, body)
        return response

    def _read(self, response: requests.Response, deadline_s: float) -> bytes:
        """The body. read1 returns what is there, so a server that drips cannot outlast the deadline."""
        body = bytearray()
        while chunk := response.raw.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise InputError(f"more than {self._max_bytes} bytes")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"not finished after {self._timeout_s:g} s")
        return bytes(body)


def _check(status: int, body: bytes) -> None:
    """Raise unless the answer is Prometheus' JSON, successful and without warnings.

    "PromQL info" annotations are remarks about a query, not about missing data.
    """
    if status >= SERVER_ERROR:
        raise UnavailableError(f"HTTP {status}")
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
    """The start of what the server said, on one line."""
    return " ".join(str(text).split())[:200]
