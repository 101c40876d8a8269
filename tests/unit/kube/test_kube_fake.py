"""The fake API server answers as the genuine one was seen to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.targets.seldon.manifest import render
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import real_schema

Json = dict[str, Any]
SDEPS = "/apis/machinelearning.seldon.io/v1/namespaces/models/seldondeployments"
ONE = f"{SDEPS}/sample"
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as fake:
        yield fake


@pytest.fixture
def http(kube: FakeKube) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=kube.url, timeout=300) as client:
        client.post(SDEPS, json=body()).raise_for_status()
        yield client


def body() -> Json:
    return render(sample_pipeline(), sample_configs())


def patch(http: httpx.Client, operations: Any) -> httpx.Response:
    return http.patch(ONE, content=json.dumps(operations), headers=JSON_PATCH)


def message(response: httpx.Response) -> str:
    return str(response.json()["message"])


def deployment(http: httpx.Client, name: str) -> httpx.Response:
    return http.get(f"/apis/apps/v1/namespaces/models/deployments/{name}")


def names(http: httpx.Client) -> list[str]:
    found = http.get("/apis/apps/v1/namespaces/models/deployments").json()["items"]
    return [one["metadata"]["name"] for one in found]


def test_a_stale_put_is_409_and_a_failed_test_422(http: httpx.Client) -> None:
    stale = http.get(ONE).json()
    patch(http, [{"op": "add", "path": "/spec/replicas", "value": 2}])
    response = http.put(ONE, json=stale)
    assert (response.status_code, response.json()["reason"]) == (409, "Conflict")
    response = patch(http, [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}])
    assert (response.status_code, response.json()["reason"]) == (422, "Invalid")
    assert message(response) == "the server rejected our request due to an error in our request"


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"op": "add", "path": "/spec/predictors/0/traffic", "value": 50}, "Traffic must sum to 100"),
        ({"op": "replace", "path": "/spec/predictors/0/graph/name", "value": "x"}, "Can't find container"),
        ({"op": "add", "path": "/spec/predictors/0/graph/implementation", "value": "a.B"}, "No entry"),
        ({"op": "add", "path": "/spec/predictors/0/replicas", "value": "three"}, "is not of type 'integer'"),
    ],
)
def test_schema_and_webhook_refuse_with_422_and_the_cause(
    http: httpx.Client, operation: Json, words: str
) -> None:
    response = patch(http, [operation])
    assert response.status_code == 422
    assert words in message(response)
    assert response.json()["details"]["causes"]


def test_names_are_taken_once_and_gone_after_deletion(kube: FakeKube, http: httpx.Client) -> None:
    assert http.post(SDEPS, json=body()).status_code == 409
    kube.tick(3)
    assert len(names(http)) == 4
    assert http.delete(ONE).status_code == 200
    assert http.get(ONE).status_code == 404
    # Children go by their owner reference, some time later.
    assert len(names(http)) == 4
    kube.tick()
    assert names(http) == []
    assert http.get("/api/v1/namespaces/models/pods").json()["items"] == []


def test_the_operator_makes_deployments_with_its_env_and_its_engine(
    kube: FakeKube, http: httpx.Client
) -> None:
    kube.tick()
    stages = ["sample-main-0-detect", "sample-main-1-reader", "sample-main-2-sort"]
    assert names(http) == [*stages, "sample-main-svc-orch"]
    pod = deployment(http, "sample-main-1-reader").json()["spec"]["template"]["spec"]
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert env["MLSERVER_MODEL_NAME"] == "reader"
    assert (env["MLSERVER_HTTP_PORT"], env["MLSERVER_METRICS_PORT"]) == ("9001", "6000")
    assert len(pod["containers"]) == 1
    patch(http, [{"op": "remove", "path": "/spec/annotations"}])
    kube.tick(8)
    assert names(http) == stages
    first = deployment(http, "sample-main-0-detect").json()["spec"]["template"]["spec"]["containers"]
    assert [one["name"] for one in first] == ["detect", "seldon-container-engine"]


def test_a_roll_surges_and_never_falls_below_what_was_ready(kube: FakeKube, http: httpx.Client) -> None:
    base = "/spec/predictors/0/componentSpecs/0"
    patch(http, [{"op": "replace", "path": f"{base}/replicas", "value": 4}])
    kube.tick(6)
    patch(http, [{"op": "replace", "path": f"{base}/spec/containers/0/image", "value": "new:1"}])
    seen = []
    for _ in range(20):
        kube.tick()
        status = deployment(http, "sample-main-0-detect").json()["status"]
        seen.append((status["readyReplicas"], status["updatedReplicas"], status["replicas"]))
    assert min(ready for ready, _, _ in seen) >= 4
    assert max(total for _, _, total in seen) == 5
    assert seen[-1] == (4, 4, 4)


def test_renaming_a_container_makes_a_new_deployment_and_the_old_goes_when_it_is_ready(
    kube: FakeKube, http: httpx.Client
) -> None:
    kube.tick(4)
    rename = [
        {"op": "replace", "path": "/spec/predictors/0/graph/name", "value": "found"},
        {
            "op": "replace",
            "path": "/spec/predictors/0/componentSpecs/0/spec/containers/0/name",
            "value": "found",
        },
    ]
    assert patch(http, rename).status_code == 200
    kube.tick()
    assert {"sample-main-0-detect", "sample-main-0-found"} < set(names(http))
    kube.tick(4)
    assert "sample-main-0-detect" not in names(http)


def test_a_hand_edit_of_a_deployment_is_reverted_unless_an_autoscaler_owns_it(
    kube: FakeKube, http: httpx.Client
) -> None:
    kube.tick(3)
    url = "/apis/apps/v1/namespaces/models/deployments/sample-main-0-detect"

    def scale_by_hand() -> int:
        content = json.dumps([{"op": "replace", "path": "/spec/replicas", "value": 9}])
        assert http.patch(url, content=content, headers=JSON_PATCH).status_code == 200
        kube.tick()
        return int(http.get(url).json()["spec"]["replicas"])

    assert scale_by_hand() == 1
    hpa = {"op": "add", "path": "/spec/predictors/0/componentSpecs/0/hpaSpec", "value": {"maxReplicas": 9}}
    assert patch(http, [hpa]).status_code == 200
    assert scale_by_hand() == 9


def test_what_the_small_schema_refuses_the_published_one_refuses_too(
    kube: FakeKube, http: httpx.Client, shared_data: Path
) -> None:
    wrong = [
        {"op": "add", "path": "/spec/predictors/0/replicas", "value": "three"},
        {"op": "remove", "path": "/spec/predictors/0/graph"},
        {"op": "add", "path": "/spec/predictors/0/componentSpecs/0/hpaSpec", "value": {}},
        {"op": "remove", "path": "/spec/predictors/0/name"},
    ]
    small = [patch(http, [operation]).status_code for operation in wrong]
    kube.api.schema = real_schema(shared_data / "seldondeployment-crd-v1.17.1.yaml.gz")
    assert [patch(http, [operation]).status_code for operation in wrong] == small == [422] * 4
