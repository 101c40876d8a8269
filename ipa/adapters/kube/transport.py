"""Requests to the API server: within their deadline, when the server wants them, and nothing sent twice."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from ipa.adapters.kube.backoff import Limits, Throttle, http_date, retry_after_s
from ipa.adapters.kube.credentials import Credentials
from ipa.adapters.kube.responses import Json, error_of
from ipa.control.loop.clock import SystemClock
from ipa.control.ports import Clock
from ipa.model.errors import UnavailableError

# A page of an answer to us is a few kilobytes, at most a few hundred pods.
LONGEST_BODY = 16 * 1024 * 1024
CHUNK = 64 * 1024
# urllib3 knows no time-out of nothing.
SHORTEST_S = 0.001


class Budget:
    """The time that is left of a call's `timeout_s`, by the machine's clock: sockets know no other."""

    def __init__(self, what: str, timeout_s: float, left_s: float) -> None:
        self.what, self.timeout_s = what, timeout_s
        self._until_s = time.monotonic() + left_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never quite none."""
        return max(self._until_s - time.monotonic(), SHORTEST_S)

    def late(self, words: str) -> UnavailableError:
        """The error of a deadline that has passed."""
        return UnavailableError(f"{self.what}: {words} within {self.timeout_s:g} s")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Raise UnavailableError for the errors of urllib3."""
        from urllib3.exceptions import HTTPError
        from urllib3.exceptions import TimeoutError as NoAnswerError

        try:
            yield
        except NoAnswerError:
            raise self.late("no answer") from None
        except (HTTPError, OSError) as error:
            raise UnavailableError(f"{self.what}: no answer ({type(error).__name__})") from None

    def check(self) -> None:
        """UnavailableError after the deadline."""
        if time.monotonic() > self._until_s:
            raise self.late("no whole answer")


def read_part(response: Any, budget: Budget) -> bytes:
    """The next part of the body, empty at its end. UnavailableError where the connection broke."""
    with budget.kept():
        part: bytes = response.read1(CHUNK)
    return part


def whole_body(response: Any, budget: Budget) -> bytes:
    """The whole body; a socket's time-out alone would let a server send a byte a second for ever."""
    parts, length = [], 0
    while part := read_part(response, budget):
        parts.append(part)
        length += len(part)
        if length > LONGEST_BODY:
            raise UnavailableError(f"{budget.what}: the answer is longer than {LONGEST_BODY} bytes")
        budget.check()
    return b"".join(parts)


# Dates are whole seconds, rounded down.
RESOLUTION = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Skew:
    """The server's clock is between `low_s` and `high_s` ahead of ours."""

    low_s: float = -math.inf
    high_s: float = math.inf

    @property
    def estimate_s(self) -> float | None:
        """The middle of the bounds; None before the first response.

        The error is at most half a second plus half a round trip.
        """
        return (self.low_s + self.high_s) / 2 if math.isfinite(self.low_s) else None

    def narrowed(self, date: datetime, sent: datetime, received: datetime) -> Skew:
        """Narrow the bounds by a response with that Date, sent and received by our clock.

        Answers bound it more and more closely (as NTP does with round trips); one that contradicts those
        before it shows that a clock was set, and counts alone.
        """
        low_s = (date - received).total_seconds()
        high_s = (date + RESOLUTION - sent).total_seconds()
        if high_s < low_s:
            # Our own clock was set back while the answer was under way.
            return self
        both = Skew(max(low_s, self.low_s), min(high_s, self.high_s))
        return both if both.low_s <= both.high_s else Skew(low_s, high_s)


log = logging.getLogger("ipa.kube")

