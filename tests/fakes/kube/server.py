"""The fake API server's HTTP."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.fakes.answering import Listening, Quiet
from tests.fakes.kube import protobuf
from tests.fakes.kube.api import (
    APPLY,
    DISCOVERY,
    OPENAPI,
    SELF_REVIEWS,
    WRITES,
    Api,
    Request,
    is_selected,
    request_of,
)
from tests.fakes.kube.cluster import Cluster
from tests.fakes.kube.faults import Fault, FaultKind, FaultSchedule
from tests.fakes.kube.kinds import Kinds, custom
from tests.fakes.kube.schema import small_schema
from tests.fakes.kube.store import ApiError, Json, Store

READERS: dict[str, Callable[[bytes], Any]] = {APPLY: yaml.safe_load, protobuf.CONTENT_TYPE: protobuf.decoded}
# Faults that come before the request is served.
UNSERVED = (
    FaultKind.HANG,
    FaultKind.LOST_BEFORE,
    FaultKind.STATUS,
    FaultKind.RESET,
    FaultKind.FAILURE,
)
# How long a watch without news sleeps before it looks whether the server stops.
LOOK_S = 0.05


def kubeconfig(url: str, token: str) -> str:
    """The text of a kubeconfig for that server."""
    parts = {
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {"token": token}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "fake", **parts})


class FakeKube(Listening):
    """A running fake; use as a context manager. `tick()` moves the cluster's clock."""

    def __init__(self, *, kinds: Kinds | None = None, **cluster: Any) -> None:
        self.store = Store()
        self.api = Api(self.store, small_schema(), kinds=kinds)
        if kinds:
            custom(self.store)
        self.cluster = Cluster(self.store, **cluster)
        self.faults = FaultSchedule()
        # (verb, group, resource) of every request, and the requests that wrote.
        self.verbs: set[tuple[str, str, str]] = set()
        self.writes: list[Request] = []
        self.requests: list[Request] = []
        # Called, with the store's lock held, before a request is served: a hand that is faster than ours.
        self.before: Callable[[Request], None] | None = None
        # Called with nothing held: time goes by before the request is served.
        self.delay: Callable[[Request], None] | None = None
        # Bearer tokens that are let in, None for any; what of (verb, resource) no role of theirs allows.
        self.tokens: set[str] | None = None
        self.denied: set[tuple[str, str]] = set()
        self.api.denied = lambda: self.denied
        # Its wall clock, and by how much it is ahead of that.
        self.wall_s: Callable[[], float] = time.time
        self.skew_s = 0.0
        # Watches begun before it grew say nothing more.
        super().__init__(type("Handler", (_Handler,), {"kube": self}))

    def kubeconfig(self, folder: Path, token: str = "fake") -> Path:
        """A kubeconfig file for it, written to the folder."""
        path = folder / "kubeconfig"
        path.write_text(kubeconfig(self.url, token))
        return path

    def tick(self, ticks: int = 1) -> None:
        """Let so much time pass in the cluster."""
        for _ in range(ticks):
            self.cluster.tick()

    def fault(self, kind: FaultKind, **when: Any) -> None:
        """Let that go wrong next."""
        self.faults.add(Fault(kind, **when))

    def edit(
        self, namespace: str, name: str, change: Callable[[Json], None], of: str = "seldondeployments"
    ) -> None:
        """Change an object by another hand."""
        with self.store.lock:
            live = self.store.get(of, namespace, name)
            change(live)
            self.store.replace(of, live)

    def expire_lists(self) -> None:
        """Let every continue token be too old."""
        with self.store.lock:
            self.api.pages.clear()

    def expire_watches(self) -> None:
        """Let compaction overtake every running watch."""
        with self.store.lock:
            self.store.version += 1
            self.store.compact()
            self.store.changed.notify_all()


