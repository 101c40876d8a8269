"""Pages of decisions, newest first, by cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query, Request, Response
from starlette.datastructures import URL

from ipa.api.services import Services
from ipa.api.views import DecisionPage
from ipa.control.ports import DecisionLog
from ipa.model.decision import Decision

# Decisions of one tick share its number; a page that starts amid them reads so many more to find its place.
SAME_TICK = 16


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that a request asks for."""

    url: URL
    response: Response
    limit: int
    before: str | None
    inputs: bool = True

    def page(self, services: Services, pipeline: str, *, applied_only: bool) -> DecisionPage:
        """The page that was asked for, with a Link to the next; NotFoundError for an unknown `before`."""
        page = page_of(services.log, pipeline, self.limit, self.before, applied_only=applied_only)
        if page.next_before is not None:
            url = self.url.include_query_params(before=page.next_before)
            self.response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        if not self.inputs:
            page = replace(page, decisions=tuple(replace(each, inputs="") for each in page.decisions))
        return page


def paging(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(description="`next_before` of the page before")] = None,
    inputs: Annotated[
        bool, Query(description="false leaves `inputs` empty, most of what a decision is")
    ] = True,
) -> Paging:
    """The query parameters of a list of decisions."""
    return Paging(request.url, response, limit, before, inputs)


def page_of(
    log: DecisionLog, pipeline: str, limit: int, before: str | None, *, applied_only: bool
) -> DecisionPage:
    """The `limit` decisions before that one, newest first; NotFoundError for an unknown `before`."""
    found = _read(log, pipeline, limit + 1, before, applied_only)
    page = tuple(found[:limit])
    return DecisionPage(page, page[-1].decision_id if len(found) > limit else None)


def _read(
    log: DecisionLog, pipeline: str, limit: int, before: str | None, applied_only: bool
) -> Sequence[Decision]:
    if before is None:
        return log.decisions(pipeline, limit=limit, applied_only=applied_only)
    tick = log.decision(before).tick
    found = log.decisions(pipeline, limit=limit + SAME_TICK, before_tick=tick + 1, applied_only=applied_only)
    ids = [decision.decision_id for decision in found]
    if before in ids:
        return found[ids.index(before) + 1 :]
    return [decision for decision in found if decision.tick < tick]


def neighbours(log: DecisionLog, decision: Decision) -> dict[str, str]:
    """The ids of the decisions right before ("prev") and after ("next") it, as far as there are such."""
    found = log.decisions(decision.pipeline, limit=2 * SAME_TICK, before_tick=decision.tick + 2)
    ids = [each.decision_id for each in found]
    if decision.decision_id not in ids:
        return {}
    at = ids.index(decision.decision_id)
    near = {"prev": ids[at + 1 : at + 2], "next": ids[at - 1 : at] if at else []}
    return {name: each[0] for name, each in near.items() if each}
