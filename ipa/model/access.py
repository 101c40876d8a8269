"""Who may do what: roles, operations, and the one table that says which role an operation needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ipa.model.pipeline import Pipeline

# In place of a namespace: all of them, also those to come.
EVERYWHERE = "*"
# What the name of an identity begins with, and a colon: whoever vouches for it. So a token of an issuer can
# never name what looks like a key or a user of the cluster.
VOUCHERS = ("key", "oidc", "kubernetes")
# A Kubernetes name's longest; records and logs hold it whole.
LONGEST_NAME = 253


class Role(StrEnum):
    """What someone is to a namespace. Each role may all that those before it may."""

    VIEWER = "viewer"
    OWNER = "owner"
    OPERATOR = "operator"


class Operation(StrEnum):
    """What a request does, as far as permission goes."""

    READ = "read"
    WHAT_IF = "what-if"
    CONTROL = "control"
    APPLY = "apply"
    DEFINE = "define"
    REPLACE = "replace"
    AMEND = "amend"
    REMOVE = "remove"
    OPERATE = "operate"

    @property
    def writes(self) -> bool:
        """Whether anything is changed by it."""
        return self not in (Operation.READ, Operation.WHAT_IF)


# The least role for each operation; what it covers, for people.
NEEDS: Mapping[Operation, Role] = {
    Operation.READ: Role.VIEWER,
    Operation.WHAT_IF: Role.VIEWER,
    Operation.CONTROL: Role.OWNER,
    Operation.APPLY: Role.OWNER,
    Operation.DEFINE: Role.OWNER,
    Operation.REPLACE: Role.OWNER,
    Operation.AMEND: Role.OWNER,
    Operation.REMOVE: Role.OWNER,
    Operation.OPERATE: Role.OPERATOR,
}
COVERS: Mapping[Operation, str] = {
    Operation.READ: "pipelines, their status, profiles, decisions and record",
    Operation.WHAT_IF: "plans and explanations, which change nothing",
    Operation.CONTROL: "mode, pause, pins, freezes",
    Operation.APPLY: "run a configuration, roll back",
    Operation.DEFINE: "create pipelines, with the images that they run",
    Operation.REPLACE: "replace pipelines and profiles",
    Operation.AMEND: "change parts of pipelines",
    Operation.REMOVE: "remove pipelines",
    Operation.OPERATE: "what concerns every namespace: budgets, settings",
}
_ORDER = tuple(Role)


def allows(role: Role, operation: Operation) -> bool:
    """Whether that role may do that, in its namespace."""
    return _ORDER.index(role) >= _ORDER.index(NEEDS[operation])


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in one namespace, or EVERYWHERE. An operator is one everywhere."""

    role: Role
    namespace: str = EVERYWHERE

    def __post_init__(self) -> None:
        if self.role is Role.OPERATOR and self.namespace != EVERYWHERE:
            raise ValueError("an operator is one of every namespace")

    def allows(self, operation: Operation, namespace: str) -> bool:
        """Whether it covers that operation there; in EVERYWHERE only where it is for that itself."""
        return self.namespace in (EVERYWHERE, namespace) and allows(self.role, operation)

    def __str__(self) -> str:
        if self.role is Role.OPERATOR:
            return str(self.role)
        return f"{self.role} of {'every namespace' if self.namespace == EVERYWHERE else self.namespace}"


class Identity(Protocol):
    """Someone who asks."""

    @property
    def name(self) -> str:
        """What is recorded as who acted."""
        ...

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """Whether that is allowed there, with all or with that pipeline alone.

        UnavailableError where it cannot be found out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Someone with roles that are known here."""

    name: str
    grants: tuple[Grant, ...] = ()

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """Whether one of the grants allows it."""
        return any(grant.allows(operation, namespace) for grant in self.grants)


# Who asks where nobody has to say who they are: whoever is on this machine, by the name they give.
LOCAL = Holder("", (Grant(Role.OPERATOR),))
# Who did not say who they are where one has to: sees what is open to all.
NOBODY = Holder("")


def key_name(name: str, key_id: str) -> str:
    """The identity of a key: two keys of one name are told apart."""
    return f"key:{name}#{key_id}"


def oidc_name(issuer: str, subject: str) -> str:
    """The identity of an issuer's user; no issuer's address has a # in it."""
    return f"oidc:{issuer.partition('://')[2] or issuer}#{subject}"


def kubernetes_name(username: str) -> str:
    """The identity of a cluster's user."""
    return f"kubernetes:{username}"


def looks_vouched(name: str) -> bool:
    """True if the name has the form of an identity that somebody vouches for."""
    voucher, colon, _ = name.partition(":")
    return bool(colon) and voucher.strip().lower() in VOUCHERS


def name_fault(name: object) -> str:
    """What keeps a name that others gave from being recorded, empty for nothing."""
    if not isinstance(name, str) or not name.strip():
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    # A line break would forge a line of a log.
    return "" if name.isprintable() else "has characters that do not print"


def described(grants: Iterable[Grant]) -> str:
    """The grants in words."""
    return ", ".join(str(grant) for grant in grants) or "no role"
