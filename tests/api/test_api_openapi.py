"""The OpenAPI document: valid, whole, and honest about errors and units."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from experiments.fuzz.run import services
from ipa.api.app import openapi_document
from tests.fakes.services import ApiClient, FakeWorld

PAGE = Path(__file__).parents[2] / "ipa" / "api" / "page"


@pytest.fixture(scope="module")
def api() -> ApiClient:
    return ApiClient(FakeWorld().play(30).services())


@pytest.fixture(scope="module")
def document(api: ApiClient) -> dict[str, Any]:
    schema: dict[str, Any] = api.get("/openapi.json").json()
    return schema


def within(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from within(part)
    elif isinstance(value, list):
        for part in value:
            yield from within(part)


def test_the_published_document_is_that_of_the_code(root: Path) -> None:
    published = json.loads((root / "docs" / "reference" / "openapi.json").read_text())
    assert published == openapi_document(), "run tools/openapi.py"


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert set(document) >= {"info", "paths", "components"}
    assert document["info"]["title"] == "ipa"


def test_every_reference_resolves_and_every_schema_is_one(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = {part["$ref"] for part in within(document) if "$ref" in part}
    assert references
    assert {reference.rsplit("/", 1)[1] for reference in references} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_is_named_described_and_may_fail(document: dict[str, Any]) -> None:
    operations = [part for methods in document["paths"].values() for part in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        assert operation["description"] and operation["tags"]
        assert "default" not in operation["responses"], "every status is named"
        refusals = {code: each for code, each in operation["responses"].items() if code >= "400"}
        assert {"403", "431", "500"} <= set(refusals)
        assert all(list(each["content"]) == ["application/problem+json"] for each in refusals.values())


@pytest.mark.parametrize(
    "path",
    ["", "/ocr", "/ocr/status", "/ocr/profiles", "/ocr/profiles/detect", "/ocr/decisions", "/ocr/history"],
)
def test_answers_are_what_the_document_says(api: ApiClient, document: dict[str, Any], path: str) -> None:
    template = f"/v1/pipelines{path}".replace("/ocr", "/{pipeline}").replace("/detect", "/{stage}")
    content = document["paths"][template]["get"]["responses"]["200"]["content"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    answer = api.get(f"/v1/pipelines{path}").json()
    assert [error.message for error in Draft202012Validator(schema).iter_errors(answer)] == []


def test_problems_are_what_the_document_says(api: ApiClient, document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/ProblemDocument", "components": document["components"]}
    for answer in (api.get("/v1/pipelines/nope"), api.post("/v1/pipelines/ocr/plans", {"x": 1})):
        assert [error.message for error in Draft202012Validator(schema).iter_errors(answer.json())] == []


def test_quantities_carry_their_unit(document: dict[str, Any]) -> None:
    bare = re.compile(r"(^|_)(latency|delay|time|timeout|rate|throughput|capacity|memory)$")
    # In files the unit is in the value.
    schemas = document["components"]["schemas"]
    for schema in [each for name, each in schemas.items() if "File" not in name]:
        for name, part in schema.get("properties", {}).items():
            kinds = {part.get("type")} | {each.get("type") for each in part.get("anyOf", [])}
            assert not ({"number", "integer"} & kinds and bare.search(name)), name


def test_the_page_asks_nobody_else_and_has_no_inline_script() -> None:
    pages = sorted(PAGE.glob("*.html"))
    assert len(pages) == 2
    for path in (path for path in PAGE.rglob("*") if path.is_file()):
        addresses = set(re.findall(r"https?://[^\s\"')>]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
    for path in pages:
        text = path.read_text()
        assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
        assert re.findall(r"\son\w+=|style=", text) == []
        for asset in re.findall(r"(?:src|href)=\"/assets/([^\"]+)\"", text):
            assert (PAGE / asset).is_file()


def examples(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Method, address, kind and body of every example of a request."""
    parts = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            for kind, each in content.items():
                name = each["schema"].get("$ref", "").rsplit("/", 1)[-1]
                bodies = [each["example"]] if "example" in each else parts.get(name, {}).get("examples", [])
                yield from ((method, path, kind, body) for body in bodies)


def test_every_example_of_a_request_is_right(document: dict[str, Any]) -> None:
    # Plans of our planner: those of the ladder are not all ones that can be explained.
    api = ApiClient(services())
    sent, order = set(), {"post": 0, "put": 1, "patch": 2}
    for method, path, kind, body in sorted(examples(document), key=lambda it: (order[it[0]], it[1])):
        name = "captions" if method == "patch" or "kind" in body else "ocr"
        stage = "describe" if name == "captions" else "detect"
        address = path.replace("{pipeline}", name).replace("{stage}", stage)
        if "{decision_id}" in path:
            (newest,) = api.get("/v1/pipelines/ocr/decisions?limit=1").json()["decisions"]
            address = path.replace("{decision_id}", newest["decision_id"])
        headers = {"Content-Type": kind, "Idempotency-Key": "k"}
        if "{plan_id}" in path:
            plan = api.post("/v1/pipelines/ocr/plans", {"rate_rps": 5})
            address = f"{plan.headers['location']}:apply"
            headers["If-Match"] = plan.headers["etag"]
        elif path.endswith(("apply", "rollback")):
            headers["If-Match"] = api.get("/v1/pipelines/ocr/status").headers["etag"]
        elif name == "captions":
            headers["If-Match"] = api.get("/v1/pipelines/captions").headers.get("etag", "")
        answer = api(method.upper(), address, content=json.dumps(body), headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        sent.add((method, path))
    wanting = {
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert wanting - sent == set()
