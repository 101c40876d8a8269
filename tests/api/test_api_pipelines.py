"""Pipelines over the API: given, replaced, patched, removed, exported; those of files only read."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import httpx
import pytest
import yaml

from ipa.api.bodies import PIPELINE, PROFILE
from ipa.files import pipeline_from_mapping
from ipa.model.decision import Mode
from tests.fakes.services import ApiClient, FakeWorld, a_pipeline

AT = "/v1/pipelines/captions"


def give(api: ApiClient, **changes: Any) -> httpx.Response:
    return api.post("/v1/pipelines", {**PIPELINE, **changes})


def tag(api: ApiClient) -> dict[str, str]:
    return {"If-Match": api.get(AT).headers["etag"]}


def test_a_pipeline_that_was_given_is_there_at_once(api: ApiClient) -> None:
    answer = give(api)
    assert (answer.status_code, answer.headers["location"]) == (201, AT)
    shown = api.get(AT)
    assert shown.json() == answer.json() and shown.headers["etag"] == answer.headers["etag"]
    why = "target local runs the pipelines of files only; it can be planned"
    assert (shown.json()["origin"], shown.json()["not_controlled"]) == ("api", why)
    assert [each["pipeline"] for each in api.get("/v1/pipelines").json()["pipelines"]] == ["captions", "ocr"]
    assert api.get("/v1/pipelines/ocr").json()["origin"] == "file"
    assert api.get(f"{AT}/status").status_code == 200


def test_a_planned_only_pipeline_says_why_everywhere(api: ApiClient) -> None:
    assert give(api, runnable=False).status_code == 422
    assert give(api, runnable=False, not_runnable_because="its weights are missing").status_code == 201
    listed = {each["pipeline"]: each for each in api.get("/v1/pipelines").json()["pipelines"]}
    for shown in (api.get(AT).json(), listed["captions"], api.get(f"{AT}/status").json()):
        assert (shown["runnable"], shown["not_runnable_because"]) == (False, "its weights are missing")
    assert (listed["ocr"]["runnable"], listed["ocr"]["not_runnable_because"]) == (True, "")
    fleet = {each["pipeline"]: each["runnable"] for each in api.get("/v1/fleet").json()["pipelines"]}
    assert fleet == {"captions": False, "ocr": True}


def test_a_new_pipeline_is_advisory_whatever_one_of_its_name_was(api: ApiClient, world: FakeWorld) -> None:
    give(api)
    assert world.control("captions").mode is Mode.ADVISORY
    api("PUT", f"{AT}/mode", json={"mode": "active"})
    assert api("DELETE", AT, headers=tag(api)).status_code == 200
    give(api)
    assert world.control("captions").mode is Mode.ADVISORY


def test_a_pipeline_may_come_as_yaml_and_is_exported_so(api: ApiClient) -> None:
    text = yaml.safe_dump(PIPELINE)
    headers = {"Content-Type": "application/yaml"}
    assert api("POST", "/v1/pipelines", content=text, headers=headers).status_code == 201
    as_file = {"Accept": "application/yaml"}
    exported = api.get(AT, headers=as_file)
    assert exported.headers["content-type"] == "application/yaml"
    assert pipeline_from_mapping(yaml.safe_load(exported.text)) == pipeline_from_mapping(PIPELINE)
    own = yaml.safe_load(api.get("/v1/pipelines/ocr", headers=as_file).text)
    assert pipeline_from_mapping(own).objectives == a_pipeline().objectives


def test_all_that_is_wrong_is_said_at_once_with_pointers(api: ApiClient) -> None:
    wrong = deepcopy(PIPELINE)
    wrong["sla"]["latency"] = 500
    wrong["colour"] = "blue"
    wrong["bounds"]["max_replicas"] = 0
    answer = api.post("/v1/pipelines", wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "input")
    pointers = {item["pointer"] for item in answer.json()["errors"]}
    assert pointers >= {"/sla/latency", "/colour", "/bounds/max_replicas"}
    assert api.get(AT).status_code == 404
    text = yaml.safe_dump(wrong)
    again = api("POST", "/v1/pipelines", content=text, headers={"Content-Type": "application/yaml"})
    assert {item["pointer"] for item in again.json()["errors"]} == pointers


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"<pipeline/>", "application/xml", 415),
        (b'{"name": "a", "name": "b"}', "application/json", 422),
        (b'{"sla": NaN}', "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"a: [1", "application/yaml", 422),
        (b"a: !!python/object:os.system {}", "application/yaml", 422),
        (b"a: &a [*a]", "application/yaml", 422),
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
    ],
)
def test_a_body_that_is_no_pipeline(api: ApiClient, body: bytes, kind: str, status: int) -> None:
    answer = api("POST", "/v1/pipelines", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_there_is_one_pipeline_of_a_name(api: ApiClient) -> None:
    give(api)
    assert give(api).status_code == 409
    assert give(api, name="ocr").status_code == 409


def test_replacing_wants_the_tag_and_gives_a_new_one(api: ApiClient) -> None:
    old = give(api).headers["etag"]
    wanted = {**PIPELINE, "description": "another"}
    assert api("PUT", AT, json=wanted).status_code == 428
    assert api("PUT", AT, json=wanted, headers={"If-Match": '"x"'}).status_code == 412
    answer = api("PUT", AT, json=wanted, headers={"If-Match": old})
    assert (answer.status_code, answer.json()["description"]) == (200, "another")
    assert answer.headers["etag"] == api.get(AT).headers["etag"] != old
    assert api("PUT", AT, json=wanted, headers={"If-Match": old}).status_code == 412
    renamed = api("PUT", AT, json={**PIPELINE, "name": "other"}, headers=tag(api))
    assert [item["pointer"] for item in renamed.json()["errors"]] == ["/name"]


def test_removing_says_what_is_left(api: ApiClient) -> None:
    give(api)
    assert api("DELETE", AT).status_code == 428
    answer = api("DELETE", AT, headers=tag(api))
    assert answer.status_code == 200
    assert answer.json()["left"] == "it was not controlled here; its decisions stay in the record"
    assert api.get(AT).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_pipeline_of_a_file_is_only_read(api: ApiClient, method: str) -> None:
    headers = {"If-Match": api.get("/v1/pipelines/ocr").headers["etag"]}
    body = None if method == "DELETE" else {**PIPELINE, "name": "ocr"}
    answer = api(method, "/v1/pipelines/ocr", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "comes from a file" in answer.json()["detail"]
    assert api.get("/v1/pipelines/ocr").status_code == 200


def test_a_profile_may_be_given_and_is_planned_with(api: ApiClient) -> None:
    give(api)
    plan = {"rate_rps": 5}
    before = api.post(f"{AT}/plans", plan).headers["etag"]
    assert api.get(f"{AT}/profiles").json() == {}
    address = f"{AT}/profiles/describe"
    assert api("PUT", address, json=PROFILE).status_code == 428
    answer = api("PUT", address, json=PROFILE, headers=tag(api))
    assert answer.status_code == 200
    assert api.get(address).json() == answer.json()
    assert api.post(f"{AT}/plans", plan).headers["etag"] != before
    other = api("PUT", address, json={**PROFILE, "stage": "x", "pipeline": "y"}, headers=tag(api))
    assert [item["pointer"] for item in other.json()["errors"]] == ["/pipeline", "/stage"]
    file = {"If-Match": api.get("/v1/pipelines/ocr").headers["etag"]}
    own = {**PROFILE, "pipeline": "ocr", "stage": "detect"}
    assert api("PUT", "/v1/pipelines/ocr/profiles/detect", json=own, headers=file).status_code == 409
