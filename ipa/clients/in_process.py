"""The client of use cases in this process, over a whole service or one that was built for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from ipa.control.audit.record import head_of
from ipa.model.access import LOCAL
from ipa.model.errors import UsageError, service_only
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.service import commands, history, pipelines, plans, status
from ipa.service.preconditions import ChangeOrder
from ipa.service.service import Service
from ipa.service.visibility import Caller

if TYPE_CHECKING:
    from ipa.bootstrap.one_shot import OneShot

# JSON values as the REST API documents them.
JsonObject = dict[str, Any]
# Seconds between two reads of a watch.
INTERVAL_S = 1.0


class InProcessClient(AbstractContextManager["InProcessClient"]):
    """Calls the use cases that need no running service, with the answers and errors of `HttpClient`.

    `one_shot`: the service was built for one command.
    """

    def __init__(self, service: Service, at: str, one_shot: OneShot | None = None) -> None:
        self._service, self.at, self._one_shot = service, at, one_shot
        # None if nothing changes by itself.
        self.interval_s = one_shot.interval_s if one_shot else INTERVAL_S
        self._runner = asyncio.Runner()

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        if self._one_shot is not None:
            self._one_shot.close()

    def names(self) -> list[str]:
        return sorted(self._service.pipelines)

    def definition(self, pipeline: str) -> JsonObject:
        return _object(pipelines.view(self._service, self._service.pipeline(pipeline)))

    def status(self, pipeline: str) -> JsonObject:
        view = _object(status.status(self._service, self._service.pipeline(pipeline)))
        # One built for a command has no loop that a mode or a pause would hold.
        return view if self._one_shot is None else {**view, "control": None}

    def decisions(
        self,
        pipeline: str,
        *,
        limit: int,
        before: str | None = None,
        applied_only: bool = False,
        inputs: bool = True,
    ) -> JsonObject:
        name = self._recorded(pipeline)
        page = history.page_of(self._service.log, name, limit, before, applied_only=applied_only)
        if not inputs:
            page = replace(page, decisions=tuple(replace(each, inputs="") for each in page.decisions))
        return _object(page)

    def decision(self, decision_id: str) -> JsonObject:
        return _object(self._service.log.decision(decision_id))

    def record(self, pipeline: str, anchor: str | None) -> JsonObject:
        head = head_of(anchor) if anchor else None
        return _object(history.verify(self._service, self._recorded(pipeline), head))

    def plan(self, pipeline: str, rate_rps: float | None, objective: str | None) -> JsonObject:
        service, found = self._service, self._service.pipeline(pipeline)
        if rate_rps is None and plans.known_rate(service, found) is None:
            raise UsageError(
                f"--rate is needed: nothing at {self.at} knows the load to plan for",
                hint="For example --rate 10, or --plan FILE as `ipa plan -o json` prints it.",
            )
        request = plans.PlanRequest(rate_rps, objective, solver=service.settings.solver)
        question = plans.what_if(service, found, request)
        return _object(self._runner.run(plans.plan_for(service, question, request.solver)))

    def apply(self, pipeline: str, configs: Sequence[StageConfig], order: ChangeOrder) -> JsonObject:
        return _object(commands.apply(self._service, self._writable(pipeline), configs, order))

    def preview_rollback(self, pipeline: str, to: str | None, *, by: str) -> JsonObject:
        return _object(commands.preview_undo(self._service, self._writable(pipeline), to, self._author(by)))

    def rollback(self, pipeline: str, to: str | None, order: ChangeOrder) -> JsonObject:
        found, author = self._writable(pipeline), self._author(order.by)
        return _object(commands.roll_back(self._service, found, to, author, order))

    def replay(self, decision_id: str, policy: str | None) -> JsonObject:
        caller = Caller(LOCAL, self._service)
        return _object(self._runner.run(history.replay(caller, decision_id, policy, nullcontext())))

    def events(self, pipeline: str | None, *, after: int | None, follow: bool) -> Iterator[str]:
        raise service_only("events", self.at)

    def _author(self, by: str) -> str | None:
        """The person whose changes count as the caller's; of a whole service all, since none is known."""
        return by if self._one_shot else None

    def _recorded(self, name: str) -> str:
        """The name of a record: a pipeline's, or with @ and a policy beside it. NotFoundError."""
        pipeline, at, policy = name.partition("@")
        return f"{self._service.pipeline(pipeline).name}{at}{policy}"

    def _writable(self, name: str) -> Pipeline:
        """The pipeline; UsageError if nothing may be written from here."""
        found = self._service.pipeline(name)
        if self._one_shot is not None and self._one_shot.refusal is not None:
            raise self._one_shot.refusal
        return found


def _object(value: Any) -> JsonObject:
    """The value in the form in which the REST API has it: records leave defaults out."""
    found = to_jsonable_python(value, inf_nan_mode="null")
    assert isinstance(found, dict)
    return found
