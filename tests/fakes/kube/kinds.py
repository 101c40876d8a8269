"""The kinds that kubectl and Helm write: discovery, OpenAPI, apply, and what roles allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.fakes.kube.store import ApiError, Json, Store

SELDON = "machinelearning.seldon.io"
RBAC = "rbac.authorization.k8s.io"
MONITORING = "monitoring.coreos.com"
CUSTOM = (SELDON, MONITORING)
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True)
class Kind:
    """One kind of object, and the resource it is served as."""

    group: str
    version: str
    resource: str
    kind: str
    namespaced: bool = True
    scales: bool = False

    @property
    def place(self) -> str:
        """As `apiVersion` has it."""
        return f"{self.group}/{self.version}" if self.group else self.version


INSTALLED = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "events", "Event"),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "services", "Service"),
    Kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
    ),
    Kind("apps", "v1", "deployments", "Deployment", scales=True),
    Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind(RBAC, "v1", "roles", "Role"),
    Kind(RBAC, "v1", "rolebindings", "RoleBinding"),
    Kind(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Kind(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Kind(MONITORING, "v1", "podmonitors", "PodMonitor"),
    Kind(MONITORING, "v1", "servicemonitors", "ServiceMonitor"),
    Kind(SELDON, "v1", "seldondeployments", "SeldonDeployment"),
)


class Kinds:
    """The kinds that are served beside those that the service asks for."""

    def __init__(self, kinds: Iterable[Kind] = INSTALLED) -> None:
        self.by_resource = {each.resource: each for each in kinds}

    def discovery(self, group: str, version: str) -> Json:
        """The answer to `/api` (group "api"), `/apis`, and the paths below them."""
        core = group == "api"
        if core and not version:
            return {"kind": "APIVersions", "versions": ["v1"]}
        groups = sorted({each.group for each in self.by_resource.values() if each.group})
        if not group:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._group(it) for it in groups]}
        if not core and group not in groups:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if not version:
            return {"kind": "APIGroup", "apiVersion": "v1", **self._group(group)}
        kinds = [each for each in self.by_resource.values() if each.group == ("" if core else group)]
        resources = [
            {
                "name": each.resource,
                "singularName": each.kind.lower(),
                "kind": each.kind,
                "namespaced": each.namespaced,
                "verbs": VERBS,
            }
            for each in kinds
        ]
        scales = [{"name": f"{it.resource}/scale", "kind": "Scale"} for it in kinds if it.scales]
        place, resources = kinds[0].place, resources + scales
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": place, "resources": resources}

    def _group(self, group: str) -> Json:
        versions = sorted({each.version for each in self.by_resource.values() if each.group == group})
        listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
        return {"name": group, "versions": listed, "preferredVersion": listed[0]}

    def openapi(self, path: str) -> Json:
        """The index of documents, or one: from it clients learn that the server validates fields."""
        built_in = [each for each in self.by_resource.values() if each.group not in CUSTOM]
        documents = {f"apis/{each.place}" if each.group else "api/v1": each.place for each in built_in}
        if not path:
            return {"paths": {key: {"serverRelativeURL": f"/openapi/v3/{key}"} for key in documents}}
        if path not in documents:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.32.1"},
            "paths": {
                f"/{path}/{each.resource}/{{name}}": {"patch": _patched(each)}
                for each in built_in
                if each.place == documents[path]
            },
            "components": {"schemas": {}},
        }

    def check_namespace(self, store: Store, resource: str, namespace: str) -> None:
        """404 where an object of the kind would be in a namespace that is not there."""
        kind = self.by_resource.get(resource)
        if kind is not None and kind.namespaced:
            store.get("namespaces", "", namespace)


def scale_of(live: Json) -> Json:
    """The subresource scale of an object; a 0 is left out, as the API server does."""
    spec, status = live["spec"], live.get("status", {})
    labels = spec.get("selector", {}).get("matchLabels", {})
    selector = status.get("selector", ",".join(f"{key}={value}" for key, value in labels.items()))
    counts = {"replicas": spec["replicas"]} if spec["replicas"] else {}
    seen = {"replicas": status.get("replicas", 0), "selector": selector}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": counts, "status": seen}


def _patched(kind: Kind) -> Json:
    return {
        "x-kubernetes-group-version-kind": {
            "group": kind.group,
            "version": kind.version,
            "kind": kind.kind,
        },
        "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
        "responses": {"200": {"description": "OK"}},
    }


def custom(store: Store) -> None:
    """Put the definitions of the custom kinds into the store."""
    with store.lock:
        for each in INSTALLED:
            if each.group in CUSTOM:
                names = {"kind": each.kind, "plural": each.resource}
                spec = {"group": each.group, "names": names, "scope": "Namespaced"}
                metadata = {"name": f"{each.resource}.{each.group}"}
                store.create("customresourcedefinitions", "", {"metadata": metadata, "spec": spec})


def merged(live: Json, applied: Json) -> Json:
    """The object after an apply of one manager: what it says, beside what others said."""
    return {
        **live,
        **{
            key: merged(live[key], value)
            if isinstance(value, dict) and isinstance(live.get(key), dict)
            else value
            for key, value in applied.items()
        },
    }


def rights_of(store: Store, account: str, namespace: str) -> Callable[[str, str, str, str, str], bool]:
    """True for each (verb, group, resource, namespace, name) that a role bound to the account allows."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}

    def rules(bindings: str, roles: str, at: str) -> Iterable[Json]:
        for binding in store.find(bindings, at):
            if subject in binding.get("subjects", ()):
                yield from store.get(roles, at, binding["roleRef"]["name"])["rules"]

    def may(verb: str, group: str, resource: str, at: str, name: str) -> bool:
        with store.lock:
            bound = [*rules("clusterrolebindings", "clusterroles", "")]
            bound += rules("rolebindings", "roles", at) if at else ()
        return any(
            verb in rule["verbs"]
            and group in rule["apiGroups"]
            and resource in rule["resources"]
            and name in (rule.get("resourceNames") or [name])
            for rule in bound
        )

    return may
