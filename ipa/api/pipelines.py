"""Routes for pipelines themselves: listed, read, exported, and those given over the API also changed."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import TypeAdapter

from ipa.adapters.files import (
    dump_pipeline,
    pipeline_from_mapping,
    pipeline_in,
    pipeline_to_mapping,
    profile_in,
)
from ipa.api.controls import By, Why
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
from ipa.api.gate import Admitted, Asker
from ipa.api.limits import Rationed, off_loop
from ipa.api.preconditions import IfMatch, IfNoneMatch, check_match, etag, is_known
from ipa.api.reading import Named, Using
from ipa.api.services import Services
from ipa.control.canonical import canonical_json, digest
from ipa.control.ports import Attribution, ControlAction
from ipa.model.access import EVERYWHERE, Operation
from ipa.model.errors import ConflictError, ForbiddenError, InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service.pipelines import Origin, PipelineList, PipelineView, pipeline_view

LOG = logging.getLogger(__name__)
reading = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])
changing = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])
# Read, compared with If-Match and replaced as one; two requests at once must not undo each other.
_one_at_a_time = threading.Lock()
_FILE = {"content": {YAML: {"schema": schema_of("pipeline")}}, "description": "The pipeline as a file"}
_KNOWN: dict[int | str, dict[str, Any]] = {304: {"description": "Known already"}}
Accept = Annotated[str | None, Header(include_in_schema=False)]


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is asked for: by whom, why, and of which state of the pipeline."""

    asker: Admitted
    if_match: str | None
    by: str
    reason: str

    def said(self, deed: ControlAction) -> Attribution:
        """What the record has of it."""
        return Attribution(deed, self.asker.name(self.by), self.reason)

    def check(self, pipeline: Pipeline) -> None:
        """Raise where the pipeline is another by now than when it was read."""
        # As it is now, which may be another than when the request came.
        now = self.asker.services.given.pipelines.get(pipeline.name, pipeline)
        check_match(self.if_match, tag_of(now), f"pipeline {pipeline.name}")


async def change_asked(asker: Asker, if_match: IfMatch = None, by: By = "", reason: Why = "") -> Change:
    """The change of a request."""
    return Change(asker, if_match, by, reason)


Asked = Annotated[Change, Depends(change_asked)]


def change_checked(pipeline: Named, change: Asked) -> Change:
    """The change, once If-Match fits: before the body is looked at."""
    change.check(pipeline)
    return change


Checked = Annotated[Change, Depends(change_checked)]


async def pipeline_of(services: Using, document: DocumentBody, body: Body) -> Pipeline:
    """The pipeline in the body; InputError lists all that is wrong with it."""
    return await off_loop(services.limits.parsing, len(body), pipeline_in, document)


async def profile_of(services: Using, document: DocumentBody, body: Body) -> StageProfile:
    """The profile in the body; InputError lists all that is wrong with it."""
    return await off_loop(services.limits.parsing, len(body), profile_in, document)


async def patched_of(pipeline: Named, services: Using, patch: PatchBody, body: Body) -> Pipeline:
    """The pipeline of the path with the body's merge patch applied; InputError as for a whole one."""

    def patched() -> Pipeline:
        return pipeline_from_mapping(merged(pipeline_to_mapping(pipeline), patch))

    return await off_loop(services.limits.parsing, len(body), patched)


PipelineBody = Annotated[Pipeline, Depends(pipeline_of)]
ProfileBody = Annotated[StageProfile, Depends(profile_of)]
PatchedBody = Annotated[Pipeline, Depends(patched_of)]


@dataclass(frozen=True, slots=True)
class Removed:
    """A pipeline that is no longer controlled; `left` says what that leaves as it is."""

    pipeline: str
    left: str


@reading.get("", response_model=PipelineList)
def list_pipelines(services: Using) -> Response:
    """Every pipeline, by name."""
    found = [services.pipelines.get(name) for name in sorted(services.pipelines)]
    for gone in [name for name in list(_TEXTS) if name not in services.given.pipelines]:
        _TEXTS.pop(gone, None)
    texts = [_text_of(services, pipeline) for pipeline in found if pipeline is not None]
    return Response(b'{"pipelines":[' + b",".join(texts) + b"]}", media_type="application/json")


