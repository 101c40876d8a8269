"""The custom resource's structural schema: what it prunes, what it refuses, and the operator's webhook."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.fakes.kube.store import ApiError, Json

# Prepackaged servers of the operator's configuration.
SERVERS = ("MLFLOW_SERVER", "SKLEARN_SERVER", "TENSORFLOW_SERVER", "TRITON_SERVER", "XGBOOST_SERVER")
# What the executor does by itself: no server, no container.
BUILT_IN = ("SIMPLE_MODEL", "SIMPLE_ROUTER", "RANDOM_ABTEST", "AVERAGE_COMBINER")
QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}


def _object(required: tuple[str, ...] = (), **properties: Any) -> Json:
    made: Json = {"type": "object", "properties": properties}
    return {**made, "required": list(required)} if required else made


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _graph(depth: int) -> Json:
    text = {"type": "string"}
    own = {
        **dict.fromkeys(("name", "type", "implementation", "modelUri", "serviceAccountName"), text),
        "parameters": _list(_object(("name", "type", "value"), name=text, type=text, value=text)),
    }
    return _object(("name",), **own, **({"children": _list(_graph(depth - 1))} if depth else {}))


def small_schema() -> Json:
    """The part of the real schema that the tests write; the real one is 2.7 MB and not shipped."""
    text, number = {"type": "string"}, {"type": "integer"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    container = _object(
        ("name",),
        name=text,
        image=text,
        command=_list(text),
        env=_list(_object(("name",), name=text, value=text, valueFrom=anything)),
        resources=_object(requests=AMOUNTS, limits=AMOUNTS),
        volumeMounts=_list(anything),
        readinessProbe=anything,
        securityContext=_object(
            allowPrivilegeEscalation={"type": "boolean"},
            capabilities=_object(add=_list(text), drop=_list(text)),
            runAsNonRoot={"type": "boolean"},
            runAsUser=number,
            seccompProfile=_object(("type",), type=text),
        ),
    )
    component = _object(
        metadata=_object(labels=STRINGS, annotations=STRINGS, name=text),
        replicas=number,
        hpaSpec=_object(("maxReplicas",), maxReplicas=number, minReplicas=number, metricsv2=_list(anything)),
        kedaSpec=_object(
            ("triggers",), triggers=_list(anything), minReplicaCount=number, maxReplicaCount=number
        ),
        spec=_object(
            ("containers",),
            containers=_list(container),
            initContainers=_list(container),
            serviceAccountName=text,
            terminationGracePeriodSeconds=number,
        ),
    )
    predictor = _object(
        ("graph", "name"),
        name=text,
        replicas=number,
        traffic=number,
        shadow={"type": "boolean"},
        annotations=STRINGS,
        labels=STRINGS,
        svcOrchSpec=_object(
            replicas=number, env=_list(anything), resources=_object(requests=AMOUNTS, limits=AMOUNTS)
        ),
        componentSpecs=_list(component),
        graph=_graph(10),
    )
    spec = _object(
        ("predictors",),
        name=text,
        protocol=text,
        transport=text,
        replicas=number,
        annotations=STRINGS,
        predictors=_list(predictor),
    )
    return _object(apiVersion=text, kind=text, metadata=anything, spec=spec, status=anything)


def real_schema(crd: Path) -> Json:
    """The schema of the published CRD (gzipped YAML)."""
    with gzip.open(crd, "rt") as stream:
        definition = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(version for version in definition["spec"]["versions"] if version["storage"])
    schema: Json = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"]["x-kubernetes-preserve-unknown-fields"] = True
    return schema


def prune(value: Any, schema: Json, path: str = "") -> tuple[Any, list[str]]:
    """The value without fields that the schema does not know, and the paths of those."""
    if isinstance(value, list):
        pairs = [prune(one, schema.get("items", {}), f"{path}[{i}]") for i, one in enumerate(value)]
        return [one for one, _ in pairs], [name for _, names in pairs for name in names]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value, []
    pruned, unknown = {}, []
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for key, one in value.items():
        inner = properties.get(key, others)
        where = f"{path}.{key}" if path else key
        if inner is None:
            unknown.append(where)
            continue
        pruned[key], deeper = prune(one, inner if isinstance(inner, dict) else {}, where)
        unknown.extend(deeper)
    return pruned, unknown


def admit(body: Json, schema: Json, *, strict: bool) -> Json:
    """The object as it would be stored. 400 for unknown fields (strict), 422 for what is invalid."""
    pruned, unknown = prune(body, schema)
    if unknown and strict:
        words = ", ".join(f'unknown field "{name}"' for name in unknown)
        raise ApiError(400, "BadRequest", f"strict decoding error: {words}")
    name = body["metadata"].get("name", "")
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(pruned), key=lambda e: e.json_path)
    if errors:
        _refuse(name, [(error.json_path.removeprefix("$."), error.message) for error in errors])
    _webhook(name, pruned.get("spec", {}))
    return pruned


def _webhook(name: str, spec: Json) -> None:
    predictors = spec.get("predictors", [])
    faults = []
    traffic = [predictor.get("traffic", 0) for predictor in predictors if not predictor.get("shadow")]
    if sum(traffic) not in (0, 100) or (len(traffic) > 1 and sum(traffic) != 100):
        faults.append(("spec", f"Traffic must sum to 100 for predictors: it is {sum(traffic)}"))
    for predictor in predictors:
        specs = predictor.get("componentSpecs", [])
        containers = {one["name"] for spec in specs for one in spec.get("spec", {}).get("containers", [])}
        nodes = [predictor["graph"]]
        while nodes:
            node = nodes.pop()
            nodes.extend(node.get("children", []))
            server = node.get("implementation")
            if server in BUILT_IN:
                continue
            if server is not None and server not in SERVERS:
                faults.append(("spec.predictors.graph", f"No entry in predictors map for {server}"))
            elif server is not None and "modelUri" not in node:
                faults.append(("spec.predictors.graph", f"modelUri required for {node['name']}"))
            elif server is None and node["name"] not in containers:
                faults.append(("spec.predictors.graph", f"Can't find container for node {node['name']}"))
    if faults:
        _refuse(name, faults)


def _refuse(name: str, faults: list[tuple[str, str]]) -> None:
    causes = [{"reason": "FieldValueInvalid", "message": words, "field": field} for field, words in faults]
    words = ", ".join(f"{field}: Invalid value: {message}" for field, message in faults)
    raise ApiError(
        422,
        "Invalid",
        f'SeldonDeployment.machinelearning.seldon.io "{name}" is invalid: {words}',
        {"name": name, "group": "machinelearning.seldon.io", "kind": "SeldonDeployment", "causes": causes},
    )
