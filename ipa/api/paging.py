"""Pages of decisions, newest first, by cursor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import TypeAdapter
from starlette.datastructures import URL

from ipa.service.history import DECISION, newest_first
from ipa.service.service import Service

# A page ends at this size, so that some at a time fit into memory; clients ask for the next one.
PAGE_BYTES = 2 << 20
_ID = TypeAdapter(str | None)


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that a request asks for."""

    url: URL
    limit: int
    before: str | None
    inputs: bool = True

    def page(self, service: Service, pipeline: str, *, applied_only: bool) -> Response:
        """The page, with a Link to the next; NotFoundError for an unknown `before`."""
        texts, next_before = self._texts(service, pipeline, applied_only)
        # As text, some decisions at a time: all of them at once take ten times the memory.
        answer = Response(
            b'{"decisions":[' + b",".join(texts) + b'],"next_before":' + _ID.dump_json(next_before) + b"}",
            media_type="application/json",
        )
        if next_before is not None:
            url = self.url.include_query_params(before=next_before)
            answer.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return answer

    def _texts(self, service: Service, pipeline: str, applied_only: bool) -> tuple[list[bytes], str | None]:
        """The decisions as JSON up to `limit` or PAGE_BYTES, and the id that the next page starts before."""
        texts: list[bytes] = []
        size, last = 0, ""
        # One more than the page has shows if there is a next one.
        for decision in newest_first(
            service, pipeline, self.before, self.limit + 1, applied_only=applied_only
        ):
            if len(texts) == self.limit or size >= PAGE_BYTES:
                return texts, last
            shown = decision if self.inputs else replace(decision, inputs="")
            texts.append(DECISION.dump_json(shown))
            size, last = size + len(texts[-1]), decision.decision_id
        return texts, None


def paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(description="`next_before` of the page before")] = None,
    inputs: Annotated[
        bool, Query(description="false leaves `inputs` empty, most of what a decision is")
    ] = True,
) -> Paging:
    """The query parameters of a list of decisions."""
    return Paging(request.url, limit, before, inputs)
