"""Routes that read: status, profiles, decisions and the record; and the headers of conditional requests."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from ipa.api.auth import CurrentCaller
from ipa.api.limits import JsonRoute
from ipa.control.audit.record import HEAD, head_of
from ipa.model.decision import Decision
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service import history, plans, status
from ipa.service.history import DECISION, DecisionPage, RecordView, newest_first
from ipa.service.service import ConfigurationView, Precondition, Service, configuration, plain_version
from ipa.service.status import StatusView
from ipa.service.visibility import MeView, rights_of

# A strong tag. A weak one means "equivalent", which is not enough to overwrite something.
_TAG = re.compile(r'(W/)?"[^"]*"')
IfMatch = Annotated[str | None, Header(description="required: the ETag of the state that the change is for")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="required: a new text for each change, such as a UUID; repeated, it repeats the answer"
    ),
]
LONGEST_KEY = 255
# Required headers; they are declared as optional, since their absence has its own status.
REQUIRED = frozenset({"if-match", "idempotency-key"})


def etag(revision: str) -> str:
    """The entity tag of a revision."""
    return f'"{plain_version(revision)}"'


def required_match(if_match: str | None, what: str) -> Precondition:
    """The precondition of the header; 428 if it is absent or names no revision (`*` overwrites anything)."""
    if if_match is None or not if_match.strip():
        raise HTTPException(428, f"If-Match is required: send the ETag that {what} was read with")
    if if_match.strip() == "*":
        raise HTTPException(428, f"If-Match: * names no revision; send the ETag that {what} was read with")
    tags = [match[0] for match in _TAG.finditer(if_match)]
    return Precondition(frozenset(tag[1:-1] for tag in tags if tag.startswith('"')), if_match)


def check_key(key: str | None) -> str:
    """The key; 400 if it is absent, InputError if it is not visible ASCII of at most 255 characters."""
    if key is None or not key.strip():
        raise HTTPException(400, "Idempotency-Key is required: a new text for each change, such as a UUID")
    if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
        problem = Problem(f"Idempotency-Key must be at most {LONGEST_KEY} visible ASCII characters")
        raise InputError("the request's key cannot be used", problems=[problem])
    return key


# A page ends at this size, so that some at a time fit into memory; clients ask for the next one.
PAGE_BYTES = 2 << 20
_ID = TypeAdapter(str | None)
router = APIRouter(prefix="/v1", route_class=JsonRoute)
Anchor = Annotated[
    str | None, Query(pattern=HEAD, description="a head of the record that was kept: NUMBER:DIGEST")
]


class Paging:
    """The page that a request asks for, by the query parameters of a list of decisions."""

    def __init__(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[str | None, Query(description="`next_before` of the page before")] = None,
        inputs: Annotated[
            bool, Query(description="false leaves `inputs` empty, which are most of a decision")
        ] = True,
    ) -> None:
        self.url, self.limit, self.before, self.inputs = request.url, limit, before, inputs

    def page(self, service: Service, pipeline: str, *, applied_only: bool) -> Response:
        """The page, with a Link to the next one; NotFoundError for an unknown `before`."""
        texts: list[bytes] = []
        size, last = 0, ""
        next_before: str | None = None
        # One more than the page holds, to know if there is a next page.
        for decision in newest_first(
            service.log, pipeline, self.before, self.limit + 1, applied_only=applied_only
        ):
            if len(texts) == self.limit or size >= PAGE_BYTES:
                next_before = last
                break
            shown = decision if self.inputs else replace(decision, inputs="")
            texts.append(DECISION.dump_json(shown))
            size, last = size + len(texts[-1]), decision.decision_id
        # As text, some decisions at a time: all of them at once take ten times the memory.
        answer = Response(
            b'{"decisions":[' + b",".join(texts) + b'],"next_before":' + _ID.dump_json(next_before) + b"}",
            media_type="application/json",
        )
        if next_before is not None:
            url = self.url.include_query_params(before=next_before)
            answer.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return answer


async def get_service(caller: CurrentCaller) -> Service:
    """The service with the pipelines that the caller may see."""
    return caller.service


Using = Annotated[Service, Depends(get_service)]


async def named_pipeline(pipeline: str, service: Using) -> Pipeline:
    """The pipeline of the path; NotFoundError lists the existing ones."""
    return service.pipeline(pipeline)


async def named_record(pipeline: str, service: Using) -> str:
    """The record PIPELINE, or PIPELINE@POLICY for a shadow policy; NotFoundError without the pipeline."""
    service.pipeline(pipeline.partition("@")[0])
    return pipeline


Recorded = Annotated[str, Depends(named_record)]
Named = Annotated[Pipeline, Depends(named_pipeline)]
Paged = Annotated[Paging, Depends()]


@router.get("/pipelines/{pipeline}/status", tags=["pipelines"])
def get_status(pipeline: Named, service: Using, response: Response) -> StatusView:
    """Return the state of a pipeline: load, forecast, latency, configuration, decision. ETag: revision."""
    view = status.status(service, pipeline)
    response.headers["ETag"] = etag(view.live.revision)
    return view


@router.get("/pipelines/{pipeline}/profiles", tags=["profiles"])
def list_profiles(pipeline: Named, service: Using) -> dict[str, StageProfile]:
    """Return the newest profile of every stage, by stage."""
    return dict(service.profiles(pipeline.name))


@router.get("/pipelines/{pipeline}/profiles/{stage}", tags=["profiles"])
def get_profile(pipeline: Named, stage: str, service: Using) -> StageProfile:
    """Return the newest profile of a stage."""
    return plans.stage_profile(service, pipeline, stage)


@router.get("/pipelines/{pipeline}/decisions", tags=["decisions"], response_model=DecisionPage)
def list_decisions(pipeline: Recorded, service: Using, wanted: Paged) -> Response:
    """List decisions, holds included, newest first; those of a shadow policy for PIPELINE@POLICY.

    A page ends early after 2 MB; `next_before` and Link lead to the next one.
    """
    return wanted.page(service, pipeline, applied_only=False)


@router.get("/pipelines/{pipeline}/history", tags=["decisions"], response_model=DecisionPage)
def list_history(pipeline: Recorded, service: Using, wanted: Paged) -> Response:
    """List the decisions that changed the pipeline, newest first, in pages as those of decisions."""
    return wanted.page(service, pipeline, applied_only=True)


@router.get("/pipelines/{pipeline}/record", tags=["decisions"])
def verify_record(pipeline: Recorded, service: Using, anchor: Anchor = None) -> RecordView:
    """Verify the chain of digests over every entry; a problem names the first fault.

    Faults are entries that were changed, removed or inserted. An earlier head (`anchor`) also shows entries
    that were cut off at the end.
    """
    return history.verify(service, pipeline, head_of(anchor) if anchor else None)


@router.get("/decisions/{decision_id}", tags=["decisions"])
def get_decision(decision_id: str, service: Using, response: Response) -> Decision:
    """Return a decision with its inputs. Link: the decisions right before and after it."""
    decision, neighbours = history.decision(service, decision_id)
    if neighbours:
        response.headers["Link"] = ", ".join(
            f'</v1/decisions/{quote(each, safe="")}>; rel="{name}"' for name, each in neighbours.items()
        )
    return decision


@router.get("/me", tags=["health"])
def get_me(caller: CurrentCaller) -> MeView:
    """Return the name of the caller and its rights with each visible pipeline.

    For a page that hides what is not allowed: each request is checked again, and may still be refused.
    """
    return rights_of(caller)


@router.get("/configuration", tags=["health"])
def get_configuration(service: Using) -> ConfigurationView:
    """Return the effective settings with their sources. Secrets and passwords are hidden."""
    return configuration(service.settings)
