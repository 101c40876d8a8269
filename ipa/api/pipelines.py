"""Routes for pipelines: list, read, and change those that were created over the API."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from ipa.api.auth import CurrentCaller
from ipa.api.bodies import PIPELINE, PROFILE
from ipa.api.commands import By, Why
from ipa.api.limits import INLINE_BYTES, MOST_YAML_VALUES, shortened
from ipa.api.queries import IfMatch, Named, Using, etag, required_match
from ipa.files import (
    Document,
    dump_pipeline,
    parse,
    pipeline_in,
    profile_in,
)
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.probe import RequestAddress
from ipa.model.profile import StageProfile
from ipa.service import pipelines
from ipa.service.pipelines import Origin, PipelineChange, PipelineList, PipelineView, Removed, pipeline_view
from ipa.service.service import Service
from ipa.serving.body_budget import aside

JSON, YAML = "application/json", "application/yaml"
# Media types of YAML, with those in use before RFC 9512.
YAMLS = frozenset({YAML, "application/x-yaml", "text/yaml"})
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
router = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])
Accept = Annotated[str | None, Header(include_in_schema=False)]
_VIEW = TypeAdapter(PipelineView)
_TEXTS: dict[str, tuple[Pipeline, tuple[str | None, Origin, str, RequestAddress], bytes]] = {}


def media_type(request: Request) -> str:
    """The media type of the body, without its parameters; JSON if there is none."""
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


async def _read_body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_read_body)]


async def parse_document(request: Request, body: Body) -> Document:
    """The body as a file; 415 if it is neither JSON nor YAML, InputError lists its faults."""
    kind = media_type(request)
    if kind not in (JSON, *YAMLS):
        raise HTTPException(415, f"a body of {kind} is not accepted here; send {JSON} or {YAML}")

    def read() -> Document:
        if kind in YAMLS:
            return parse(_text(body), "", MOST_YAML_VALUES, "send it as JSON")
        return Document("", parse_json(_text(body)))

    return await aside(len(body) > INLINE_BYTES, read)


DocumentBody = Annotated[Document, Depends(parse_document)]


def parse_json(text: str) -> Any:
    """The value of a JSON text. InputError for invalid JSON, a duplicate key, or NaN."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise _wrong("nested too deeply") from None
    except UnicodeEncodeError:
        raise _wrong("not JSON: half of a surrogate pair is not a character") from None
    except ValueError as error:
        raise _wrong(f"not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shortened(twice)!r} appears twice")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong("the body is not UTF-8") from None


def _wrong(message: str) -> InputError:
    return InputError("the request's body cannot be read", problems=[Problem(message)])


def schema_reference(kind: str) -> dict[str, Any]:
    """A reference to the schema of that kind of file, which `app.file_schemas` adds."""
    return {"$ref": f"#/components/schemas/{kind.capitalize()}File"}