def _text_of(services: Services, pipeline: Pipeline) -> bytes:
    """The pipeline's view as JSON, made once: a thousand of them would take half a second each time."""
    kept, said = _TEXTS.get(pipeline.name), _said_of(services, pipeline.name)
    if kept is None or kept[0] is not pipeline or kept[1] != said:
        text = _VIEW.dump_json(pipeline_view(pipeline, *said))
        kept = _TEXTS[pipeline.name] = pipeline, said, text
    return kept[2]


_VIEW = TypeAdapter(PipelineView)
_TEXTS: dict[str, tuple[Pipeline, tuple[str | None, Origin, str], bytes]] = {}


@reading.get("/{pipeline}", response_model=PipelineView, responses={200: _FILE, **_KNOWN})
def get_pipeline(
    pipeline: Named,
    services: Using,
    response: Response,
    accept: Accept = None,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """A pipeline as its owner wrote it; as a file for Accept: application/yaml. ETag: what changes name."""
    tag = tag_of(pipeline)
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    if (accept or "").partition(";")[0].strip().lower() in YAMLS:
        return _as_file(pipeline, tag)
    response.headers["ETag"] = tag
    return view_of(services, pipeline)


@reading.get("/{pipeline}/export", response_class=Response, responses={200: _FILE})
def export_pipeline(pipeline: Named, services: Using) -> Response:
    """The pipeline as a file: what `pipeline.yaml` in a folder of its name would hold."""
    return _as_file(pipeline, tag_of(pipeline))


@changing.post("", status_code=201, openapi_extra=body_of("pipeline", PIPELINE), dependencies=[Rationed])
def create_pipeline(
    services: Using,
    asker: Asker,
    pipeline: PipelineBody,
    response: Response,
    by: By = "",
    reason: Why = "",
) -> PipelineView:
    """Give a pipeline, as its file would be. It is advisory at first; `not_controlled`: why no loop runs.

    Pipelines of files are only read here. All that is wrong with it is said at once, with JSON Pointers.
    """
    asker.must(Operation.DEFINE, pipeline.namespace)
    _check_place(asker, pipeline)
    services.given.give(pipeline, Attribution(ControlAction.GIVE, asker.name(by), reason))
    LOG.info("pipeline %s was given by %s", pipeline.name, asker.name(by) or "someone")
    response.headers["Location"] = f"/v1/pipelines/{pipeline.name}"
    return _shown(services, pipeline, response)


@changing.put("/{pipeline}", openapi_extra=body_of("pipeline", PIPELINE), dependencies=[Rationed])
def replace_pipeline(
    pipeline: Named, change: Checked, wanted: PipelineBody, response: Response
) -> PipelineView:
    """Replace a pipeline that was given over the API; its loop starts anew at once."""
    return _replaced(change, pipeline, wanted, Operation.REPLACE, response)


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
def patch_pipeline(pipeline: Named, change: Checked, wanted: PatchedBody, response: Response) -> PipelineView:
    """Change parts of a pipeline that was given over the API: a JSON merge patch of its file."""
    return _replaced(change, pipeline, wanted, Operation.AMEND, response)


@changing.delete("/{pipeline}")
def delete_pipeline(pipeline: Named, services: Using, change: Asked) -> Removed:
    """Stop controlling a pipeline that was given over the API, and forget it. What runs of it runs on."""
    with _one_at_a_time:
        change.check(pipeline)
        left = services.given.remove(pipeline.name, change.said(ControlAction.REMOVE))
    LOG.info("pipeline %s was removed: %s", pipeline.name, left)
    return Removed(pipeline.name, left)


@changing.put("/{pipeline}/profiles/{stage}", tags=["profiles"], openapi_extra=body_of("profile", PROFILE))
def replace_profile(
    pipeline: Named, stage: str, services: Using, change: Checked, profile: ProfileBody
) -> StageProfile:
    """Give the newest profile of a stage, as its file would be; the pipeline is planned with it from now on.

    If-Match is the pipeline's ETag. Every earlier profile is kept in the store.
    """
    pipeline.stage(stage)
    with _one_at_a_time:
        change.check(pipeline)
        _check_profile(profile, pipeline, stage)
        services.given.give_profile(profile, change.said(ControlAction.PROFILE))
    LOG.info("pipeline %s: a profile of %s was given", pipeline.name, stage)
    return profile


def tag_of(pipeline: Pipeline) -> str:
    """The entity tag of a pipeline, which changes whenever anything of its file would."""
    return etag(digest(canonical_json(pipeline_to_mapping(pipeline)))[:32])


def view_of(services: Services, pipeline: Pipeline) -> PipelineView:
    """The pipeline as the API shows it."""
    return pipeline_view(pipeline, *_said_of(services, pipeline.name))


def _said_of(services: Services, name: str) -> tuple[str | None, Origin, str]:
    """What the service adds to it: where requests go, where it comes from, why it is not controlled."""
    origin = Origin.FILE if name in services.given.files else Origin.API
    return services.endpoints.get(name), origin, services.given.unfit(name)


def _shown(services: Services, pipeline: Pipeline, response: Response) -> PipelineView:
    response.headers["ETag"] = tag_of(pipeline)
    return view_of(services, pipeline)


def _replaced(
    change: Change, old: Pipeline, new: Pipeline, operation: Operation, response: Response
) -> PipelineView:
    if new.name != old.name:
        problem = Problem(f"the name is {new.name!r}, the address says {old.name!r}", pointer="/name")
        raise InputError("a pipeline keeps its name; give another one instead", problems=[problem])
    if new.namespace == old.namespace:
        # It may name another SeldonDeployment than the one that it replaces, with images of its own.
        change.asker.must(operation, new.namespace, new)
    else:
        _check_place(change.asker, new)
        change.asker.must(Operation.DEFINE, new.namespace)
    services, said = change.asker.services, change.said(ControlAction.REPLACE)
    with _one_at_a_time:
        # Again, now that nobody else can come between.
        change.check(old)
        services.given.give(new, said)
        LOG.info("pipeline %s was replaced by %s", new.name, said.by or "someone")
        return _shown(services, new, response)


def _check_place(asker: Admitted, pipeline: Pipeline) -> None:
    """ConflictError where its namespace has no room for another pipeline, ForbiddenError for its name."""
    services, namespace = asker.services, pipeline.namespace
    given = services.given
    others = [each for name, each in list(given.pipelines.items()) if name not in given.files]
    most = services.settings.api_pipelines
    if sum(each.namespace == namespace for each in others) >= most:
        raise ConflictError(
            f"the namespace {namespace} has {most} pipelines that were given over the API, as many as it may",
            hint="Remove one, or raise IPA_API_PIPELINES.",
        )
    _check_name(asker, pipeline)


def _check_name(asker: Admitted, pipeline: Pipeline) -> None:
    """ForbiddenError for a name that the asker may not give, in one form for every reason.

    Names are unique in the service. One that is taken where the asker sees nothing is not told from one that
    is kept for another namespace (`IPA_API_NAMES=prefixed`).
    """
    services, name, namespace = asker.services, pipeline.name, pipeline.namespace
    taken = services.given.pipelines.get(name)
    is_hidden = taken is not None and not asker.identity.may(Operation.READ, taken.namespace)
    is_free = asker.identity.may(Operation.DEFINE, EVERYWHERE)
    is_reserved = services.settings.api_names == "prefixed" and not is_free
    if is_hidden or (is_reserved and name != namespace and not name.startswith(f"{namespace}-")):
        raise ForbiddenError(
            f"a pipeline of the namespace {namespace} may not be called {name!r}",
            hint=f"Take another name; those that begin with {namespace}- are for that namespace.",
        )


def _check_profile(profile: StageProfile, pipeline: Pipeline, stage: str) -> None:
    problems = []
    for key, found, wanted in (
        ("pipeline", profile.pipeline, pipeline.name),
        ("stage", profile.stage, stage),
    ):
        if found != wanted:
            message = f"the {key} is {found!r}, the address says {wanted!r}"
            problems.append(Problem(message, pointer=f"/{key}"))
    if problems:
        raise InputError("the profile is of something else", problems=problems)


def _as_file(pipeline: Pipeline, tag: str) -> Response:
    headers = {"ETag": tag, "Content-Disposition": f'attachment; filename="{pipeline.name}.yaml"'}
    return Response(dump_pipeline(pipeline), headers=headers, media_type=YAML)
