"""Requests to the API server, each within its deadline, throttled; a write is never sent twice.

`Throttle` decides when the next request of a client is sent, by three rules. A Retry-After of the server is
honoured. Without it the wait doubles with every failure in a row, and half of it is jitter, so that clients
that failed together do not come back together. After a failure one request per wait probes the server; once
it answers, waiting requests are sent at a steady rate for a while, however many there are.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import Clock
from ipa.model.errors import (
    READ_AGAIN,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)

log = logging.getLogger("ipa.kube")

# Longer than that is no pushback but a mistake: it would end the control of every pipeline.
LONGEST_RETRY_AFTER_S = 3600.0
# The share of the server's wait added on top, drawn anew by each client; at most LONGEST_SPREAD_S.
SPREAD_RATIO = 0.25
LONGEST_SPREAD_S = 2.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double. The longest is below a call's deadline, so that a recovery is noticed soon."""

    first_s: float = 0.5
    longest_s: float = 8.0

    def delay_s(self, failures: int, draw: float) -> float:
        """The wait after this many `failures` in a row (0: none); `draw` in [0, 1) is the jitter."""
        if failures <= 0:
            return 0.0
        # From 2^40 on it is the longest anyhow, and must not overflow.
        whole_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 40))
        return whole_s * (0.5 + 0.5 * draw)


BACKOFF = Backoff()
# After an outage requests go at this rate for so long, then without a limit: in quiet times the server's own
# fairness decides. Longer than a tick: by then every loop that failed has come back.
RATE_PER_S, SLOW_S = 20.0, 15.0


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header Retry-After, a number or a date by the server's clock; else None."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        # Not more digits than a float holds.
        return float(text[:12])
    until, now = http_date(text), http_date(headers.get("Date", ""))
    if until is None or now is None:
        return None
    return max((until - now).total_seconds(), 0.0)


def http_date(text: str) -> datetime | None:
    """The time of an HTTP date; None if the text is not one."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    # "-0000" and no zone do not state UTC.
    return date if date.tzinfo is not None else None


class Throttle:
    """The gate that all requests of a client pass: `enter`, then one of `answered`, `pushed_back` and `lost`.

    Times are monotonic seconds. `failures` counts failures in a row.
    """

    def __init__(self, clock: Clock, backoff: Backoff = BACKOFF, seed: int | None = None) -> None:
        self._clock, self._backoff = clock, backoff
        self.failures = 0
        # The latest failure was learnt then; the next request goes at the second one, if not later.
        self._failed_s = self._next_s = -math.inf
        # The wait between two requests until one is answered; after an outage those of the rate until then.
        self._gap_s, self._slow_until_s = 0.0, -math.inf
        self._lock = threading.Lock()
        # Without a seed each client draws its own: two replicas must not come back together.
        self._random = random.Random(seed)

    def enter(self, what: str, patience_s: float) -> float:
        """Wait until the request may be sent, at most `patience_s`, and return that time.

        UnavailableError at once if it would take longer, with the time at which requests resume.
        """
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            with self._lock:
                now_s = self._clock.monotonic_s()
                wait_s = self._next_s - now_s
                if wait_s <= 0.0:
                    slow_s = 1.0 / RATE_PER_S if now_s < self._slow_until_s else 0.0
                    self._next_s = now_s + (self._gap_s if self.failures else slow_s)
                    return now_s
            if now_s + wait_s > until_s:
                at = (self._clock.now() + timedelta(seconds=wait_s)).strftime("%H:%M:%S")
                raise UnavailableError(
                    f"{what}: not sent: backing off from the API server until {at} UTC, "
                    f"for another {wait_s:.1f} s"
                )
            self._clock.wait(wait_s)

    def answered(self, sent_s: float) -> None:
        """Record a response, good or bad, unless its request was sent before the latest failure."""
        with self._lock:
            if not self.failures or sent_s < self._failed_s:
                return
            self.failures, self._next_s = 0, -math.inf
            # Requests that waited must not all go at once. If none had to wait, there was no outage.
            if self._gap_s > 0.0:
                now_s = self._clock.monotonic_s()
                self._slow_until_s, self._next_s = now_s + SLOW_S, now_s + 1.0 / RATE_PER_S

    def pushed_back(self, sent_s: float, retry_after_s: float | None) -> None:
        """Back off after a 429 or 503, for the Retry-After if there is one."""
        retry_s = None if retry_after_s is None else min(max(retry_after_s, 0.0), LONGEST_RETRY_AFTER_S)
        self._fail(sent_s, retry_s, harmless=0)

    def lost(self, sent_s: float) -> None:
        """Record a request without a response. A single one is not an outage: waits start with the second."""
        self._fail(sent_s, None, harmless=1)

    def _fail(self, sent_s: float, retry_s: float | None, harmless: int) -> None:
        with self._lock:
            now_s, draw = self._clock.monotonic_s(), self._random.random()
            # Requests that were out together fail together: that is one failure, not as many.
            if sent_s >= self._failed_s:
                self.failures, self._failed_s = self.failures + 1, now_s
            self.failures = max(self.failures, 1)
            wait_s = self._gap_s = self._backoff.delay_s(self.failures - harmless, draw)
            if retry_s is not None:
                wait_s = retry_s + draw * min(SPREAD_RATIO * retry_s, LONGEST_SPREAD_S)
            self._next_s = max(self._next_s, now_s + wait_s)


# Enough of a webhook's refusal to act on.
LONGEST_MESSAGE = 400

Json = dict[str, Any]

# A page of an answer to us is a few kilobytes, at most a few hundred pods.
LONGEST_BODY = 16 * 1024 * 1024
CHUNK = 64 * 1024
# urllib3 refuses a time-out of 0.
SHORTEST_S = 0.001
# A write was decided on what was just read, by one who was allowed to just then; it is not sent late.
WRITE_WAIT_S = 1.0
PUSHBACK = (429, 503)
# The server, or a proxy before it, is unreachable.
ABSENT = (502, 504)
POOL_SIZE = 64
# The server ends a watch when it was asked to; one that is silent for this much longer is gone.
GRACE_RATIO = 0.2
# Below that the clocks are as good as the same; Kubernetes' own certificates and tokens bear more.
NOTABLE_SKEW_S = 5.0
# Dates are whole seconds, rounded down: on the mean this much is lost.
ROUNDED_S = 0.5


class ExpiredError(UnavailableError):
    """The resourceVersion or continue token is too old (410): list again from the start."""


def parse_json(what: str, body: bytes) -> Json:
    """The JSON object of the body; UnavailableError if it is anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnavailableError(f"{what}: the answer is not a JSON object")
    return value


