"""Every answer that is not a success is a problem document, whatever went wrong and wherever."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from ipa.api.limits import BODY_LIMIT_BYTES, JSON_LIMIT_BYTES
from ipa.api.problems import known_codes
from ipa.model.errors import (
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InfeasibleError,
    InputError,
    IpaError,
    Problem,
    RolloutError,
    SolverError,
    UnavailableError,
)
from ipa.service.service import DependencyCheck
from tests.fakes.services import ApiClient, FakeWorld

KEYS = {"type", "title", "status", "code", "detail", "hint", "request_id", "errors"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem in the answer, its form checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == KEYS
    assert body["status"] == status
    assert body["code"] in known_codes()
    assert body["type"] == f"/problems/{body['code']}"
    assert body["title"] and body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    for item in body["errors"]:
        assert set(item) == {"pointer", "message", "part"}
        assert item["pointer"] == "" or item["pointer"].startswith("/")
    return body


# What changes must say.
MADE_FOR = {"If-Match": '"1"', "Idempotency-Key": "k"}


def operations(api: ApiClient) -> list[tuple[str, str]]:
    """Every method and address of the API."""
    paths = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_route_refuses_other_methods(api: ApiClient) -> None:
    routes = operations(api)
    assert len(routes) > 15
    for path in {path for _, path in routes}:
        taken = {method for method, each in routes if each == path}
        other = next(method for method in ("PATCH", "POST", "PUT", "DELETE") if method not in taken)
        answer = api(other, path.replace("{pipeline}", "ocr"))
        assert taken <= set(answer.headers["allow"].split(", "))
        body = problem(answer, 405)
        assert body["hint"].startswith("It accepts: ")


def test_every_route_names_what_it_does_not_know(api: ApiClient) -> None:
    bodies: dict[str, Any] = {"mode": {"mode": "active"}, "apply": {"configs": [a_config()]}}
    named = [(method, path) for method, path in operations(api) if "{" in path]
    assert len(named) > 12
    for method, path in named:
        address = re.sub(r"\{\w+\}", "nope", path)
        json = None if method == "GET" else bodies.get(path.rsplit("/", 1)[1], {})
        body = problem(api(method, address, json=json, headers=MADE_FOR), 404)
        assert "nope" in body["detail"] and body["hint"]


def test_every_body_that_is_wrong_is_refused_with_pointers(api: ApiClient) -> None:
    headers = {**MADE_FOR, "If-Match": api.get("/v1/pipelines/ocr").headers["etag"]}
    paths = api.get("/openapi.json").json()["paths"]
    for method, path in operations(api):
        if "requestBody" not in paths[path][method.lower()]:
            continue
        address = path.replace("{pipeline}", "ocr").replace("{stage}", "detect")
        assert problem(api(method, address, content=b"{", headers=headers), 422)["errors"][0][
            "message"
        ].startswith("not JSON")
        assert problem(api(method, address, json=[], headers=headers), 422)["errors"]
        unknown = problem(api(method, address, json={"colour": 1}, headers=headers), 422)
        assert "/colour" in [item["pointer"] for item in unknown["errors"]]


def test_every_route_answers_a_fault_of_ours_with_its_request(api: ApiClient, world: FakeWorld) -> None:
    world.failing = RuntimeError("secret inside")
    for path in ("status", "decisions", "history"):
        body = problem(api.get(f"/v1/pipelines/ocr/{path}"), 500)
        assert body["request_id"] in body["detail"]
        assert "secret" not in str(body)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("x"), 422),
        (ForbiddenError("x"), 403),
        (InfeasibleError("x", hint="Feasible with more cores"), 409),
        (ConflictError("x"), 409),
        (RolloutError("x"), 409),
        (DeadlineError("x"), 504),
        (SolverError("x"), 500),
        (UnavailableError("x"), 503),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, IpaError) else str(value),
)
def test_the_errors_of_the_service_keep_their_code(
    api: ApiClient, world: FakeWorld, error: IpaError, status: int
) -> None:
    world.failing = error
    wanted = {"configs": [a_config(), a_config("recognise")]}
    body = problem(api.post("/v1/pipelines/ocr/apply", wanted, headers={"If-Match": '"1"'}), status)
    assert (body["code"], body["hint"]) == (error.code, error.hint)


def test_problems_in_files_say_where(api: ApiClient, world: FakeWorld) -> None:
    world.failing = InputError("two problems", problems=[Problem("bad", "p.yaml", 3, 7), Problem("worse")])
    items = problem(api.get("/v1/pipelines/ocr/decisions"), 422)["errors"]
    assert [(item["part"], item["message"]) for item in items] == [
        ("file", "p.yaml:3:7: bad"),
        ("body", "worse"),
    ]


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/pipelines/", "/assets/nothing.js", "/problems/nope"]
)
def test_an_address_that_is_not_there(api: ApiClient, path: str) -> None:
    assert path in problem(api.get(path), 404)["detail"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(api: ApiClient) -> None:
    for path, most in (("/v1/pipelines/ocr/plans", JSON_LIMIT_BYTES), ("/v1/pipelines", BODY_LIMIT_BYTES)):
        problem(api("POST", path, content=b" " * (most + 1)), 413)
        problem(api("POST", path, content=b" " * most), 422)


def test_every_code_has_its_page(api: ApiClient) -> None:
    assert len(known_codes()) > 15
    for code, title in known_codes().items():
        page = api.get(f"/problems/{code}")
        assert page.status_code == 200
        assert code in page.text and title.split("'")[0] in page.text


def test_unready_is_a_problem_that_names_what_fails(world: FakeWorld) -> None:
    world.checks = (
        DependencyCheck("store", False, "disk full", required=True),
        DependencyCheck("prometheus", False),
    )
    body = problem(ApiClient(world.services()).get("/readyz"), 503)
    assert [item["message"] for item in body["errors"]] == ["store: disk full"]


def a_config(stage: str = "detect") -> dict[str, Any]:
    variant = {"detect": "v4-320", "recognise": "v6-240"}[stage]
    return {"stage": stage, "variant": variant, "batch_size": 1, "cores": 0.5, "replicas": 1}
