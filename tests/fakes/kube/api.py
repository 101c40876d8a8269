"""The effect of each request: verbs on resources, as the API server serves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fakes.kube.kinds import Kinds, merged, scale_of
from tests.fakes.kube.patching import PatchError, json_patch, merge_patch, strategic_patch
from tests.fakes.kube.reviews import KINDS, Reviewer
from tests.fakes.kube.schema import admit
from tests.fakes.kube.store import ApiError, Json, Store

LIST_KINDS = {
    "seldondeployments": ("machinelearning.seldon.io/v1", "SeldonDeploymentList"),
    "deployments": ("apps/v1", "DeploymentList"),
    "services": ("v1", "ServiceList"),
    "pods": ("v1", "PodList"),
    "events": ("v1", "EventList"),
    "horizontalpodautoscalers": ("autoscaling/v2", "HorizontalPodAutoscalerList"),
    "nodes": ("v1", "NodeList"),
    "namespaces": ("v1", "NamespaceList"),
    "leases": ("coordination.k8s.io/v1", "LeaseList"),
}
SELDON = "machinelearning.seldon.io"
SELF_REVIEWS = ("selfsubjectaccessreviews",)
DISCOVERY, OPENAPI = "discovery", "openapi"
WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
APPLY = "application/apply-patch+yaml"
PATCHES = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge_patch,
    "application/strategic-merge-patch+json": strategic_patch,
}


@dataclass(frozen=True)
class Request:
    """One request, taken apart. `group` is "" for the core API."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    token: str = ""

    @property
    def is_dry_run(self) -> bool:
        """True if nothing may be cached."""
        return self.query.get("dryRun") == "All"


def request_of(
    method: str, url: str, read: Callable[[str], Any], content_type: str = "", token: str = ""
) -> Request:
    """The request to a path of objects; `read` gives the body of that content type."""
    address = urlsplit(url)
    query = dict(parse_qsl(address.query))
    parts = [part for part in address.path.split("/") if part]
    group = "" if parts[0] == "api" else parts[1]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "")[:3]
    verb = WRITES.get(method) or ("get" if name else "watch" if "watch" in query else "list")
    content_type = (content_type or "application/json").split(";")[0]
    body = read(content_type)
    return Request(verb, group, resource, namespace, name, subresource, query, body, content_type, token)


@dataclass(frozen=True)
class Page:
    """The rest of a list: its objects as they were when it began, and its version."""

    items: list[Json]
    version: str


