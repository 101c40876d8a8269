"""The Kubernetes API, as much of it as we use: every call has a deadline, every failure an error of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from ipa.adapters.kube.backoff import Limits
from ipa.adapters.kube.credentials import Credentials, from_kubeconfig, in_cluster
from ipa.adapters.kube.responses import ExpiredError, Json, object_of
from ipa.adapters.kube.stream import Stream
from ipa.adapters.kube.transport import Request, Transport
from ipa.control.ports import Clock
from ipa.model.errors import InputError, NotFoundError, UnavailableError
from ipa.targets.seldon.manifest import GROUP, KIND, PLURAL, VERSION

FIELD_MANAGER = "ipa-serving"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
# So many objects a page, as kubectl; a Deployment is some kilobytes.
PAGE = 500
# A list whose pages expire this often is longer than the server keeps it.
LIST_STARTS = 4

SDEPS = f"/apis/{GROUP}/{VERSION}", PLURAL
DEPLOYMENTS = "/apis/apps/v1", "deployments"
PODS = "/api/v1", "pods"
EVENTS = "/api/v1", "events"
AUTOSCALERS = "/apis/autoscaling/v2", "horizontalpodautoscalers"
LEASES = "/apis/coordination.k8s.io/v1", "leases"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1", "tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1", "subjectaccessreviews"

__all__ = ["ExpiredError", "Json", "KubeClient"]


class KubeClient:
    """Reads and writes SeldonDeployments and Leases, reads Deployments and pods, writes Events.

    Errors of every call: ConflictError (409, or a `test` of the patch failed), InputError (refused by schema
    or webhook), ForbiddenError (401, 403), NotFoundError, UnavailableError (no answer in time, 429, 5xx, or
    an answer that is none; after a write it is then unknown whether it happened). No body is quoted but
    the message of a refusal.
    """

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s

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
    def _api(self) -> Any:
        return self._transport.api

    @property
    def transport(self) -> Transport:
        """What carries its requests."""
        return self._transport

    @property
    def timeout_s(self) -> float:
        """The deadline of every call."""
        return self._timeout_s

    @property
    def skew_s(self) -> float | None:
        """By how much the server's clock is ahead of ours, None before its first answer."""
        return self._transport.skew_s

    def within(self, timeout_s: float) -> KubeClient:
        """The same client with another deadline. Closing either closes both."""
        return KubeClient(self._transport, timeout_s)

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def get_seldondeployment(self, namespace: str, name: str) -> Json:
        """The SeldonDeployment of that name."""
        return self._call(KIND, Request(f"{KIND} {namespace}/{name}", "GET", _path(SDEPS, namespace, name)))

    def create_seldondeployment(self, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """The SeldonDeployment as created (dry_run: as it would be). ConflictError where it exists."""
        return self._create(KIND, SDEPS, namespace, body, dry_run=dry_run)

    def patch_seldondeployment(
        self, namespace: str, name: str, patch: Sequence[Mapping[str, Any]], *, dry_run: bool = False
    ) -> Json:
        """The SeldonDeployment after the JSON Patch (dry_run: as it would be)."""
        operations = [dict(operation) for operation in patch]
        return self._patch(KIND, SDEPS, namespace, name, operations, JSON_PATCH, dry_run=dry_run)

    def get_deployment(self, namespace: str, name: str) -> Json | None:
        """The Deployment of that name, None where there is none (yet)."""
        request = Request(f"Deployment {namespace}/{name}", "GET", _path(DEPLOYMENTS, namespace, name))
        try:
            return self._call("Deployment", request)
        except NotFoundError:
            return None

    def list_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Json]:
        """The pods with those labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return self._list("PodList", PODS, namespace, {"labelSelector": selector})[0]

    def list_autoscalers(self, namespace: str) -> list[Json]:
        """All HorizontalPodAutoscalers of the namespace."""
        return self._list("HorizontalPodAutoscalerList", AUTOSCALERS, namespace)[0]

    def list_seldondeployments(self, namespace: str) -> tuple[list[Json], str]:
        """All SeldonDeployments of the namespace, and the version from which to watch them."""
        return self._list(f"{KIND}List", SDEPS, namespace)

    def list_deployments(self, namespace: str) -> tuple[list[Json], str]:
        """All Deployments of the namespace, and the version from which to watch them."""
        return self._list("DeploymentList", DEPLOYMENTS, namespace)

    def watch_seldondeployments(self, namespace: str, version: str, watch_s: float) -> Stream:
        """What happens to the namespace's SeldonDeployments from that version on, for at most so long."""
        return self._watch(SDEPS, namespace, version, watch_s)

    def watch_deployments(self, namespace: str, version: str, watch_s: float) -> Stream:
        """What happens to the namespace's Deployments from that version on, for at most so long."""
        return self._watch(DEPLOYMENTS, namespace, version, watch_s)

    def get_lease(self, namespace: str, name: str) -> Json:
        """The Lease of that name; NotFoundError where there is none."""
        return self._call(
            "Lease", Request(f"Lease {namespace}/{name}", "GET", _path(LEASES, namespace, name))
        )

    def create_lease(self, namespace: str, body: Json) -> Json:
        """The Lease as created. ConflictError where another was faster."""
        return self._create("Lease", LEASES, namespace, body)

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """The Lease as replaced. ConflictError where it is no more at the body's resourceVersion."""
        what = f"Lease {namespace}/{name}"
        if not body["metadata"].get("resourceVersion"):
            # Without it the server would overwrite whoever holds it.
            raise InputError(f"{what}: a replacement needs the resourceVersion that was read")
        return self._call("Lease", Request(what, "PUT", _path(LEASES, namespace, name), _writing(), body))

    def create_event(self, namespace: str, body: Json) -> Json:
        """The Event as created. ConflictError where there is one of that name."""
        return self._create("Event", EVENTS, namespace, body)

    def patch_event(self, namespace: str, name: str, changes: Json) -> Json:
        """The Event with those fields changed (a merge patch)."""
        return self._patch("Event", EVENTS, namespace, name, changes, MERGE_PATCH)

    def review_token(self, spec: Json) -> Json:
        """The TokenReview of that spec, with its status."""
        return self._review("TokenReview", TOKEN_REVIEWS, spec)

    def review_access(self, spec: Json) -> Json:
        """The SubjectAccessReview of that spec, with its status."""
        return self._review("SubjectAccessReview", ACCESS_REVIEWS, spec)

    def _review(self, kind: str, place: tuple[str, str], spec: Json) -> Json:
        root, plural = place
        version = root.removeprefix("/apis/")
        body = {"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec}
        return self._call(kind, Request(kind, "POST", f"{root}/{plural}", body=body))

    def _create(
        self, kind: str, place: tuple[str, str], namespace: str, body: Json, *, dry_run: bool = False
    ) -> Json:
        what = f"{kind} {namespace}/{body['metadata']['name']}"
        return self._call(kind, Request(what, "POST", _path(place, namespace), _writing(dry_run), body))

    def _patch(
        self,
        kind: str,
        place: tuple[str, str],
        namespace: str,
        name: str,
        changes: Any,
        content_type: str,
        *,
        dry_run: bool = False,
    ) -> Json:
        what, path = f"{kind} {namespace}/{name}", _path(place, namespace, name)
        return self._call(kind, Request(what, "PATCH", path, _writing(dry_run), changes, content_type))

    def _list(
        self, kind: str, place: tuple[str, str], namespace: str, query: Mapping[str, str] | None = None
    ) -> tuple[list[Json], str]:
        """All objects, page by page, and the list's version. One that expires on the way starts anew."""
        what = f"{place[1]} of {namespace}"
        expired: ExpiredError | None = None
        for _ in range(LIST_STARTS):
            try:
                return self._pages(kind, what, _path(place, namespace), query or {})
            except ExpiredError as error:
                expired = error
        raise UnavailableError(f"{what}: the list expired {LIST_STARTS} times while it was read") from expired

    def _pages(self, kind: str, what: str, path: str, query: Mapping[str, str]) -> tuple[list[Json], str]:
        found: list[Json] = []
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

    def _watch(self, place: tuple[str, str], namespace: str, version: str, watch_s: float) -> Stream:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": f"{max(watch_s, 1.0):.0f}",
        }
        request = Request(f"watch of {place[1]} of {namespace}", "GET", _path(place, namespace), query)
        return Stream(self._transport, request, self._timeout_s, watch_s)

    def _call(self, kind: str, request: Request) -> Json:
        answer = self._transport.ask(request, self._timeout_s)
        return object_of(request.what, kind, answer.body)


def _path(place: tuple[str, str], namespace: str, name: str | None = None) -> str:
    root, plural = place
    path = f"{root}/namespaces/{quote(namespace, safe='')}/{plural}"
    return path if name is None else f"{path}/{quote(name, safe='')}"


def _writing(dry_run: bool = False) -> dict[str, str]:
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query
