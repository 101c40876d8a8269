"""Authorisation: roles, operations, and the table of the role that each operation needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from ipa.model.pipeline import Pipeline

# Stands for every namespace, present and future.
EVERYWHERE = "*"
# Prefixes of identity names, each followed by a colon: the authentication method. A user of the cluster can
# thus never look like a key. `oidc` is in records of earlier versions.
VOUCHERS = ("key", "oidc", "kubernetes")
# The longest Kubernetes name; records and logs hold it whole.
LONGEST_NAME = 253


class Role(StrEnum):
    """A role in a namespace. Each role includes the rights of those before it."""

    VIEWER = "viewer"
    OWNER = "owner"
    OPERATOR = "operator"


class Operation(StrEnum):
    """The kind of action that a request needs permission for."""

    READ = "read"
    WHAT_IF = "what-if"
    CONTROL = "control"
    APPLY = "apply"
    DEFINE = "define"
    REPLACE = "replace"
    REMOVE = "remove"
    OPERATE = "operate"

    @property
    def writes(self) -> bool:
        """True if the operation changes anything."""
        return self not in (Operation.READ, Operation.WHAT_IF)


# For each operation: the least role for it, and a description of what it covers.
OPERATIONS: Mapping[Operation, tuple[Role, str]] = {
    Operation.READ: (Role.VIEWER, "pipelines, their status, profiles, decisions and record"),
    Operation.WHAT_IF: (Role.VIEWER, "plans and explanations, which change nothing"),
    Operation.CONTROL: (Role.OWNER, "mode, pause, pins, freezes"),
    Operation.APPLY: (Role.OWNER, "run a configuration, roll back"),
    Operation.DEFINE: (Role.OWNER, "create pipelines, with their images"),
    Operation.REPLACE: (Role.OWNER, "replace pipelines and profiles"),
    Operation.REMOVE: (Role.OWNER, "remove pipelines"),
    Operation.OPERATE: (Role.OPERATOR, "budgets and settings of every namespace"),
}
_ORDER = tuple(Role)


def allows(role: Role, operation: Operation) -> bool:
    """True if the role allows the operation in its namespace."""
    return _ORDER.index(role) >= _ORDER.index(OPERATIONS[operation][0])


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in one namespace, or in EVERYWHERE. An operator's role holds everywhere."""

    role: Role
    namespace: str = EVERYWHERE

    def __post_init__(self) -> None:
        if self.role is Role.OPERATOR and self.namespace != EVERYWHERE:
            raise ValueError("the role operator applies to every namespace")

    def allows(self, operation: Operation, namespace: str) -> bool:
        """True if the grant covers the operation there; EVERYWHERE needs a grant for EVERYWHERE."""
        return self.namespace in (EVERYWHERE, namespace) and allows(self.role, operation)

    def __str__(self) -> str:
        if self.role is Role.OPERATOR:
            return str(self.role)
        return f"{self.role} of {'every namespace' if self.namespace == EVERYWHERE else self.namespace}"


class Identity(Protocol):
    """The identity of a caller."""

    @property
    def name(self) -> str:
        """The name recorded as the actor."""

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """True if the operation is allowed in the namespace, for all pipelines or for the named one.

        UnavailableError if the permission cannot be looked up.
        """


@dataclass(frozen=True, slots=True)
class Holder:
    """An identity whose grants are known to the service."""

    name: str
    grants: tuple[Grant, ...] = ()

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """True if one of the grants allows it."""
        return any(grant.allows(operation, namespace) for grant in self.grants)


# The caller without authentication: an operator on this machine, by the name that they give.
LOCAL = Holder("", (Grant(Role.OPERATOR),))
# An unauthenticated caller while authentication is on: sees only what is open to all.
NOBODY = Holder("")


def looks_vouched(name: str) -> bool:
    """True if the name has the form of an authenticated identity."""
    voucher, colon, _ = name.partition(":")
    return bool(colon) and voucher.strip().lower() in VOUCHERS


def name_fault(name: object) -> str:
    """The reason why a name given by a caller cannot be recorded, empty if it can."""
    if not isinstance(name, str) or not name.strip():
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    # A line break would forge a log line.
    return "" if name.isprintable() else "has characters that do not print"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret. `name` is the person or program that it was made for."""

    key_id: str
    name: str
    grant: Grant
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """valid, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"

    @property
    def holder(self) -> str:
        """The key's name in the record; its digits distinguish keys of one name."""
        return f"key:{self.name}#{self.key_id}"
