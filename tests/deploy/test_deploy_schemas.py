"""The rendered objects are of Kubernetes' own schemas, and the chart's schema is closed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.rendering import CHART, KUSTOMIZE, Objects, built, charted
from tests.deploy.test_deploy_chart import WAYS

# The oldest that the chart says it takes (kubeVersion), and a newer one.
VERSIONS = ("1.27.0", "1.37.0")
# Of other makers: Kubernetes has no schema of them.
FOREIGN = {"ServiceMonitor"}
# What these take is Kubernetes' to say, or the user's own words.
OPEN = {"podSelector", "namespaceSelector", "ipBlock", "items", "labels", "nodeSelector", "global"}


def check(objects: Objects) -> None:
    for each in objects.values():
        if each["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_chart_renders_what_kubernetes_takes(way: str) -> None:
    check(charted(*WAYS[way]))


def test_the_overlays_are_what_kubernetes_takes() -> None:
    for mode in ("advisory", "active"):
        check(built(KUSTOMIZE / "overlays" / mode))


def test_a_misspelt_field_would_be_found() -> None:
    objects = charted()
    (deployment,) = (each for (kind, _, _), each in objects.items() if kind == "Deployment")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        check(objects)


def open_objects(schema: Any, name: str = "") -> Iterator[str]:
    """The names of objects that take properties that the schema does not know."""
    if isinstance(schema, list):
        for each in schema:
            yield from open_objects(each, name)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
            yield name
        for key, each in schema.items():
            yield from open_objects(each, name if key in {"properties", "additionalProperties"} else key)


def test_the_schema_takes_no_value_that_it_does_not_know() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(open_objects(schema)) <= OPEN
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) == set(schema["properties"]) - {"global"}
