"""Routes for pipelines: list, read, export, and change those that were created over the API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import TypeAdapter

from ipa.api.auth import Context, CurrentCaller
from ipa.api.commands import By, Why
from ipa.api.documents import (
    MERGE_PATCH,
    YAML,
    YAMLS,
    Body,
    DocumentBody,
    PatchBody,
    body_of,
    merged,
    schema_of,
)
from ipa.api.examples import PIPELINE, PIPELINE_PATCH, PROFILE
from ipa.api.limits import Rationed, off_loop
from ipa.api.preconditions import IfMatch, IfNoneMatch, etag, is_known, required_match
from ipa.api.queries import Named, Using
from ipa.files import dump_pipeline, pipeline_from_mapping, pipeline_in, pipeline_to_mapping, profile_in
from ipa.model.access import Operation
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service import pipelines
from ipa.service.pipelines import Origin, PipelineChange, PipelineList, PipelineView, Removed, pipeline_view
from ipa.service.service import Service

reading = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])
changing = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])
_FILE = {"content": {YAML: {"schema": schema_of("pipeline")}}, "description": "The pipeline as a file"}
_KNOWN: dict[int | str, dict[str, Any]] = {304: {"description": "Known already"}}
Accept = Annotated[str | None, Header(include_in_schema=False)]


async def change_asked(
    pipeline: Named, caller: CurrentCaller, if_match: IfMatch = None, by: By = "", reason: Why = ""
) -> PipelineChange:
    """The change of a request."""
    return PipelineChange(caller, required_match(if_match, f"pipeline {pipeline.name}"), by, reason)


Asked = Annotated[PipelineChange, Depends(change_asked)]


def change_checked(pipeline: Named, change: Asked) -> PipelineChange:
    """The change, after the check of If-Match and before the body is read."""
    change.check(pipeline)
    return change


Checked = Annotated[PipelineChange, Depends(change_checked)]


async def pipeline_of(context: Context, document: DocumentBody, body: Body) -> Pipeline:
    """The pipeline in the body; InputError lists its faults."""
    return await off_loop(context.limits.parsing, len(body), pipeline_in, document)


async def profile_of(context: Context, document: DocumentBody, body: Body) -> StageProfile:
    """The profile in the body; InputError lists its faults."""
    return await off_loop(context.limits.parsing, len(body), profile_in, document)


async def patched_of(pipeline: Named, context: Context, patch: PatchBody, body: Body) -> Pipeline:
    """The pipeline of the path with the body's merge patch applied; InputError as for a whole pipeline."""

    def patched() -> Pipeline:
        return pipeline_from_mapping(merged(pipeline_to_mapping(pipeline), patch))

    return await off_loop(context.limits.parsing, len(body), patched)


PipelineBody = Annotated[Pipeline, Depends(pipeline_of)]
ProfileBody = Annotated[StageProfile, Depends(profile_of)]
PatchedBody = Annotated[Pipeline, Depends(patched_of)]


@reading.get("", response_model=PipelineList)
def list_pipelines(service: Using) -> Response:
    """List every pipeline by name."""
    found = [service.pipelines.get(name) for name in sorted(service.pipelines)]
    for gone in [name for name in list(_TEXTS) if name not in service.registry.pipelines]:
        _TEXTS.pop(gone, None)
    texts = [_text_of(service, pipeline) for pipeline in found if pipeline is not None]
    return Response(b'{"pipelines":[' + b",".join(texts) + b"]}", media_type="application/json")


def _text_of(service: Service, pipeline: Pipeline) -> bytes:
    """The view of the pipeline as JSON, cached: a thousand of them take half a second."""
    kept, said = _TEXTS.get(pipeline.name), pipelines.shown_beside(service, pipeline.name)
    if kept is None or kept[0] is not pipeline or kept[1] != said:
        text = _VIEW.dump_json(pipeline_view(pipeline, *said))
        kept = _TEXTS[pipeline.name] = pipeline, said, text
    return kept[2]


_VIEW = TypeAdapter(PipelineView)
_TEXTS: dict[str, tuple[Pipeline, tuple[str | None, Origin, str], bytes]] = {}


@reading.get("/{pipeline}", response_model=PipelineView, responses={200: _FILE, **_KNOWN})
def get_pipeline(
    pipeline: Named,
    service: Using,
    response: Response,
    accept: Accept = None,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return a pipeline as its owner wrote it; as a file for Accept: application/yaml. ETag: its version."""
    tag = _tag_of(service, pipeline)
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    if (accept or "").partition(";")[0].strip().lower() in YAMLS:
        return _as_file(pipeline, tag)
    response.headers["ETag"] = tag
    return pipelines.view(service, pipeline)


@reading.get("/{pipeline}/export", response_class=Response, responses={200: _FILE})
def export_pipeline(pipeline: Named, service: Using) -> Response:
    """Return the pipeline as the text of its `pipeline.yaml`."""
    return _as_file(pipeline, _tag_of(service, pipeline))


@changing.post("", status_code=201, openapi_extra=body_of("pipeline", PIPELINE), dependencies=[Rationed])
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
    response.headers["ETag"] = _tag_of(service, pipeline)
    return made


@changing.put("/{pipeline}", openapi_extra=body_of("pipeline", PIPELINE), dependencies=[Rationed])
def replace_pipeline(
    pipeline: Named, service: Using, change: Checked, wanted: PipelineBody, response: Response
) -> PipelineView:
    """Replace a pipeline that was created over the API; its loop restarts at once."""
    made = pipelines.replace(change, pipeline, wanted, Operation.REPLACE)
    response.headers["ETag"] = _tag_of(service, wanted)
    return made


@changing.patch(
    "/{pipeline}",
    dependencies=[Rationed],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MERGE_PATCH: {"schema": {"type": "object"}, "example": PIPELINE_PATCH}},
        }
    },
)
def patch_pipeline(
    pipeline: Named, service: Using, change: Checked, wanted: PatchedBody, response: Response
) -> PipelineView:
    """Change parts of a pipeline that was created over the API, by a JSON merge patch of its file."""
    made = pipelines.replace(change, pipeline, wanted, Operation.AMEND)
    response.headers["ETag"] = _tag_of(service, wanted)
    return made


@changing.delete("/{pipeline}")
def delete_pipeline(pipeline: Named, change: Asked) -> Removed:
    """Stop controlling a pipeline that was created over the API, and forget it. Its workload stays."""
    return pipelines.remove(change, pipeline)


@changing.put("/{pipeline}/profiles/{stage}", tags=["profiles"], openapi_extra=body_of("profile", PROFILE))
def replace_profile(pipeline: Named, stage: str, change: Checked, profile: ProfileBody) -> StageProfile:
    """Set the newest profile of a stage from its file; plans use it from now on.

    If-Match is the pipeline's ETag. Every earlier profile is kept in the store.
    """
    pipelines.set_profile(change, pipeline, stage, profile)
    return profile


def _tag_of(service: Service, pipeline: Pipeline) -> str:
    """The entity tag of a pipeline, which changes with any part of its file."""
    return etag(service.registry.version(pipeline))


def _as_file(pipeline: Pipeline, tag: str) -> Response:
    headers = {"ETag": tag, "Content-Disposition": f'attachment; filename="{pipeline.name}.yaml"'}
    return Response(dump_pipeline(pipeline), headers=headers, media_type=YAML)
