"""The fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.api.bodies import PIPELINE, PROFILE
from tests.fakes.services import GPU, ApiClient, FakeWorld, a_pipeline, over, with_resources


@pytest.fixture
def api() -> ApiClient:
    return ApiClient(FakeWorld().play(60).services())


def give(api: ApiClient, profile: dict[str, Any] = PROFILE) -> None:
    tag = api.post("/v1/pipelines", PIPELINE).headers["etag"]
    given = api("PUT", "/v1/pipelines/captions/profiles/describe", json=profile, headers={"If-Match": tag})
    assert given.status_code == 200


def test_the_fleet_is_what_the_pipelines_use(api: ApiClient) -> None:
    fleet = api.get("/v1/fleet").json()
    (ocr,) = fleet["pipelines"]
    assert fleet["cores"] == ocr["cores"] == api.get("/v1/pipelines/ocr/status").json()["live"]["cost_cores"]
    assert (fleet["budget_cores"], ocr["budget_cores"], ocr["share_ratio"]) == (4.0, 4.0, 1.0)
    status = api.get("/v1/pipelines/ocr/status").json()
    assert (ocr["latency_s"], ocr["sla_s"]) == (status["live"]["latency_s"], status["sla_s"])
    give(api)
    fleet = api.get("/v1/fleet").json()
    assert fleet["budget_cores"] == 20.0
    unseen, ocr = fleet["pipelines"]
    assert (unseen["pipeline"], unseen["cores"], unseen["share_ratio"]) == ("captions", None, None)
    assert unseen["mode"] == "advisory" and not unseen["healthy"]


def test_the_fleet_is_what_the_pipelines_have_of_each_resource() -> None:
    world = FakeWorld().play(20)
    plain = replace(a_pipeline(), name="plain")
    fitted = {"ocr": with_resources(a_pipeline()), "other": replace(with_resources(plain), name="other")}
    fleet = ApiClient(over(world.services(), pipelines=fitted)).get("/v1/fleet").json()
    first, second = fleet["pipelines"]
    detect, recognise = world.recorded[-1].configs
    assert first["held"] == {
        "cpu_cores": first["cores"],
        "memory_gib": 0.5 * (detect.replicas + recognise.replicas),
        GPU: detect.replicas,
    }
    assert first["budget"] == {"cpu_cores": 4.0, "memory_gib": 16.0, GPU: 8}
    assert fleet["budget"] == {"cpu_cores": 8.0, "memory_gib": 32.0, GPU: 16}
    assert fleet["held"] == {name: first["held"][name] + second["held"][name] for name in first["held"]}
    # One without a bound that has the resource leaves the fleet without; one that has none of it does not.
    mixed = {"ocr": with_resources(a_pipeline(), memory_gib=None), "plain": plain}
    fleet = ApiClient(over(world.services(), pipelines=mixed)).get("/v1/fleet").json()
    assert fleet["budget"] == {"cpu_cores": 8.0, GPU: 8}
    assert [each["budget"] for each in fleet["pipelines"]] == [{"cpu_cores": 4.0, GPU: 8}, {"cpu_cores": 4.0}]
    assert fleet["held"]["memory_gib"] == first["held"]["memory_gib"]


def test_a_pipeline_that_was_not_seen_holds_nothing_known(api: ApiClient) -> None:
    give(api)
    unseen, _ = api.get("/v1/fleet").json()["pipelines"]
    assert (unseen["pipeline"], unseen["held"]) == ("captions", None)
