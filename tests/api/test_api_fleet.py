"""Forecasts, the fleet, and plans of many pipelines together."""

from __future__ import annotations

from typing import Any

import pytest

from ipa.api.bodies import PIPELINE, PROFILE
from tests.fakes.services import ApiClient, FakeWorld


@pytest.fixture
def api() -> ApiClient:
    return ApiClient(FakeWorld().play(60).services())


def give(api: ApiClient) -> None:
    tag = api.post("/v1/pipelines", PIPELINE).headers["etag"]
    given = api("PUT", "/v1/pipelines/captions/profiles/describe", json=PROFILE, headers={"If-Match": tag})
    assert given.status_code == 200


def test_a_forecast_says_who_made_it_and_how_right_it_was(api: ApiClient) -> None:
    found = api.get("/v1/pipelines/ocr/forecast").json()
    live = api.get("/v1/pipelines/ocr/status").json()["live"]
    assert found["forecast"] == live["forecast"] and found["forecast"]["rung"] == "holt-winters"
    assert found["rate_rps"] == live["rate_rps"]
    assert [each["upper_rps"] for each in found["series"]] == [
        each["forecast_upper_rps"] for each in live["series"]
    ]
    # The last horizon of 20 s, four ticks, is not over.
    assert found["errors"]["forecasts"] == 60 - 4
    assert 0 <= found["errors"]["covered_ratio"] <= 1


def test_before_the_first_tick_nothing_is_expected() -> None:
    found = ApiClient(FakeWorld().services()).get("/v1/pipelines/ocr/forecast").json()
    assert (found["forecast"], found["errors"], found["series"]) == (None, None, [])


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


def test_a_fleet_is_planned_under_one_budget(api: ApiClient) -> None:
    give(api)
    pipelines = [{"pipeline": "captions", "rate_rps": 30}, {"pipeline": "ocr", "rate_rps": 1, "class": 1}]
    rich = api.post("/v1/fleet/plans", {"budget_cores": 100, "pipelines": pipelines}).json()
    budget_cores = rich["cost_cores"] - 0.5
    poor = api.post("/v1/fleet/plans", {"budget_cores": budget_cores, "pipelines": pipelines}).json()
    assert [each["plan"]["pipeline"] for each in rich["pipelines"]] == ["captions", "ocr"]
    assert [each["class"] for each in rich["classes"]] == [1, 0]
    assert poor["cost_cores"] <= budget_cores and rich["worth"] > poor["worth"]
    none = api.post("/v1/fleet/plans", {"budget_cores": 0.1, "pipelines": pipelines})
    assert (none.status_code, none.json()["code"]) == (409, "infeasible")


def test_without_names_it_is_all_pipelines_at_their_forecasts(api: ApiClient) -> None:
    found = api.post("/v1/fleet/plans", {"budget_cores": 50}).json()
    upper = api.get("/v1/pipelines/ocr/forecast").json()["forecast"]["upper_rps"]
    assert [each["plan"]["rate_rps"] for each in found["pipelines"]] == [upper]


@pytest.mark.parametrize(
    ("pipelines", "pointers"),
    [
        (
            [{"pipeline": "nope"}, {"pipeline": "captions"}],
            ["/pipelines/0/pipeline", "/pipelines/1/rate_rps"],
        ),
        ([{"pipeline": "ocr"}, {"pipeline": "ocr"}], ["/pipelines/0/pipeline", "/pipelines/1/pipeline"]),
        ([{"pipeline": "ocr", "objective": "nope"}], ["/pipelines/0"]),
        ([{"pipeline": "ocr", "weight": 0}], ["/pipelines/0/weight"]),
    ],
)
def test_a_fleet_that_makes_no_sense(
    api: ApiClient, pipelines: list[dict[str, Any]], pointers: list[str]
) -> None:
    give(api)
    answer = api.post("/v1/fleet/plans", {"budget_cores": 5, "pipelines": pipelines})
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == pointers
