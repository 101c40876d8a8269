"""Checks of an API server and of our rights that need no right except authentication."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ResourceKind, Right
from ipa.adapters.kube.responses import Json
from ipa.adapters.kube.transport import Request
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, UnavailableError

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def server_version(client: KubeClient) -> str:
    """The API server's version, as v1.32.1. Errors: those of the client."""
    return str(_ask(client, Request("the API server's version", "GET", "/version")).get("gitVersion", ""))


def user_name(client: KubeClient) -> str:
    """Our user name at the API server; empty before Kubernetes 1.28, which does not tell."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = _ask(client, Request("who we are", "POST", SELF, body=body))
    except NotFoundError:
        return ""
    user = (answer.get("status") or {}).get("userInfo") or {}
    return str(user.get("username", ""))


def is_allowed(client: KubeClient, namespace: str, right: Right, name: str = "") -> bool:
    """Ask for our right in the namespace ("": the whole cluster), to all objects or the named one."""
    attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
    if namespace:
        attributes["namespace"] = namespace
    if name:
        attributes["name"] = name
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    what = f"whether we may {right}" + (f" in {namespace}" if namespace else "")
    answer = _ask(client, Request(what, "POST", REVIEWS, body=body))
    allowed = (answer.get("status") or {}).get("allowed")
    if not isinstance(allowed, bool):
        raise UnavailableError(f"{what}: the answer has no status.allowed")
    return allowed


def enforced_pod_security(client: KubeClient, namespace: str) -> str:
    """The level of PodSecurity that the namespace enforces; empty if it says none, or we may not ask."""
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}"
    try:
        found = _ask(client, Request(f"namespace {namespace}", "GET", path))
    except (ForbiddenError, NotFoundError):
        return ""
    labels = (found.get("metadata") or {}).get("labels") or {}
    return str(labels.get("pod-security.kubernetes.io/enforce", ""))


def served_versions(client: KubeClient, group: str) -> tuple[str, ...]:
    """The versions of the API group that are served, the preferred one first; none without the group."""
    try:
        found = _ask(client, Request(f"the API group {group}", "GET", f"/apis/{group}"))
    except NotFoundError:
        return ()
    versions = [str(each.get("version", "")) for each in found.get("versions") or ()]
    preferred = str((found.get("preferredVersion") or {}).get("version", ""))
    return tuple(sorted(versions, key=lambda version: version != preferred))


def serves(client: KubeClient, kind: ResourceKind) -> bool:
    """True if the kind is served in its version."""
    try:
        found = _ask(client, Request(kind.api_version, "GET", kind.root))
    except NotFoundError:
        return False
    return any(each.get("name") == kind.plural for each in found.get("resources") or ())


def refusal(client: KubeClient, kind: ResourceKind, namespace: str, probe: Json) -> str:
    """Return what the admission of the cluster says against an object; empty if nobody objects.

    Nothing is made: it is a dry run. UnavailableError if a registered webhook does not answer;
    ForbiddenError if we may not create.
    """
    try:
        client.create(kind, namespace, probe, dry_run=True)
    except InputError as error:
        return error.message
    return ""


def _ask(client: KubeClient, request: Request) -> Json:
    """The JSON object of the answer; these kinds have no metadata that could be checked."""
    answer = client.transport.ask(request, client.timeout_s)
    try:
        found: Any = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(f"{request.what}: the answer is not a JSON object")
    return found
