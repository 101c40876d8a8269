"""Checks of an API server and of our rights that need no right except authentication."""

from __future__ import annotations

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import NAMESPACE, OWN_ACCESS_REVIEW, SELF_REVIEW, ResourceKind, Right
from ipa.adapters.kube.responses import Json
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, UnavailableError


def server_version(client: KubeClient) -> str:
    """The API server's version, as v1.32.1. Errors: those of the client."""
    return str(client.discover("/version", "the API server's version").get("gitVersion", ""))


def user_name(client: KubeClient) -> str:
    """Our user name at the API server; empty before Kubernetes 1.28, which does not tell."""
    try:
        user = client.review(SELF_REVIEW).get("userInfo") or {}
    except NotFoundError:
        return ""
    return str(user.get("username", ""))


def is_allowed(client: KubeClient, namespace: str, right: Right, name: str = "") -> bool:
    """Ask for our right in the namespace ("": the whole cluster), to all objects or the named one."""
    asked = {"verb": right.verb, "group": right.group, "resource": right.resource}
    asked |= {"namespace": namespace} if namespace else {}
    asked |= {"name": name} if name else {}
    what = f"whether we may {right}" + (f" in {namespace}" if namespace else "")
    allowed = client.review(OWN_ACCESS_REVIEW, {"resourceAttributes": asked}, what).get("allowed")
    if not isinstance(allowed, bool):
        raise UnavailableError(f"{what}: the answer has no status.allowed")
    return allowed


def enforced_pod_security(client: KubeClient, namespace: str) -> str:
    """The level of PodSecurity that the namespace enforces; empty if it says none, or we may not ask."""
    try:
        found = client.get(NAMESPACE, "", namespace)
    except (ForbiddenError, NotFoundError):
        return ""
    labels = found["metadata"].get("labels") or {}
    return str(labels.get("pod-security.kubernetes.io/enforce", ""))


def served_versions(client: KubeClient, group: str) -> tuple[str, ...]:
    """The versions of the API group that are served, the preferred one first; none without the group."""
    try:
        found = client.discover(f"/apis/{group}", f"the API group {group}")
    except NotFoundError:
        return ()
    versions = [str(each.get("version", "")) for each in found.get("versions") or ()]
    preferred = str((found.get("preferredVersion") or {}).get("version", ""))
    return tuple(sorted(versions, key=lambda version: version != preferred))


def serves(client: KubeClient, kind: ResourceKind) -> bool:
    """True if the kind is served in its version."""
    try:
        found = client.discover(kind.root, kind.api_version)
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