@dataclass
class Api:
    """The API server without its HTTP."""

    store: Store
    schema: Json
    # Called with every SeldonDeployment about to be kept: a mutating webhook of somebody's.
    mutate: Any = None
    # What of (verb, resource) no role of the caller's allows.
    denied: Callable[[], set[tuple[str, str]]] = set
    # What a role allows all the same, by resourceNames: (verb, resource, name).
    named: set[tuple[str, str, str]] = field(default_factory=set)
    # The versions of SeldonDeployments that are served; none: the CRD is not installed.
    versions: tuple[str, ...] = ("v1", "v1alpha2", "v1alpha3")
    # What is left of lists that were asked for page by page, by their continue token.
    pages: dict[str, Page] = field(default_factory=dict)
    reviewer: Reviewer = field(default_factory=Reviewer)
    # The kinds that an installation writes; None: those that the service asks for only, in any namespace.
    kinds: Kinds | None = None
    # What the bearers of a token may do by roles, (verb, group, resource, namespace, name); others all.
    rights: dict[str, Callable[[str, str, str, str, str], bool]] = field(default_factory=dict)

    def serve(self, request: Request) -> tuple[int, Json]:
        """Status and body; ApiError for failures."""
        with self.store.lock:
            if request.resource in (DISCOVERY, "version"):
                return 200, self._discovery(request)
            if request.resource in KINDS and request.verb == "create":
                return 201, self.reviewer.answer(request.resource, request.body)
            if request.resource in SELF_REVIEWS:
                return 201, self._self_review(request)
            if request.resource == OPENAPI and self.kinds:
                return 200, self.kinds.openapi(request.name)
            if request.resource not in LIST_KINDS and not (
                self.kinds and request.resource in self.kinds.by_resource
            ):
                raise ApiError(404, "NotFound", "the server could not find the requested resource")
            if (request.verb, request.subresource) == ("get", "scale"):
                return 200, scale_of(self.store.get(request.resource, request.namespace, request.name))
            if request.subresource:
                raise ApiError(404, "NotFound", f"there is no subresource {request.subresource} here")
            return self._serve_object(request)

    def _self_review(self, request: Request) -> Json:
        attributes = request.body["spec"]["resourceAttributes"]
        what, name = (attributes["verb"], attributes["resource"]), attributes.get("name", "")
        allowed = what not in self.denied() or (*what, name) in self.named
        if request.token in self.rights:
            group, place = attributes.get("group", ""), attributes.get("namespace", "")
            allowed = self.rights[request.token](
                attributes["verb"], group, attributes["resource"], place, name
            )
        return {**request.body, "status": {"allowed": allowed}}

    def _discovery(self, request: Request) -> Json:
        """The server's own account: its version, a group's versions, or the kinds of one version."""
        if request.resource == "version":
            return {"major": "1", "minor": "32", "gitVersion": "v1.32.1"}
        if self.kinds:
            return self.kinds.discovery(request.group, request.name)
        if request.group != SELDON or request.name not in ("", *self.versions) or not self.versions:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if request.name:
            kinds = [{"name": "seldondeployments", "kind": "SeldonDeployment", "namespaced": True}]
            place = f"{SELDON}/{request.name}"
            return {"kind": "APIResourceList", "groupVersion": place, "resources": kinds}
        versions = [{"groupVersion": f"{SELDON}/{one}", "version": one} for one in self.versions]
        group = {"kind": "APIGroup", "name": SELDON, "versions": versions}
        return {**group, "preferredVersion": versions[0]}

    def _serve_object(self, request: Request) -> tuple[int, Json]:
        store, place = self.store, (request.resource, request.namespace, request.name)
        match request.verb:
            case "get":
                return 200, store.get(*place)
            case "list":
                return 200, self._list(request)
            case "create":
                return 201, self._create(request)
            case "update":
                return 200, self._replace(request, request.body, store.get(*place))
            case "patch":
                return self._patch(request)
            case "delete":
                return 200, store.delete(*place)
            case _:
                raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")

    def _create(self, request: Request) -> Json:
        if self.kinds:
            self.kinds.check_namespace(self.store, request.resource, request.namespace)
        made = self._admit(request, request.body)
        return self.store.create(request.resource, request.namespace, made, dry_run=request.is_dry_run)

    def _patch(self, request: Request) -> tuple[int, Json]:
        """A patch, or a server-side apply of one manager: that creates what is not there."""
        is_apply = request.content_type == APPLY
        try:
            live = self.store.get(request.resource, request.namespace, request.name)
        except ApiError:
            if is_apply:
                return 201, self._create(request)
            raise
        patched = merged(live, request.body) if is_apply else _patched(request, live)
        return 200, self._replace(request, patched, live)

    def _list(self, request: Request) -> Json:
        version, kind = self._list_kind(request.resource)
        since = request.query.get("resourceVersion", "0")
        if since.isdecimal() and 0 < int(since) <= self.store.compacted:
            raise ApiError(410, "Expired", f"too old resource version: {since}")
        metadata, items = self._page(request)
        return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}

    def _list_kind(self, resource: str) -> tuple[str, str]:
        if self.kinds and resource in self.kinds.by_resource:
            kind = self.kinds.by_resource[resource]
            return kind.place, f"{kind.kind}List"
        return LIST_KINDS[resource]

    def _page(self, request: Request) -> tuple[Json, list[Json]]:
        """One page of the list, and what it says of the whole. 410 where the token is no more known."""
        token = request.query.get("continue", "")
        if token and token not in self.pages:
            message = "The provided continue parameter is too old to display a consistent list result."
            raise ApiError(410, "Expired", message)
        if token:
            whole = self.pages[token]
        else:
            objects = self.store.find(request.resource, request.namespace)
            objects = [one for one in objects if is_selected(request, one)]
            whole = Page(objects, str(self.store.version))
        limit = int(request.query.get("limit") or 0) or len(whole.items)
        metadata: Json = {"resourceVersion": whole.version}
        rest = whole.items[limit:]
        if rest:
            metadata["continue"] = f"page-{len(self.pages) + 1}-{whole.version}"
            metadata["remainingItemCount"] = len(rest)
            self.pages[metadata["continue"]] = Page(rest, whole.version)
        return metadata, whole.items[:limit]

    def _replace(self, request: Request, body: Json, live: Json) -> Json:
        version = body["metadata"].get("resourceVersion")
        if version not in (None, live["metadata"]["resourceVersion"]):
            raise ApiError(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {request.resource} "{request.name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
                {"name": request.name, "kind": request.resource},
            )
        made = self._admit(request, body)
        made["metadata"] = {**made["metadata"], "namespace": request.namespace, "name": request.name}
        if "status" in live:
            made["status"] = live["status"]
        else:
            made.pop("status", None)
        return self.store.replace(request.resource, made, dry_run=request.is_dry_run)

    def _admit(self, request: Request, body: Json) -> Json:
        if request.resource != "seldondeployments":
            return dict(body)
        admitted = admit(body, self.schema, strict=request.query.get("fieldValidation") == "Strict")
        return self.mutate(admitted) if self.mutate else admitted


def is_selected(request: Request, one: Json) -> bool:
    """True if the object has what the request's label and field selectors equal; of fields only its name."""
    pairs = [pair.partition("=") for pair in request.query.get("labelSelector", "").split(",") if "=" in pair]
    labels, names = one["metadata"].get("labels") or {}, request.query.get("fieldSelector", "")
    is_named = not names or names == f"metadata.name={one['metadata']['name']}"
    return is_named and all(labels.get(key) == value for key, _, value in pairs)


def _patched(request: Request, live: Json) -> Json:
    apply = PATCHES.get(request.content_type)
    if apply is None:
        raise ApiError(
            415,
            "UnsupportedMediaType",
            f"the body of the request was in an unknown format - {request.content_type}",
        )
    try:
        return dict(apply(live, request.body))
    except PatchError:
        # The server says no more than this, and names neither the path nor the object.
        message = "the server rejected our request due to an error in our request"
        raise ApiError(422, "Invalid", message) from None
