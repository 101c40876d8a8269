"""The Kubernetes API, as much of it as we use: every call has a deadline, every failure an error of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ipa.adapters.kube.backoff import Limits
from ipa.adapters.kube.credentials import Credentials, from_kubeconfig, in_cluster
from ipa.adapters.kube.kinds import DEPLOYMENT, POD, ObjectRef, ResourceKind
from ipa.adapters.kube.responses import ExpiredError, Json, object_of
from ipa.adapters.kube.transport import Request, Stream, Transport
from ipa.control.ports import Clock
from ipa.model.errors import InputError, NotFoundError, UnavailableError

FIELD_MANAGER = "ipa-serving"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
# So many objects a page, as kubectl; a Deployment is some kilobytes.
PAGE = 500
# A list whose pages expire this often is longer than the server keeps it.
LIST_STARTS = 4

Objects = list[Json]


class KubeClient:
    """Reads and writes objects of any kind.

    Errors of every call: ConflictError (409, or a `test` of the patch failed), InputError (refused by schema
    or webhook), ForbiddenError (401, 403), NotFoundError, UnavailableError (no answer in time, 429, 5xx, or
    an answer that is none; after a write it is then unknown whether it happened). No body is quoted but
    the message of a refusal.
    """

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        # The deadline is that of every call.
        self.transport, self.timeout_s = transport, timeout_s

    @classmethod
    def in_cluster(cls, timeout_s: float, *, limits: Limits | None = None) -> KubeClient:
        """A client with the service account of the pod it runs in. ConfigurationError outside of a pod."""
        return cls(Transport(Credentials(in_cluster(), in_cluster), limits=limits), timeout_s)

    @classmethod
    def from_kubeconfig(
        cls,
        path: str,
        timeout_s: float,
        context: str | None = None,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
        seed: int | None = None,
    ) -> KubeClient:
        """A client with the file's (current) context. ConfigurationError where it cannot be used.

        `clock` is what its waits are measured with, `seed` makes their jitter the same each time.
        """
        load = partial(from_kubeconfig, path, context)
        return cls(Transport(Credentials(load(), load), clock=clock, limits=limits, seed=seed), timeout_s)

    @property
    def skew_s(self) -> float | None:
        """By how much the server's clock is ahead of ours, None before its first answer."""
        return self.transport.skew_s

    def within(self, timeout_s: float) -> KubeClient:
        """The same client with another deadline. Closing either closes both."""
        return KubeClient(self.transport, timeout_s)

    def close(self) -> None:
        """Close every connection."""
        self.transport.close()

    def get(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        """The object of that name."""
        ref = ObjectRef(kind, namespace, name)
        return self._call(kind.kind, Request(str(ref), "GET", kind.path(namespace, name)))

    def create(self, kind: ResourceKind, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """The object as created (dry_run: as it would be). ConflictError if it exists."""
        ref = ObjectRef(kind, namespace, body["metadata"]["name"])
        request = Request(str(ref), "POST", kind.path(namespace), _writing(dry_run), body)
        return self._call(kind.kind, request)

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
        return self._patch(ObjectRef(kind, namespace, name), operations, JSON_PATCH, dry_run=dry_run)

    def merge(self, kind: ResourceKind, namespace: str, name: str, changes: Json) -> Json:
        """The object with those fields changed (a merge patch)."""
        return self._patch(ObjectRef(kind, namespace, name), changes, MERGE_PATCH)

    def replace(self, kind: ResourceKind, namespace: str, body: Json) -> Json:
        """The object as replaced. ConflictError if it is no more at the body's resourceVersion."""
        ref = ObjectRef(kind, namespace, body["metadata"]["name"])
        if not body["metadata"].get("resourceVersion"):
            # Without it the server would overwrite any newer version.
            raise InputError(f"{ref}: a replacement needs the resourceVersion that was read")
        return self._call(
            kind.kind, Request(str(ref), "PUT", kind.path(namespace, ref.name), _writing(), body)
        )

    def delete(self, kind: ResourceKind, namespace: str, name: str) -> None:
        """Delete the object, and by that what it owns; nothing happens if there is none."""
        ref = ObjectRef(kind, namespace, name)
        with suppress(NotFoundError):
            self.transport.ask(Request(str(ref), "DELETE", kind.path(namespace, name)), self.timeout_s)

    def review(self, kind: ResourceKind, spec: Json) -> Json:
        """The review of that kind and spec, with its status."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, "spec": spec}
        return self._call(kind.kind, Request(kind.kind, "POST", f"{kind.root}/{kind.plural}", body=body))

    def list_all(self, kind: ResourceKind, namespace: str) -> tuple[Objects, str]:
        """All objects of the namespace, and the version from which to watch them."""
        return self._list(kind, namespace, {})

    def watch(self, kind: ResourceKind, namespace: str, version: str, watch_s: float) -> Stream:
        """The changes of the namespace's objects from that version on, for at most `watch_s` seconds."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": f"{max(watch_s, 1.0):.0f}",
        }
        request = Request(f"watch of {kind.plural} of {namespace}", "GET", kind.path(namespace), query)
        return Stream(self.transport, request, self.timeout_s, watch_s)

    def get_deployment(self, namespace: str, name: str) -> Json | None:
        """The Deployment of that name; None if there is none (yet)."""
        try:
            return self.get(DEPLOYMENT, namespace, name)
        except NotFoundError:
            return None

    def list_pods(self, namespace: str, labels: Mapping[str, str]) -> Objects:
        """The pods with those labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return self._list(POD, namespace, {"labelSelector": selector})[0]

    def _patch(self, ref: ObjectRef, changes: Any, content_type: str, *, dry_run: bool = False) -> Json:
        path = ref.kind.path(ref.namespace, ref.name)
        request = Request(str(ref), "PATCH", path, _writing(dry_run), changes, content_type)
        return self._call(ref.kind.kind, request)

    def _list(self, kind: ResourceKind, namespace: str, query: Mapping[str, str]) -> tuple[Objects, str]:
        """All objects, page by page, and the list's version. One that expires on the way starts anew."""
        what = f"{kind.plural} of {namespace}"
        expired: ExpiredError | None = None
        for _ in range(LIST_STARTS):
            try:
                return self._pages(f"{kind.kind}List", what, kind.path(namespace), query)
            except ExpiredError as error:
                expired = error
        raise UnavailableError(f"{what}: the list expired {LIST_STARTS} times while being read") from expired

    def _pages(self, kind: str, what: str, path: str, query: Mapping[str, str]) -> tuple[Objects, str]:
        found: Objects = []
        token = ""
        while True:
            more = {"continue": token} if token else {}
            page = self._call(kind, Request(what, "GET", path, {**query, "limit": str(PAGE), **more}))
            items = page.get("items")
            if not isinstance(items, list):
                raise UnavailableError(f"{what}: the answer has no items")
            found.extend(items)
            token = page["metadata"].get("continue", "")
            if not token:
                return found, str(page["metadata"].get("resourceVersion", ""))

    def _call(self, kind: str, request: Request) -> Json:
        answer = self.transport.ask(request, self.timeout_s)
        return object_of(request.what, kind, answer.body)


def connect(kubeconfig: str, timeout_s: float, limits: Limits | None = None) -> KubeClient:
    """A client of the kubeconfig's cluster, or if it is empty of the cluster whose pod this is.

    ConfigurationError if there is none.
    """
    if kubeconfig:
        return KubeClient.from_kubeconfig(kubeconfig, timeout_s, limits=limits)
    return KubeClient.in_cluster(timeout_s, limits=limits)


def _writing(dry_run: bool = False) -> dict[str, str]:
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query