def parse_object(what: str, kind: str, body: bytes) -> Json:
    """The object of that kind in the body; UnavailableError if it is anything else."""
    value = parse_json(what, body)
    if value.get("kind") != kind or not isinstance(value.get("metadata"), dict):
        raise UnavailableError(f"{what}: the answer is not a {kind}")
    return value


def parse_error(what: str, status: int, body: bytes) -> IpaError:
    """The error that a status other than 2xx means."""
    refusal: Json = {}
    with suppress(UnavailableError):
        refusal = parse_json(what, body)
    refusal = refusal if refusal.get("kind") == "Status" else {}
    text, details = str(refusal.get("message", "")), refusal.get("details")
    details, message = details if isinstance(details, dict) else {}, text[:LONGEST_MESSAGE]
    # If a `test` of a patch failed, the server names no object and no cause.
    is_test = not (details.get("causes") or details.get("name") or "admission webhook" in text)
    match status:
        case 400 | 422 if status == 400 or not is_test:
            return InputError(f"{what}: refused by the cluster: {message or 'no reason given'}")
        case 409 | 422:
            return ConflictError(f"{what}: was changed since it was read", hint=READ_AGAIN)
        case 401 | 403:
            return ForbiddenError(
                f"{what}: not allowed ({status})", hint="Check the service account's role (deploy/rbac)."
            )
        case 404:
            return NotFoundError(f"{what}: does not exist")
        case 410:
            return ExpiredError(f"{what}: the requested resourceVersion is too old")
        case _:
            return UnavailableError(f"{what}: the API server answered {status}")


def in_pod(kubeconfig: str) -> bool:
    """True if it is the account of this pod that a client of this path uses."""
    return not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ


def load_configuration(path: str) -> Any:
    """The configuration of the kubeconfig's current context; with no `path` this pod's, else kubectl's.

    ConfigurationError if it cannot be used.
    """
    from kubernetes import client, config
    from yaml import YAMLError

    configuration = client.Configuration()
    try:
        if in_pod(path):
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(path or None, client_configuration=configuration)
    except (config.ConfigException, OSError, YAMLError, TypeError, ValueError) as error:
        place = f"kubeconfig {path!r}" if path else "kubectl's kubeconfig"
        place = "this pod's account" if in_pod(path) else place
        raise ConfigurationError(
            f"{place} cannot be used: {error}", hint="Set IPA_KUBECONFIG to a kubeconfig file."
        ) from error
    return configuration


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `what` names its subject in errors.

    It takes no longer than `timeout_s`. A watch waits at most `idle_s` for each part of the body.
    """

    what: str
    method: str
    path: str
    timeout_s: float
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    idle_s: float | None = None

    @property
    def is_write(self) -> bool:
        """True if the request may change anything."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of the server: its body, or the urllib3 response if the body is to be streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stream: Any = None


