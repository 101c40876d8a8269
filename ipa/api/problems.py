"""Errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from ipa.api.limits import CLIENT_CLOSED, MOST_PROBLEMS, GoneError, shortened
from ipa.model import errors
from ipa.model.errors import IpaError, UnauthenticatedError

MEDIA_TYPE = "application/problem+json"


class ProblemItem(BaseModel):
    """One fault, with the JSON Pointer to its place in the request."""

    pointer: str = Field(examples=["/rate_rps"])
    message: str
    part: str = Field(default="body", description="body, query, path or header; or file for a server's file")


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `type` resolves to a page that explains `code`."""

    type: str = Field(examples=["/problems/not_found"])
    title: str
    status: int
    code: str = Field(examples=["not_found"])
    detail: str
    hint: str = ""
    request_id: str
    errors: list[ProblemItem] = Field(default_factory=list)


# The codes of refusals of HTTP itself, and those of errors that have their own status.
HTTP_CODES: Mapping[int, tuple[str, str]] = {
    400: ("http.bad_request", "The request cannot be read"),
    401: (UnauthenticatedError.code, "The caller is not authenticated"),
    403: ("forbidden", "Not allowed"),
    404: ("not_found", "The named thing does not exist"),
    405: ("http.method_not_allowed", "This address does not accept that method"),
    408: ("http.timeout", "The request did not arrive in time"),
    409: ("conflict", "The state has changed since it was read; read it again and decide again"),
    412: ("http.precondition_failed", "It changed since you read it"),
    413: ("http.too_large", "The request is too large"),
    415: ("http.unsupported_media_type", "This address does not accept that kind of body"),
    422: ("input", "The request is wrong"),
    428: ("http.precondition_required", "The request must name the state that it was made for"),
    429: ("busy", "Too many requests at once; try again a little later"),
    431: ("http.headers_too_large", "The request's headers are too large"),
    500: ("internal", "Our mistake"),
    503: ("unavailable", "A metrics server, cluster or store did not answer"),
    504: ("deadline", "The time limit was reached"),
}


def known_codes() -> dict[str, str]:
    """Every code that a problem may carry, with its title."""
    titles = dict(HTTP_CODES.values())
    pending: list[type[IpaError]] = [IpaError]
    while pending:
        kind = pending.pop()
        titles.setdefault(kind.code, _title(kind))
        pending.extend(kind.__subclasses__())
    return titles


