"""The fake API server without sockets: the kubernetes client's requests are served in this process.

Whatever is above urllib3 is the real client. Time may pass in each call, on the virtual clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from urllib3 import HTTPResponse
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.api import Request
from tests.fakes.kube.store import ApiError, Json

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = frozenset(VERBS.values())


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
        request = parse(method, url, options.get("body"), options.get("headers") or {})
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
                if request.verb in WRITES and not request.is_dry_run:
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
        seen = [
            event.object
            for event in self.kube.store.log
            if event.resource == request.resource
            and event.version <= self.stale_at
            and (event.object["metadata"]["namespace"], event.object["metadata"]["name"]) == place
        ]
        return (200, seen[-1]) if seen else None


def parse(method: str, url: str, body: Any, headers: Mapping[str, str]) -> Request:
    """The request that the API server makes of it."""
    found = urlsplit(url)
    query = dict(parse_qsl(found.query))
    parts = [part for part in found.path.split("/") if part]
    group = "" if parts[0] == "api" else parts[1]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "")[:3]
    verb = VERBS.get(method) or ("get" if name else "watch" if "watch" in query else "list")
    content_type = (headers.get("Content-Type") or "application/json").split(";")[0]
    read = json.loads(body) if body else None
    return Request(verb, group, resource, namespace, name, subresource, query, read, content_type)


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
