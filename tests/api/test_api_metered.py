"""The API's counts of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from ipa.api.app import openapi_document
from ipa.api.context import HttpMetrics
from ipa.metering.make import new_registry
from tests.fakes.services import ApiClient, FakeWorld


@pytest.fixture
def registry() -> CollectorRegistry:
    return new_registry()


@pytest.fixture
def api(registry: CollectorRegistry) -> ApiClient:
    services = FakeWorld().play(5).services()
    return ApiClient(replace(services, registry=registry, http=HttpMetrics(registry)))


def requests(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    """The counts, by route, method and status; without zeros."""
    return {
        (sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value
        for family in registry.collect()
        if family.name == "ipa_http_requests"
        for sample in family.samples
        if sample.value
    }


def test_requests_are_counted_by_template_method_and_class_of_status(
    api: ApiClient, registry: CollectorRegistry
) -> None:
    for path in (
        "/v1/pipelines",
        "/v1/pipelines/ocr",
        "/v1/pipelines/none",
        "/openapi.json",
        "/assets/style.css",
    ):
        api.get(path)
    api("PUT", "/v1/pipelines")
    api.get("/v1/nothing")
    api.get("/metrics", headers={"Host": "evil.example"})
    assert requests(registry) == {
        ("/v1/pipelines", "GET", "2xx"): 1.0,
        ("/v1/pipelines/{pipeline}", "GET", "2xx"): 1.0,
        ("/v1/pipelines/{pipeline}", "GET", "4xx"): 1.0,
        ("/openapi.json", "GET", "2xx"): 1.0,
        ("/assets", "GET", "2xx"): 1.0,
        # A method that the route does not have.
        ("/v1/pipelines", "other", "4xx"): 1.0,
        ("unmatched", "GET", "4xx"): 1.0,
        # Refused before it came to its route.
        ("/metrics", "GET", "4xx"): 1.0,
    }
    assert registry.get_sample_value("ipa_http_requests_in_flight") == 0.0
    times = registry.get_sample_value("ipa_http_request_seconds_count", {"route": "/v1/pipelines"})
    assert times == 2.0


def test_every_operation_has_its_series_before_the_first_request(
    api: ApiClient, registry: CollectorRegistry
) -> None:
    for path, operations in openapi_document()["paths"].items():
        for method in operations:
            for status in ("2xx", "4xx", "5xx"):
                labels = {"route": path, "method": method.upper(), "status": status}
                assert registry.get_sample_value("ipa_http_requests_total", labels) == 0.0, labels


def test_a_fault_of_the_service_counts_as_5xx(registry: CollectorRegistry) -> None:
    world = FakeWorld().play(1)
    world.failing = RuntimeError("a fault")
    api = ApiClient(replace(world.services(), registry=registry, http=HttpMetrics(registry)))
    assert api.get("/v1/pipelines/ocr/status").status_code == 500
    assert requests(registry) == {("/v1/pipelines/{pipeline}/status", "GET", "5xx"): 1.0}