def respond(
    request_id: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    hint: str = "",
    items: Iterable[ProblemItem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response that carries the problem; it quotes the request only in part."""
    shown = [
        item.model_copy(update={"pointer": shortened(item.pointer), "message": shortened(item.message)})
        for item in islice(items, MOST_PROBLEMS)
    ]
    document = ProblemDocument(
        type=f"/problems/{code}",
        title=title,
        status=status,
        code=code,
        detail=shortened(detail),
        hint=hint,
        request_id=request_id,
        errors=shown,
    )
    # It may quote the request, which may not be valid Unicode.
    body = json.dumps(document.model_dump(), ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def http_problem(
    request_id: str,
    status: int,
    detail: str = "",
    *,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem for an HTTP status that no IpaError stands for."""
    phrase = HTTPStatus(status).phrase
    code, title = HTTP_CODES.get(status, (f"http.{status}", phrase))
    return respond(request_id, status, code, title, detail or phrase, hint=hint, headers=headers)


def install(app: FastAPI) -> None:
    """Turn every error of a route or the router into a problem."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(IpaError, _on_ipa)
    app.add_exception_handler(GoneError, _on_gone)


def document_in(schema: dict[str, Any]) -> None:
    """Add problems to the answers of every operation in the OpenAPI document."""
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        parts.pop(unused, None)
    item = ProblemItem.model_json_schema()
    document = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    document.pop("$defs", None)
    parts |= {"ProblemItem": item, "ProblemDocument": document}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    for methods in schema["paths"].values():
        for method, operation in methods.items():
            responses = operation["responses"]
            # FastAPI documents its own error here, which ours replaces.
            responses.pop("422", None)
            for status in problem_statuses(method, operation):
                responses[str(status)] = {"description": HTTP_CODES[status][1], "content": content}


def problem_statuses(method: str, operation: Mapping[str, Any]) -> list[int]:
    """The statuses of problems that an operation of the OpenAPI document may answer with."""
    parameters = operation.get("parameters", [])
    named = {each["name"].lower() for each in parameters}
    statuses = {400, 401, 403, 431, 500, 503}
    names_one = any(each["in"] == "path" for each in parameters) or "pipeline" in named
    if names_one or "requestBody" in operation:
        statuses |= {404}
    if parameters:
        statuses |= {422}
    if method != "get":
        # A body is read and checked even if the route takes none.
        statuses |= {408, 413, 415, 422}
    if "requestBody" in operation:
        statuses |= {409, 429, 504}
    if "if-match" in named:
        statuses |= {409, 412, 428}
    # A record may contradict an anchor.
    if "control" in operation.get("tags", ()) or "anchor" in named:
        statuses |= {409}
    return sorted(statuses)


def get_request_id(request: Request) -> str:
    """The id that the outermost layer gave the request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail, hint = error.detail, ""
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}"
        hint = "/openapi.json lists the addresses."
    elif error.status_code == 405:
        detail = f"{request.url.path} does not accept {request.method}"
        allowed = ", ".join(_methods(request))
        hint = f"It accepts: {allowed}"
        return http_problem(get_request_id(request), 405, detail, hint=hint, headers={"Allow": allowed})
    return http_problem(get_request_id(request), error.status_code, detail, hint=hint, headers=error.headers)


def _methods(request: Request) -> list[str]:
    """The methods of every route of the address; the router names only the first route's."""
    fitting = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
    ]
    # An address with a verb, as ID:apply, also matches the route of an id; the verb counts.
    verbs = [route for route in fitting if ":" in route.path]
    return sorted(set().union(*(route.methods or set() for route in verbs or fitting)))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    items = [_item(each) for each in error.errors()[:MOST_PROBLEMS]]
    code, title = HTTP_CODES[422]
    named = "; ".join(f"{shortened(item.pointer) or item.part}: {shortened(item.message)}" for item in items)
    return respond(get_request_id(request), 422, code, title, named, hint="See /openapi.json.", items=items)


def _item(error: Mapping[str, Any]) -> ProblemItem:
    part, *steps = error["loc"]
    if error["type"] == "json_invalid":
        return ProblemItem(pointer="", message=f"not JSON: {error['ctx']['error']}", part=str(part))
    # A key of a mapping is at the key itself.
    named = [str(step).replace("~", "~0").replace("/", "~1") for step in steps if step != "[key]"]
    pointer = "".join(f"/{step}" for step in named)
    return ProblemItem(pointer=pointer, message=error["msg"], part=str(part))


async def _on_ipa(request: Request, error: Exception) -> Response:
    assert isinstance(error, IpaError)
    return ipa_problem(get_request_id(request), error)


async def _on_gone(request: Request, error: Exception) -> Response:
    # The client has gone; the metrics count the request as cancelled.
    return Response(status_code=CLIENT_CLOSED)


def ipa_problem(request_id: str, error: IpaError, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an IpaError."""
    retry = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    return respond(
        request_id,
        error.status,
        error.code,
        _title(type(error)),
        error.message,
        hint=error.hint,
        items=[
            ProblemItem(pointer=it.pointer, message=str(it), part="file" if it.path else "body")
            for it in error.problems
        ],
        headers={**retry, **(headers or {})},
    )


def _title(kind: type[IpaError]) -> str:
    return (kind.__doc__ or errors.IpaError.__name__).split("\n", 1)[0].split(";")[0].strip().rstrip(".")