class Transport:
    """Sends requests with the credentials that `load` reads. Thread-safe; its threads share one throttle.

    A read is sent again only if the server asked for it (429 or 503 with Retry-After) and the deadline
    allows. A request refused with 401 is sent once more if the token has changed since.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        clock: Clock | None = None,
        backoff: Backoff = BACKOFF,
        seed: int | None = None,
    ) -> None:
        self._load = load
        self._clock = clock or SystemClock()
        self._throttle = Throttle(self._clock, backoff, seed)
        self._renewing = threading.Lock()
        # By how much the server's clock is ahead of ours, None before its first answer; half a second of
        # error, and half a round trip.
        self.skew_s: float | None = None
        # Only its connection pool is used: its own handling of responses has no deadline.
        self.api = _make_client(load())

    def close(self) -> None:
        """Close every connection."""
        self.api.close()

    def ask(self, request: Request) -> bytes:
        """The body of a 2xx response within the request's time limit; an IpaError for any other response."""
        until_s = self._clock.monotonic_s() + request.timeout_s
        while True:
            answer = self._authorised(request, until_s)
            if 200 <= answer.status < 300:
                return answer.body
            may_retry = answer.status in PUSHBACK and retry_after_s(answer.headers) is not None
            if request.is_write or not may_retry:
                raise parse_error(request.what, answer.status, answer.body)
            # The throttle waits as long as the server asked, or fails at once if that is too long.

    def opened(self, request: Request) -> Any:
        """The urllib3 response of a watch."""
        answer = self._authorised(request, self._clock.monotonic_s() + request.timeout_s)
        if answer.stream is None:
            raise parse_error(request.what, answer.status, answer.body)
        return answer.stream

    def _authorised(self, request: Request, until_s: float) -> Answer:
        headers = _authentication(request.what, self.api)
        answer = self._once(request, headers, until_s)
        if answer.status != 401:
            return answer
        with self._renewing:
            # Unless another thread just did. A configuration that cannot be read changes nothing.
            if _authentication(request.what, self.api) == headers:
                with suppress(ConfigurationError, OSError):
                    fresh = _make_client(self._load())
                    if _authentication(request.what, fresh) != headers:
                        # Not closed: other threads may still be reading through the stale one.
                        self.api = fresh
        renewed = _authentication(request.what, self.api)
        # Unchanged credentials would be refused again.
        return answer if renewed == headers else self._once(request, renewed, until_s)

    def _once(self, request: Request, headers: Mapping[str, str], until_s: float) -> Answer:
        left_s = until_s - self._clock.monotonic_s()
        sent_s = self._throttle.enter(request.what, min(left_s, WRITE_WAIT_S) if request.is_write else left_s)
        answer: Answer | None = None
        began = self._clock.now()
        try:
            answer = self._send(request, headers, until_s - sent_s)
        finally:
            if answer is None:
                self._throttle.lost(sent_s)
            elif answer.status in PUSHBACK or answer.status in ABSENT:
                self._throttle.pushed_back(sent_s, retry_after_s(answer.headers))
            else:
                self._throttle.answered(sent_s)
        date = http_date(answer.headers.get("Date", ""))
        if date is not None:
            middle = began + (self._clock.now() - began) / 2
            before_s = self.skew_s or 0.0
            self.skew_s = skew_s = (date + timedelta(seconds=ROUNDED_S) - middle).total_seconds()
            if abs(skew_s) >= NOTABLE_SKEW_S > abs(before_s):
                log.warning("the API server's clock is %+.0f s from ours", skew_s)
        return answer

    def _send(self, request: Request, headers: Mapping[str, str], left_s: float) -> Answer:
        """The response within the time that is left, by the real clock, which sockets use.

        UnavailableError if there is no complete response: a socket's time-out alone would let a server send a
        byte a second for ever.
        """
        from urllib3 import Timeout

        what, until_s, content = request.what, time.monotonic() + left_s, bytearray()
        left_s, idle_s = max(left_s, SHORTEST_S), request.idle_s
        headers = {**headers, "Accept": "application/json", "User-Agent": "ipa-serving"}
        body = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            body = json.dumps(request.body, separators=(",", ":"), allow_nan=False).encode()
        target = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
        with _saying(what, request.timeout_s):
            response = self.api.rest_client.pool_manager.request(
                request.method,
                self.api.configuration.host.rstrip("/") + target,
                headers=headers,
                body=body,
                timeout=Timeout(total=left_s) if idle_s is None else Timeout(connect=left_s, read=idle_s),
                preload_content=False,
                # `Transport` decides on retries, and a redirect would send the token elsewhere.
                retries=False,
                redirect=False,
            )
            if idle_s is not None and response.status == 200:
                return Answer(200, response.headers, b"", response)
            with closing(response):
                while part := response.read1(CHUNK):
                    content += part
                    if len(content) > LONGEST_BODY:
                        raise UnavailableError(f"{what}: the answer is longer than {LONGEST_BODY} bytes")
                    if time.monotonic() > until_s:
                        raise UnavailableError(f"{what}: no complete answer within {request.timeout_s:g} s")
        return Answer(int(response.status), response.headers, bytes(content))


