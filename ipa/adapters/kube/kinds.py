"""The kinds of Kubernetes objects: their API paths, the rights on them by role, and quantities."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote

from ipa.model.resources import BY_NAME as RESOURCES
from ipa.model.resources import CORES


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of object; `group` is empty for the core API, `plural` is its name in paths and in rights."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """The path of its API version."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}"

    def path(self, namespace: str, name: str | None = None) -> str:
        """The path of the namespace's objects, or of the named one; cluster-wide kinds have no namespace."""
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        path = f"{self.root}{within}/{self.plural}"
        return path if name is None else f"{path}/{quote(name, safe='')}"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object by kind, namespace and name."""

    kind: ResourceKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


DEPLOYMENT = ResourceKind("apps", "v1", "deployments", "Deployment")
POD = ResourceKind("", "v1", "pods", "Pod")
EVENT = ResourceKind("", "v1", "events", "Event")
NAMESPACE = ResourceKind("", "v1", "namespaces", "Namespace")
AUTOSCALER = ResourceKind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
LEASE = ResourceKind("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEW = ResourceKind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
OWN_ACCESS_REVIEW = ResourceKind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"
)
ACCESS_REVIEW = ResourceKind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")


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
        *_rights(DEPLOYMENT, "get"),
        *_rights(AUTOSCALER, "list"),
        *_rights(POD, "list"),
    )
    return RbacRole("observer", "reading workloads", tuple(dict.fromkeys(rights)))


def actor(kind: ResourceKind) -> RbacRole:
    """The role that writes workloads of that kind, and Events on them."""
    return RbacRole(
        "actor",
        "writing plans",
        (
            *_rights(kind, "patch"),
            *_rights(EVENT, "create"),
            # The namespace's PodSecurity level is read before each write.
            Right("get", "", "namespaces"),
        ),
    )


ELECTOR = RbacRole("elector", "electing who writes", _rights(LEASE, "get", "create", "update"))
# A ClusterRole, since reviews have no namespace.
REVIEWER = RbacRole(
    "reviewer",
    "asking whose a token is",
    (*_rights(TOKEN_REVIEW, "create"), *_rights(ACCESS_REVIEW, "create")),
)


MILLICORES = 1000
MIB_PER_GIB = 1024

_SCALE = {
    **{"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?")


def parse_quantity(value: object) -> Decimal | None:
    """The number a quantity stands for ("500m" is 0.5, "1Gi" is 2**30); None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    form = _FORM.fullmatch(str(value))
    return Decimal(form[1]) * _SCALE[form[2] or ""] if form else None


def cpu_quantity(cores: float) -> str:
    """The quantity of this many cores, in millicores: the smallest unit in Kubernetes."""
    return f"{round(cores * MILLICORES)}m"


def format_quantity(name: str, amount: float) -> str:
    """The quantity of this amount of the named resource (`ipa.model.resources`); accelerators are whole."""
    known = RESOURCES.get(name)
    if known is None:
        return str(round(amount))
    return cpu_quantity(amount) if name == CORES else f"{round(amount * MIB_PER_GIB)}Mi"


def read_amount(name: str, text: object) -> float | None:
    """The amount that `format_quantity` writes as this text; None if it writes no such text."""
    quantity = parse_quantity(text)
    if quantity is None:
        return None
    return float(quantity) / (2**30 if name in RESOURCES and name != CORES else 1)
