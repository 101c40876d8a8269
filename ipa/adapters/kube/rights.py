"""What the service may be allowed to do in a cluster, role by role, as deploy/rbac grants it."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.targets.seldon.manifest import GROUP, PLURAL


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of object; `group` is "" for the core API."""

    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


# Verbs on what is known by name: a role may limit them by resourceNames.
BY_NAME = frozenset({"get", "patch", "update"})


@dataclass(frozen=True, slots=True)
class Role:
    """Rights that are granted together, and what for."""

    name: str
    purpose: str
    rights: tuple[Right, ...]


def _rights(group: str, resource: str, *verbs: str) -> tuple[Right, ...]:
    return tuple(Right(verb, group, resource) for verb in verbs)


OBSERVER = Role(
    "observer",
    "reading what runs",
    (
        *_rights(GROUP, PLURAL, "get", "list", "watch"),
        *_rights("apps", "deployments", "get", "list", "watch"),
        *_rights("autoscaling", "horizontalpodautoscalers", "list"),
        *_rights("", "pods", "list"),
    ),
)
ACTOR = Role(
    "actor",
    "writing plans",
    (*_rights(GROUP, PLURAL, "create", "patch"), *_rights("", "events", "create", "patch")),
)
ELECTOR = Role(
    "elector", "electing who writes", _rights("coordination.k8s.io", "leases", "get", "create", "update")
)
# Of no namespace: a ClusterRole.
REVIEWER = Role(
    "reviewer",
    "asking whose a token is",
    (
        *_rights("authentication.k8s.io", "tokenreviews", "create"),
        *_rights("authorization.k8s.io", "subjectaccessreviews", "create"),
    ),
)
ROLES = (OBSERVER, ACTOR, ELECTOR, REVIEWER)
