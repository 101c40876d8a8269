"""Rights of the service in a cluster by role, as deploy/rbac grants them."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.adapters.kube.kinds import (
    ACCESS_REVIEW,
    AUTOSCALER,
    DEPLOYMENT,
    EVENT,
    LEASE,
    POD,
    TOKEN_REVIEW,
    ResourceKind,
)


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
class RbacRole:
    """Rights that are granted together, and their purpose."""

    name: str
    purpose: str
    rights: tuple[Right, ...]


def _rights(kind: ResourceKind, *verbs: str) -> tuple[Right, ...]:
    return tuple(Right(verb, kind.group, kind.plural) for verb in verbs)


def observer(kind: ResourceKind) -> RbacRole:
    """The role that reads workloads of that kind and what they own."""
    rights = (
        *_rights(kind, "get", "list", "watch"),
        *_rights(DEPLOYMENT, "get", "list", "watch"),
        *_rights(AUTOSCALER, "list"),
        *_rights(POD, "list"),
    )
    return RbacRole("observer", "reading what runs", rights)


def actor(kind: ResourceKind) -> RbacRole:
    """The role that writes workloads of that kind, and Events on them."""
    return RbacRole(
        "actor",
        "writing plans",
        (*_rights(kind, "create", "patch"), *_rights(EVENT, "create", "patch")),
    )


ELECTOR = RbacRole("elector", "electing who writes", _rights(LEASE, "get", "create", "update"))
# Of no namespace: a ClusterRole.
REVIEWER = RbacRole(
    "reviewer",
    "asking whose a token is",
    (
        *_rights(TOKEN_REVIEW, "create"),
        *_rights(ACCESS_REVIEW, "create"),
    ),
)