# A write was decided on what was just read, by one who was allowed to just then; it is not sent late.
WRITE_WAIT_S = 1.0
PUSHBACK = (429, 503)
# The server, or what stands before it, is not there.
ABSENT = (502, 504)
POOL_SIZE = 64
# Below that the clocks are as good as the same; Kubernetes' own certificates and tokens bear more.
NOTABLE_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `what` is how errors call what it is about."""

    what: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"

    @property
    def is_write(self) -> bool:
        """True if it may change anything."""
        return self.method != "GET"

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests with our credentials. Thread-safe; all its threads share one gate to the server.

    A read is sent again only where the server asked for it (429 or 503 with Retry-After) and the deadline
    allows. Whatever was refused with 401 is sent once more where our token has changed. Nothing else is.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
        seed: int | None = None,
    ) -> None:
        from kubernetes import client  # half a second; only where a cluster is used

        self._credentials = credentials
        self._clock = clock or SystemClock()
        self._throttle = Throttle(self._clock, limits or Limits(), seed)
        self._renewing = threading.Lock()
        self._skew = Skew()
        # Its connection pool is all that is used of it: what it does with answers knows no deadline.
        self.api = client.ApiClient(_prepared(credentials.configuration))

    @property
    def skew_s(self) -> float | None:
        """By how much the server's clock is ahead of ours, None before its first answer."""
        return self._skew.estimate_s

    def close(self) -> None:
        """Close every connection."""
        self.api.close()

    def ask(self, request: Request, timeout_s: float) -> Answer:
        """The answer with status 2xx, in time; an error of ours for any other."""
        until_s = self._clock.monotonic_s() + timeout_s
        while True:
            answer = self._authorised(request, until_s, timeout_s)
            if 200 <= answer.status < 300:
                return answer
            is_asked = answer.status in PUSHBACK and retry_after_s(answer.headers) is not None
            if request.is_write or not is_asked:
                raise error_of(request.what, answer.status, answer.body)
            # The door knows until when; it fails at once where that is after the deadline.

    @contextmanager
    def opened(self, request: Request, timeout_s: float, idle_s: float) -> Iterator[Any]:
        """The urllib3 response, its body still to come: each part of it is waited for at most `idle_s`."""
        headers = self._credentials.headers(request.what)
        sent_s = self._enter(request, timeout_s)
        status: int | None = None
        asked_s: float | None = None
        try:
            budget = Budget(request.what, timeout_s, timeout_s)
            response = self._send(request, headers, budget, idle_s)
            body = b"" if response.status == 200 else whole_body(response, budget)
            status, asked_s = int(response.status), retry_after_s(response.headers)
        finally:
            self._leave(sent_s, status, asked_s)
        try:
            if status == 401:
                # The next one goes with it.
                self._renew(headers)
            if status != 200:
                raise error_of(request.what, status, body)
            yield response
        finally:
            response.close()

    def _authorised(self, request: Request, until_s: float, timeout_s: float) -> Answer:
        headers = self._credentials.headers(request.what)
        answer = self._once(request, headers, until_s, timeout_s)
        if answer.status != 401:
            return answer
        self._renew(headers)
        fresh = self._credentials.headers(request.what)
        # The same again would be refused again.
        return answer if fresh == headers else self._once(request, fresh, until_s, timeout_s)

    def _once(self, request: Request, headers: Mapping[str, str], until_s: float, timeout_s: float) -> Answer:
        sent_s = self._enter(request, until_s - self._clock.monotonic_s())
        answer: Answer | None = None
        asked_s: float | None = None
        began = self._clock.now()
        try:
            budget = Budget(request.what, timeout_s, until_s - sent_s)
            response = self._send(request, headers, budget)
            try:
                body = whole_body(response, budget)
            finally:
                response.close()
            answer = Answer(int(response.status), response.headers, body)
            asked_s = retry_after_s(answer.headers)
        finally:
            self._leave(sent_s, answer.status if answer else None, asked_s)
        date = http_date(answer.headers.get("Date", ""))
        if date is not None:
            self._see_clock(self._skew.narrowed(date, began, self._clock.now()))
        return answer

    def _send(
        self, request: Request, headers: Mapping[str, str], budget: Budget, idle_s: float | None = None
    ) -> Any:
        """The urllib3 response with its body unread; UnavailableError where there is none.

        `idle_s` bounds the pauses of the body instead of its time.
        """
        from urllib3 import Timeout

        headers = {**headers, "Accept": "application/json", "User-Agent": "ipa-serving"}
        body = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            body = json.dumps(request.body, separators=(",", ":"), allow_nan=False).encode()
        left_s = budget.left_s
        with budget.kept():
            return self.api.rest_client.pool_manager.request(
                request.method,
                self.api.configuration.host.rstrip("/") + request.target,
                headers=headers,
                body=body,
                timeout=Timeout(total=left_s) if idle_s is None else Timeout(connect=left_s, read=idle_s),
                preload_content=False,
                # A repeated request is a decision of ours, and a redirect would take our token elsewhere.
                retries=False,
                redirect=False,
            )

    def _enter(self, request: Request, left_s: float) -> float:
        patience_s = min(left_s, WRITE_WAIT_S) if request.is_write else left_s
        return self._throttle.enter(request.what, patience_s)

    def _leave(self, sent_s: float, status: int | None, asked_s: float | None) -> None:
        if status is None:
            self._throttle.lost(sent_s)
        elif status in PUSHBACK or status in ABSENT:
            self._throttle.pushed_back(sent_s, asked_s)
        else:
            self._throttle.answered(sent_s)

    def _renew(self, refused: Mapping[str, str]) -> None:
        """Read our credentials again, unless another thread just did."""
        with self._renewing:
            if self._credentials.headers("token") != refused or not self._credentials.reload():
                return
            log.info("connecting anew: our credentials have changed")
            stale, self.api = self.api, type(self.api)(_prepared(self._credentials.configuration))
            stale.close()

    def _see_clock(self, skew: Skew) -> None:
        before_s, self._skew = self._skew.estimate_s, skew
        now_s = skew.estimate_s or 0.0
        if abs(now_s) >= NOTABLE_SKEW_S > abs(before_s or 0.0):
            log.warning("the API server's clock is %+.0f s from ours", now_s)