class _Handler(Quiet, BaseHTTPRequestHandler):
    kube: FakeKube
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one write, else Nagle and delayed acknowledgements cost 40 ms a request.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        request = self._parse()
        kube = self.kube
        if kube.delay:
            kube.delay(request)
        fault = kube.faults.take(request.verb, request.resource, is_dry_run=request.is_dry_run)
        self._note(request)
        refused = self._refusal(request)
        if refused:
            self._send(refused.code, refused.body)
            return
        if fault and fault.kind in UNSERVED:
            self._fail(fault)
            return
        if request.verb == "watch":
            self._watch(request, fault)
            return
        try:
            with kube.store.lock:
                if kube.before:
                    kube.before(request)
                status, body = kube.api.serve(request)
                if request.verb in WRITES.values() and not request.is_dry_run:
                    kube.writes.append(request)
        except ApiError as error:
            status, body = error.code, error.body
        self._answer(status, body, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _note(self, request: Request) -> None:
        self.kube.requests.append(request)
        resource = request.resource + (f"/{request.subresource}" if request.subresource else "")
        self.kube.verbs.add((request.verb, request.group, resource))

    def _refusal(self, request: Request) -> ApiError | None:
        token = (self.headers.get("Authorization") or "").partition(" ")[2]
        if self.kube.tokens is not None and token not in self.kube.tokens:
            return ApiError(401, "Unauthorized", "Unauthorized")
        what = (request.verb, request.resource)
        may = self.kube.api.rights.get(token)
        is_refused = may is not None and not (
            request.resource in (DISCOVERY, "version", *SELF_REVIEWS)
            or may(request.verb, request.group, request.resource, request.namespace, request.name)
        )
        if is_refused or (what in self.kube.denied and (*what, request.name) not in self.kube.api.named):
            message = f'{request.resource} is forbidden: User "ipa" cannot {request.verb} resource'
            return ApiError(403, "Forbidden", message, {"kind": request.resource})
        return None

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date of an answer, by the server's own clock."""
        return super().date_time_string((timestamp or self.kube.wall_s()) + self.kube.skew_s)

    def _parse(self) -> Request:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        parts = [part for part in urlsplit(self.path).path.split("/") if part]
        token = (self.headers.get("Authorization") or "").partition(" ")[2]
        if parts[0] == OPENAPI:
            return Request("get", "", OPENAPI, name="/".join(parts[2:] if parts[1:2] == ["v3"] else parts))
        if parts[0] == "version" or (parts[0] == "apis" and len(parts) < 4):
            resource = "version" if parts[0] == "version" else DISCOVERY
            return Request("get", "".join(parts[1:2]), resource, name="".join(parts[2:3]), token=token)
        if parts[0] == "api" and len(parts) < 3:
            return Request("get", "api", DISCOVERY, name="".join(parts[1:2]), token=token)

        def read(content_type: str) -> Any:
            return READERS.get(content_type, json.loads)(raw) if raw else None

        content_type = self.headers.get("Content-Type") or ""
        return request_of(self.command, self.path, read, content_type, token)

    def _fail(self, fault: Fault) -> None:
        if fault.kind in (FaultKind.STATUS, FaultKind.FAILURE):
            body = json.dumps(ApiError(fault.status, fault.reason, "secret inside").body).encode()
            status = 200 if fault.kind is FaultKind.FAILURE else fault.status
            self._send_raw(status, body, [("Retry-After", fault.retry_after)] if fault.retry_after else [])
            return
        if fault.kind is FaultKind.HANG:
            self.kube.stopping.wait()
        if fault.kind is FaultKind.RESET:
            # Closing without lingering sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _answer(self, status: int, body: Json, fault: Fault | None) -> None:
        match fault.kind if fault else None:
            case FaultKind.LOST_AFTER:
                self.close_connection = True
            case FaultKind.TRUNCATED:
                self._send_raw(status, json.dumps(body).encode()[: len(json.dumps(body)) // 2])
            case FaultKind.HTML:
                self._send_raw(200, b"<html><body>secret inside</body></html>")
            case FaultKind.WRONG_KIND:
                self._send(200, ApiError(200, "Unknown", "secret inside").body)
            case FaultKind.DRIP:
                self._drip(status, json.dumps(body).encode())
            case _:
                self._send(status, body)

    def _send(self, status: int, body: Json) -> None:
        self._send_raw(status, json.dumps(body).encode())

    def _send_raw(self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._head(status, [("Content-Length", str(len(body))), *headers])
        self.wfile.write(body)
        self.wfile.flush()

    def _head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _drip(self, status: int, body: bytes) -> None:
        self._head(status, [("Content-Length", str(len(body)))])
        self.close_connection = True
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.kube.stopping.wait(LOOK_S):
                    return
        except OSError:
            return

    def _watch(self, request: Request, fault: Fault | None) -> None:
        since = int(request.query.get("resourceVersion") or 0)
        if 0 < since < self.kube.store.compacted:
            self._send(410, ApiError(410, "Expired", f"too old resource version: {since}").body)
            return
        if fault and fault.kind in (FaultKind.TRUNCATED, FaultKind.HTML, FaultKind.WRONG_KIND):
            self._answer(200, {"type": "ADDED", "object": {"kind": "secret inside"}}, fault)
            return
        since = since or self.kube.store.version
        self._head(200, [("Transfer-Encoding", "chunked")])
        self.wfile.flush()
        self.close_connection = True
        try:
            if fault and fault.kind is FaultKind.SILENT:
                self.kube.stopping.wait()
                return
            for event in self._expired(since) if fault else self._events(request, since):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return

    def _expired(self, since: int) -> Iterator[Json]:
        error = ApiError(410, "Expired", f"too old resource version: {since}")
        yield {"type": "ERROR", "object": error.body}

    def _events(self, request: Request, since: int) -> Iterator[Json]:
        """Events after `since`; a bookmark after each batch where asked for; ERROR once it was compacted."""
        store = self.kube.store
        bookmarks = request.query.get("allowWatchBookmarks") == "true"
        end_s = time.monotonic() + float(request.query.get("timeoutSeconds") or 3600)
        while not self.kube.stopping.is_set() and time.monotonic() < end_s:
            with store.lock:
                if since < store.compacted:
                    yield from self._expired(since)
                    return
                events = [event for event in store.log if event.version > since]
                if not events:
                    store.changed.wait(LOOK_S)
                    continue
                since = store.version
            for event in events:
                here = event.object["metadata"]["namespace"] == request.namespace
                if event.resource == request.resource and here and is_selected(request, event.object):
                    yield {"type": event.type, "object": event.object}
            if bookmarks:
                metadata = {"resourceVersion": str(since)}
                yield {"type": "BOOKMARK", "object": {"kind": "Bookmark", "metadata": metadata}}