def _authentication(what: str, api: Any) -> dict[str, str]:
    """Authentication headers of a request. UnavailableError if a token cannot be read at the moment."""
    from kubernetes.config import ConfigException

    try:
        settings = api.configuration.auth_settings()
    except (ConfigException, OSError, ValueError) as error:
        # Without the path and its content: either may contain a token.
        raise UnavailableError(
            f"{what}: the service's token cannot be read ({type(error).__name__})"
        ) from None
    return {one["key"]: one["value"] for one in settings.values() if one["value"]}


def _make_client(configuration: Any) -> Any:
    """The Kubernetes client of the configuration, without retries of its own."""
    from kubernetes import client  # half a second; only if a cluster is used

    configuration.retries = False
    # A vanished peer is detected while a watch is silent, or between two ticks.
    configuration.keep_alive = True
    # One for each calling thread; connections are only opened when needed.
    configuration.connection_pool_maxsize = POOL_SIZE
    return client.ApiClient(configuration)


@contextmanager
def _saying(what: str, timeout_s: float) -> Iterator[None]:
    """Turn urllib3's errors into an UnavailableError about `what`."""
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import TimeoutError as NoAnswerError

    try:
        yield
    except NoAnswerError:
        raise UnavailableError(f"{what}: no answer within {timeout_s:g} s") from None
    except (HTTPError, OSError) as error:
        raise UnavailableError(f"{what}: no answer ({type(error).__name__})") from None


class Stream:
    """The events of a watch, iterated once by one thread; any thread may close it.

    Errors while it is iterated: those of every call, ExpiredError (410), and UnavailableError if the
    connection broke or the server is silent long after it should have ended the watch.
    """

    def __init__(self, transport: Transport, request: Request, watch_s: float) -> None:
        self._idle_s = watch_s * (1.0 + GRACE_RATIO)
        self._transport, self._request = transport, replace(request, idle_s=self._idle_s)
        self._lock = threading.Lock()
        self._response: Any = None
        self._closed = False

    def __iter__(self) -> Iterator[Json]:
        if self._closed:
            return
        response = self._transport.opened(self._request)
        try:
            with self._lock:
                self._response = response
                if self._closed:
                    return
            yield from self._events(response)
        finally:
            response.close()

    def _events(self, response: Any) -> Iterator[Json]:
        what, rest = self._request.what, b""
        # Even if events keep arriving: a watch that outlives its time by that much is broken.
        until_s = time.monotonic() + self._idle_s
        with _saying(what, self._idle_s):
            while part := response.read1(CHUNK):
                if time.monotonic() > until_s:
                    raise UnavailableError(f"{what}: did not end within {self._idle_s:g} s")
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LONGEST_BODY:
                    raise UnavailableError(f"{what}: an event is longer than {LONGEST_BODY} bytes")
                for line in filter(bytes.strip, lines):
                    event = parse_json(what, line)
                    if not isinstance(event.get("object"), dict):
                        raise UnavailableError(f"{what}: an event has no object")
                    yield event
        if rest.strip():
            raise UnavailableError(f"{what}: the answer was cut off")

    def close(self) -> None:
        """End the stream; the thread that waits for an event goes on at once."""
        with self._lock:
            self._closed = True
            response = self._response
        # It may have ended by itself.
        with suppress(AttributeError, OSError, ValueError, RuntimeError):
            response.shutdown()
