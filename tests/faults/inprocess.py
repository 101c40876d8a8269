"""The fake API server without sockets: the kubernetes client's requests are served in this process.

Whatever is above urllib3 is the real client. Time may pass in each call, on the virtual clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

from urllib3 import HTTPResponse
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.api import WRITES, Request, request_of
from tests.fakes.kube.store import ApiError, Json


class Pool:
    """Stands in for the client's connection pool.

    `delay(request)` says how many seconds go by before it is served and before it is answered; `pass_s`
    lets them. So many `stale_reads` of SeldonDeployments are answered by a cache that stands still at the
    store's version `stale_at`.
    """

    def __init__(
        self,
        kube: FakeKube,
        pass_s: Callable[[float], None] = lambda seconds: None,
        delay: Callable[[Request], tuple[float, float]] = lambda request: (0.0, 0.0),
    ) -> None:
        self.kube, self.pass_s, self.delay = kube, pass_s, delay
        self.stale_reads, self.stale_at = 0, 0

    def request(self, method: str, url: str, **options: Any) -> HTTPResponse:
        """The answer, or what urllib3 raises where there is none."""
        body, headers = options.get("body"), options.get("headers") or {}
        request = request_of(
            method, url, lambda _: json.loads(body) if body else None, headers.get("Content-Type") or ""
        )
        before_s, after_s = self.delay(request)
        self.pass_s(before_s)
        kube = self.kube
        fault = kube.faults.take(request.verb, request.resource, is_dry_run=request.is_dry_run)
        kube.requests.append(request)
        kind = fault.kind if fault else None
        if fault and kind is FaultKind.STATUS:
            return _response(fault.status, ApiError(fault.status, fault.reason, "secret inside").body)
        if kind is FaultKind.LOST_BEFORE:
            raise ProtocolError("Connection aborted.")
        if kind is FaultKind.HANG:
            raise ReadTimeoutError(None, url, "Read timed out.")  # type: ignore[arg-type]
        try:
            with kube.store.lock:
                if kube.before:
                    kube.before(request)
                status, body = self._old(request) or kube.api.serve(request)
                if request.verb in WRITES.values() and not request.is_dry_run:
                    kube.writes.append(request)
        except ApiError as error:
            status, body = error.code, error.body
        self.pass_s(after_s)
        return _answer(status, body, kind)

    def clear(self) -> None:
        """Nothing to close."""

    def _old(self, request: Request) -> tuple[int, Json] | None:
        """The object as it was, where this read is to be a stale one."""
        if not self.stale_reads or (request.verb, request.resource) != ("get", "seldondeployments"):
            return None
        self.stale_reads -= 1
        place = (request.namespace, request.name)
        versions = [
            event.object
            for event in self.kube.store.log
            if event.resource == request.resource
            and event.version <= self.stale_at
            and (event.object["metadata"]["namespace"], event.object["metadata"]["name"]) == place
        ]
        return (200, versions[-1]) if versions else None


def _answer(status: int, body: Json, kind: FaultKind | None) -> HTTPResponse:
    raw = json.dumps(body).encode()
    match kind:
        case FaultKind.LOST_AFTER | FaultKind.DRIP:
            raise ProtocolError("Connection aborted.")
        case FaultKind.TRUNCATED:
            return _raw(status, raw[: len(raw) // 2])
        case FaultKind.HTML:
            return _raw(200, b"<html><body>secret inside</body></html>")
        case FaultKind.WRONG_KIND:
            return _response(200, ApiError(200, "Unknown", "secret inside").body)
        case _:
            return _raw(status, raw)


def _response(status: int, body: Json) -> HTTPResponse:
    return _raw(status, json.dumps(body).encode())


def _raw(status: int, body: bytes) -> HTTPResponse:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return HTTPResponse(BytesIO(body), headers=headers, status=status, preload_content=False)