def file_body(kind: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the OpenAPI document for a body of that kind of file."""
    schema = schema_reference(kind)
    content = {JSON: {"schema": schema, "example": dict(example)}, YAML: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_FILE = {"content": {YAML: {"schema": schema_reference("pipeline")}}, "description": "The pipeline as a file"}


async def requested_change(
    pipeline: Named, caller: CurrentCaller, if_match: IfMatch = None, by: By = "", reason: Why = ""
) -> PipelineChange:
    """The change of a request."""
    return PipelineChange(caller, required_match(if_match, f"pipeline {pipeline.name}"), by, reason)


RequestedChange = Annotated[PipelineChange, Depends(requested_change)]


def checked_change(pipeline: Named, change: RequestedChange) -> PipelineChange:
    """The change, after checking If-Match and before reading the body."""
    change.check(pipeline)
    return change


CheckedChange = Annotated[PipelineChange, Depends(checked_change)]


async def parse_pipeline(document: DocumentBody, body: Body) -> Pipeline:
    """The pipeline in the body; InputError lists its faults."""
    return await aside(len(body) > INLINE_BYTES, pipeline_in, document)


async def parse_profile(document: DocumentBody, body: Body) -> StageProfile:
    """The profile in the body; InputError lists its faults."""
    return await aside(len(body) > INLINE_BYTES, profile_in, document)


PipelineBody = Annotated[Pipeline, Depends(parse_pipeline)]
ProfileBody = Annotated[StageProfile, Depends(parse_profile)]


@router.get("", response_model=PipelineList)
def list_pipelines(service: Using) -> Response:
    """List every pipeline by name."""
    visible = [service.pipelines.get(name) for name in sorted(service.pipelines)]
    for gone in [name for name in list(_TEXTS) if name not in service.registry.pipelines]:
        _TEXTS.pop(gone, None)
    texts = [_render_view(service, pipeline) for pipeline in visible if pipeline is not None]
    return Response(b'{"pipelines":[' + b",".join(texts) + b"]}", media_type="application/json")


def _render_view(service: Service, pipeline: Pipeline) -> bytes:
    """The view of the pipeline as JSON, cached: a thousand of them take half a second."""
    cached, beside = _TEXTS.get(pipeline.name), pipelines.shown_beside(service, pipeline)
    if cached is None or cached[0] is not pipeline or cached[1] != beside:
        text = _VIEW.dump_json(pipeline_view(pipeline, *beside))
        cached = _TEXTS[pipeline.name] = pipeline, beside, text
    return cached[2]


@router.get("/{pipeline}", response_model=PipelineView, responses={200: _FILE})
def get_pipeline(pipeline: Named, service: Using, response: Response, accept: Accept = None) -> Any:
    """Return a pipeline as its owner wrote it; as a file for Accept: application/yaml. ETag: its version."""
    tag = _entity_tag(service, pipeline)
    if (accept or "").partition(";")[0].strip().lower() in YAMLS:
        headers = {"ETag": tag, "Content-Disposition": f'attachment; filename="{pipeline.name}.yaml"'}
        return Response(dump_pipeline(pipeline), headers=headers, media_type=YAML)
    response.headers["ETag"] = tag
    return pipelines.view(service, pipeline)


@router.post("", status_code=201, openapi_extra=file_body("pipeline", PIPELINE))
def create_pipeline(
    service: Using,
    caller: CurrentCaller,
    pipeline: PipelineBody,
    response: Response,
    by: By = "",
    reason: Why = "",
) -> PipelineView:
    """Create a pipeline from its file. Its first mode is advisory; `not_controlled`: why no loop runs.

    Pipelines of files are read-only here. All faults are listed at once, with JSON Pointers.
    """
    made = pipelines.create(caller, pipeline, by=by, reason=reason)
    response.headers["Location"] = f"/v1/pipelines/{pipeline.name}"
    response.headers["ETag"] = _entity_tag(service, pipeline)
    return made


@router.put("/{pipeline}", openapi_extra=file_body("pipeline", PIPELINE))
def replace_pipeline(
    pipeline: Named, service: Using, change: CheckedChange, wanted: PipelineBody, response: Response
) -> PipelineView:
    """Replace a pipeline that was created over the API.

    Its loop restarts at once, and keeps its state. 409: the pipeline comes from a file, which the hint names.
    """
    made = pipelines.replace(change, pipeline, wanted)
    response.headers["ETag"] = _entity_tag(service, wanted)
    return made


@router.delete("/{pipeline}")
def delete_pipeline(pipeline: Named, change: RequestedChange) -> Removed:
    """Stop controlling a pipeline that was created over the API, and delete it. Its workload stays."""
    return pipelines.remove(change, pipeline)


@router.put("/{pipeline}/profiles/{stage}", tags=["profiles"], openapi_extra=file_body("profile", PROFILE))
def replace_profile(pipeline: Named, stage: str, change: CheckedChange, profile: ProfileBody) -> StageProfile:
    """Set the newest profile of a stage from its file; plans use it from now on.

    If-Match is the pipeline's ETag. Every earlier profile is kept in the store.
    """
    pipelines.set_profile(change, pipeline, stage, profile)
    return profile


def _entity_tag(service: Service, pipeline: Pipeline) -> str:
    """The entity tag of a pipeline, which changes with any part of its file."""
    return etag(service.registry.version(pipeline))
