"""Pages of decisions, newest first, by cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import TypeAdapter
from starlette.datastructures import URL

from ipa.api.services import Services
from ipa.api.views import DECISION, DecisionPage
from ipa.control.ports import DecisionLog
from ipa.model.decision import Decision

# Decisions of one tick share its number; a page that starts amid them reads so many more to find its place.
SAME_TICK = 16
# A page ends once it has these, so that a few of them at a time fit into memory; its clients go on after it.
PAGE_BYTES = 2 << 20
# Decisions that are read at once; with its inputs one is some tens of kilobytes.
READ_AT_ONCE = 32
_ID = TypeAdapter(str | None)


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that a request asks for."""

    url: URL
    limit: int
    before: str | None
    inputs: bool = True

    def page(self, services: Services, pipeline: str, *, applied_only: bool) -> Response:
        """The page that was asked for, with a Link to the next; NotFoundError for an unknown `before`."""
        texts, next_before = self._texts(services.log, pipeline, applied_only)
        # As text, read and written some at a time: all of them at once take ten times the room.
        answer = Response(
            b'{"decisions":[' + b",".join(texts) + b'],"next_before":' + _ID.dump_json(next_before) + b"}",
            media_type="application/json",
        )
        if next_before is not None:
            url = self.url.include_query_params(before=next_before)
            answer.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return answer

    def _texts(self, log: DecisionLog, pipeline: str, applied_only: bool) -> tuple[list[bytes], str | None]:
        """The decisions as JSON, and where the next page begins: after `limit` of them, or PAGE_BYTES."""
        texts: list[bytes] = []
        size, last = 0, None if self.before is None else log.decision(self.before)
        while True:
            found = _after(log, pipeline, min(self.limit - len(texts) + 1, READ_AT_ONCE), last, applied_only)
            for decision in found:
                if len(texts) == self.limit or size >= PAGE_BYTES:
                    assert last is not None
                    return texts, last.decision_id
                shown = decision if self.inputs else replace(decision, inputs="")
                texts.append(DECISION.dump_json(shown))
                size, last = size + len(texts[-1]), decision
            if not found:
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


def page_of(
    log: DecisionLog, pipeline: str, limit: int, before: str | None, *, applied_only: bool
) -> DecisionPage:
    """The `limit` decisions before that one, newest first; NotFoundError for an unknown `before`."""
    last = None if before is None else log.decision(before)
    found = _after(log, pipeline, limit + 1, last, applied_only)
    page = tuple(found[:limit])
    return DecisionPage(page, page[-1].decision_id if len(found) > limit else None)


def _after(
    log: DecisionLog, pipeline: str, limit: int, last: Decision | None, applied_only: bool
) -> Sequence[Decision]:
    """The decisions that follow that one, going back; the newest without one."""
    if last is None:
        return log.decisions(pipeline, limit=limit, applied_only=applied_only)
    found = log.decisions(
        pipeline, limit=limit + SAME_TICK, before_tick=last.tick + 1, applied_only=applied_only
    )
    ids = [decision.decision_id for decision in found]
    if last.decision_id in ids:
        return found[ids.index(last.decision_id) + 1 :]
    return [decision for decision in found if decision.tick < last.tick]


def neighbours(log: DecisionLog, decision: Decision) -> dict[str, str]:
    """The ids of the decisions right before ("prev") and after ("next") it, as far as there are such."""
    found = log.decisions(decision.pipeline, limit=2 * SAME_TICK, before_tick=decision.tick + 2)
    ids = [each.decision_id for each in found]
    if decision.decision_id not in ids:
        return {}
    at = ids.index(decision.decision_id)
    near = {"prev": ids[at + 1 : at + 2], "next": ids[at - 1 : at] if at else []}
    return {name: each[0] for name, each in near.items() if each}
