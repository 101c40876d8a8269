"""A client of the Kubernetes API: every call has a deadline, every failure is an IpaError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ipa.adapters.kube.kinds import DEPLOYMENT, ObjectRef, ResourceKind
from ipa.adapters.kube.transport import (
    BACKOFF,
    Backoff,
    ExpiredError,
    Json,
    Request,
    Stream,
    Transport,
    load_configuration,
    parse_json,
    parse_object,
)
from ipa.control.ports import Clock
from ipa.model.errors import InputError, NotFoundError, UnavailableError

FIELD_MANAGER = "ipa-serving"
JSON_PATCH = "application/json-patch+json"
# Objects a page, as kubectl; a Deployment is some kilobytes.
PAGE = 500
# A list whose pages expire this often is longer than the server keeps it.
LIST_STARTS = 4

Objects = list[Json]


class KubeClient:
    """Reads and writes objects of any kind.

    Errors of every call: ConflictError (409, or a `test` of the patch failed), InputError (refused by schema
    or webhook), ForbiddenError (401, 403), NotFoundError, UnavailableError (no answer in time, 429, 5xx, or
    an invalid answer; after a write it is then unknown whether it happened). Of a response body only the
    message of a refusal is quoted.
    """

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        # The deadline is that of every call.
        self.transport, self.timeout_s = transport, timeout_s

    @classmethod
    def from_kubeconfig(
        cls,
        path: str,
        timeout_s: float,
        *,
        clock: Clock | None = None,
        backoff: Backoff = BACKOFF,
        seed: int | None = None,
    ) -> KubeClient:
        """A client of the kubeconfig's cluster; without a kubeconfig, of this pod's or kubectl's.

        `clock` measures the waits; `seed` makes their jitter repeatable. ConfigurationError if there is no
        cluster.
        """
        load = partial(load_configuration, path)
        return cls(Transport(load, clock=clock, backoff=backoff, seed=seed), timeout_s)

    @property
    def skew_s(self) -> float | None:
        """The seconds by which the server's clock is ahead of ours; None before its first answer."""
        return self.transport.skew_s

    def within(self, timeout_s: float) -> KubeClient:
        """The same client with another deadline. Closing either closes both."""
        return KubeClient(self.transport, timeout_s)

    def close(self) -> None:
        """Close every connection."""
        self.transport.close()

    def get(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        """The object of that name; `namespace` is empty for kinds without namespaces."""
        return self._call("GET", ObjectRef(kind, namespace, name))

    def create(self, kind: ResourceKind, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """The object as created (dry_run: as it would be). ConflictError if it exists."""
        ref = ObjectRef(kind, namespace, body["metadata"]["name"])
        path = kind.path(namespace)
        return self._call("POST", ref, body, path=path, dry_run=dry_run)

    def patch(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        patch: Sequence[Mapping[str, Any]],
        *,
        dry_run: bool = False,
    ) -> Json:
        """The object after the JSON Patch (dry_run: as it would be)."""
        operations = [dict(operation) for operation in patch]
        ref = ObjectRef(kind, namespace, name)
        return self._call("PATCH", ref, operations, content_type=JSON_PATCH, dry_run=dry_run)

    def replace(self, kind: ResourceKind, namespace: str, body: Json) -> Json:
        """The object as replaced. ConflictError if its resourceVersion is no longer that of the body."""
        ref = ObjectRef(kind, namespace, body["metadata"]["name"])
        if not body["metadata"].get("resourceVersion"):
            # Without it the server would overwrite any newer version.
            raise InputError(f"{ref}: a replacement needs the resourceVersion that was read")
        return self._call("PUT", ref, body)

    def review(self, kind: ResourceKind, spec: Json | None = None, what: str = "") -> Json:
        """The status of the review of that kind and spec; `what` names it in errors."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}}
        what, request = what or kind.kind, {"spec": spec} if spec is not None else {}
        answer = self._ask(what, "POST", f"{kind.root}/{kind.plural}", body=body | request)
        status = parse_object(what, kind.kind, answer).get("status")
        if not isinstance(status, dict):
            raise UnavailableError(f"{what}: the answer has no status")
        return status

    def discover(self, path: str, what: str) -> Json:
        """The JSON at a path that is not of an object, such as the server's version."""
        return parse_json(what, self._ask(what, "GET", path))

    def watch(self, kind: ResourceKind, namespace: str, version: str, watch_s: float) -> Stream:
        """The changes of the namespace's objects from that version on, for at most `watch_s` seconds."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": f"{max(watch_s, 1.0):.0f}",
        }
        what = f"watch of {kind.plural} of {namespace}"
        request = Request(what, "GET", kind.path(namespace), self.timeout_s, query)
        return Stream(self.transport, request, watch_s)

    def get_deployment(self, namespace: str, name: str) -> Json | None:
        """The Deployment of that name; None if there is none (yet)."""
        with suppress(NotFoundError):
            return self.get(DEPLOYMENT, namespace, name)
        return None

    def list_all(
        self, kind: ResourceKind, namespace: str, labels: Mapping[str, str] | None = None
    ) -> tuple[Objects, str]:
        """All objects of the namespace that have the labels, and the resourceVersion to watch from.

        The list is read in pages; if it expires midway, it is read again from the start.
        """
        what = f"{kind.plural} of {namespace}"
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        for _ in range(LIST_STARTS):
            objects: Objects = []
            query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
            with suppress(ExpiredError):
                while True:
                    response = self._ask(what, "GET", kind.path(namespace), query=query)
                    page = parse_object(what, f"{kind.kind}List", response)
                    items, metadata = page.get("items"), page["metadata"]
                    if not isinstance(items, list):
                        raise UnavailableError(f"{what}: the answer has no items")
                    objects.extend(items)
                    if not metadata.get("continue"):
                        return objects, str(metadata.get("resourceVersion", ""))
                    query["continue"] = metadata["continue"]
        raise UnavailableError(f"{what}: the list expired {LIST_STARTS} times while being read")

    def _call(
        self,
        method: str,
        ref: ObjectRef,
        body: Any = None,
        *,
        path: str = "",
        content_type: str = "application/json",
        dry_run: bool = False,
    ) -> Json:
        """The object in the answer to a request; `path` defaults to the object's own."""
        path, query = path or ref.kind.path(ref.namespace, ref.name), {}
        if body is not None:
            query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        answer = self._ask(str(ref), method, path, query=query, body=body, content_type=content_type)
        return parse_object(str(ref), ref.kind.kind, answer)

    def _ask(self, what: str, method: str, path: str, **rest: Any) -> bytes:
        return self.transport.ask(Request(what, method, path, self.timeout_s, **rest))