def _prepared(configuration: Any) -> Any:
    """The configuration with what we decide ourselves."""
    configuration.retries = False
    # A peer that is gone without a word is found out while a watch is silent.
    configuration.keep_alive = True
    # One for each thread that asks; there are no more than are used.
    configuration.connection_pool_maxsize = POOL_SIZE
    return configuration


# The server ends a watch when it was asked to; one that is silent for this much longer is gone.
GRACE_RATIO = 0.2


class Stream:
    """Events of a watch, to be iterated once by one thread and closed by any.

    Errors while it is iterated: those of every call, ExpiredError (410), and UnavailableError where the
    connection broke or the server kept silent although it was to end the watch long ago.
    """

    def __init__(self, transport: Transport, request: Request, timeout_s: float, watch_s: float) -> None:
        self._transport, self._request = transport, request
        self._timeout_s, self._idle_s = timeout_s, watch_s * (1.0 + GRACE_RATIO)
        self._lock = threading.Lock()
        self._response: Any = None
        self._closed = False

    def __iter__(self) -> Iterator[Json]:
        what = self._request.what
        if self._closed:
            return
        with self._transport.opened(self._request, self._timeout_s, self._idle_s) as response:
            with self._lock:
                self._response = response
                if self._closed:
                    return
            # However much it says: a watch that outlives its time by that much is not believed.
            budget = Budget(what, self._idle_s, self._idle_s)
            rest = b""
            while part := read_part(response, budget):
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LONGEST_BODY:
                    raise UnavailableError(f"{what}: an event is longer than {LONGEST_BODY} bytes")
                for line in lines:
                    if line.strip():
                        yield _event_of(what, line)
                budget.check()
            if rest.strip():
                raise UnavailableError(f"{what}: the answer was cut off")

    def close(self) -> None:
        """End it; the thread that waits for an event goes on at once."""
        with self._lock:
            self._closed = True
            response = self._response
        if response is None:
            return
        try:
            response.shutdown()
        except (AttributeError, OSError, ValueError, RuntimeError):
            # It has ended by itself.
            return


def _event_of(what: str, line: bytes) -> Json:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise UnavailableError(f"{what}: an event is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise UnavailableError(f"{what}: an event has no object")
    return event
