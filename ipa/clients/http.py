"""The client of a service over its REST API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from ipa.clients import credential
from ipa.model.errors import ConflictError, InputError, IpaError, Problem, UnavailableError, UsageError
from ipa.model.masking import mask_url
from ipa.model.plan import StageConfig
from ipa.model.probe import RequestAddress
from ipa.service.service import ChangeOrder

# JSON values as the REST API documents them.
JsonObject = dict[str, Any]
# Seconds for an answer: a plan may take the solver's deadline, a change its record and one write.
TIMEOUT_S = 30.0


class HttpClient(AbstractContextManager["HttpClient"]):
    """A running service, named by its base URL. Answers are JSON values; errors are IpaErrors."""

    def __init__(
        self, at: str, transport: httpx.BaseTransport | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        url = httpx.URL(at)
        # The address without a password.
        self.at = mask_url(at)
        # Proxies of the environment are for the internet; the service is inside the network.
        self._client = httpx.Client(
            base_url=url.copy_with(username=None, password=None, query=None, fragment=None),
            timeout=timeout_s,
            trust_env=False,
            transport=transport,
            auth=credential.auth() or ((url.username, url.password) if url.username else None),
        )

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def names(self) -> list[str]:
        """The names of the pipelines."""
        return [each["pipeline"] for each in self._get("pipelines")["pipelines"]]

    def address(self, pipeline: str) -> RequestAddress:
        """The address for the pipeline's requests."""
        return RequestAddress(**self._get(pipeline_path(pipeline))["address"])

    def status(self, pipeline: str) -> JsonObject:
        """The state of the pipeline."""
        return self._get(pipeline_path(pipeline, "status"))

    def decisions(
        self,
        pipeline: str,
        *,
        limit: int,
        before: str | None = None,
        applied_only: bool = False,
        inputs: bool = True,
    ) -> JsonObject:
        """The `limit` decisions before the decision `before`, newest first; `inputs`: with their inputs."""
        path = pipeline_path(pipeline, "history" if applied_only else "decisions")
        more = {} if inputs else {"inputs": False}
        decisions: list[Any] = []
        # A page ends after some megabytes; the next one continues it.
        while True:
            page = self._get(path, limit=limit - len(decisions), before=before, **more)
            decisions += page["decisions"]
            before = page["next_before"]
            if before is None or len(decisions) >= limit:
                return {"decisions": decisions, "next_before": before}

    def decision(self, decision_id: str) -> JsonObject:
        """The decision of that id."""
        return self._get(f"decisions/{quote(decision_id, safe='')}")

    def record(self, pipeline: str, anchor: str | None) -> JsonObject:
        """The verified record; `anchor` is a head that was kept elsewhere."""
        return self._get(pipeline_path(pipeline, "record"), anchor=anchor)

    def plan(self, pipeline: str, rate_rps: float | None, objective: str | None) -> JsonObject:
        """The best plan for the rate (None: for the forecast), which the service keeps under its id."""
        body = {"rate_rps": rate_rps, "objective": objective}
        return self._ask("POST", pipeline_path(pipeline, "plans"), json=body)

    def saved_plan(self, plan_id: str) -> tuple[JsonObject, str]:
        """The plan that the service keeps under that id, and its version."""
        answer = self._answer("GET", f"plans/{quote(plan_id, safe='')}")
        return self._read(answer), answer.headers.get("etag", "")

    def apply_saved(self, plan_id: str, order: ChangeOrder) -> JsonObject:
        """The decision that applied that plan; ConflictError names what changed since it was made."""
        return self._order(f"plans/{quote(plan_id, safe='')}:apply", {}, order)

    def apply(self, pipeline: str, configs: Sequence[StageConfig], order: ChangeOrder) -> JsonObject:
        """The decision that applied `configs`.

        ConflictError: the revision is not the expected one, or the change takes capacity while requests are
        late and is not `confirmed`.
        """
        body = {"configs": [asdict(config) for config in configs]}
        return self._order(pipeline_path(pipeline, "apply"), body, order)

    def preview_rollback(self, pipeline: str, to: str | None, *, by: str) -> JsonObject:
        """The changes that `rollback` would take back now, and the configuration that it would restore."""
        # An older service selects changes by the name even without authentication.
        return self._get(pipeline_path(pipeline, "rollback"), to=to, by=by)

    def rollback(self, pipeline: str, to: str | None, order: ChangeOrder) -> JsonObject:
        """The decision that took back the last change by that person, or restored the revision `to`.

        Errors: those of `apply`; ConflictError: nothing is left to take back, or another change rolls out.
        """
        return self._order(pipeline_path(pipeline, "rollback"), {"to": to}, order)

    def _order(self, path: str, body: JsonObject, order: ChangeOrder) -> JsonObject:
        (version,) = order.expected.versions
        headers = {"If-Match": f'"{version}"', "Idempotency-Key": uuid4().hex}
        body = {**body, "by": order.by, "reason": order.reason}
        # An older service does not know the key.
        body |= {"confirmed": True} if order.confirmed else {}
        return self._ask("POST", path, json=body, headers=headers)

    def control(self, method: str, pipeline: str, *rest: str, **options: Any) -> JsonObject:
        """The control of the pipeline after a request such as POST `pause`; options go to httpx."""
        return self._ask(method, pipeline_path(pipeline, *rest), **options)

    def replay(self, decision_id: str, **options: Any) -> JsonObject:
        """The result of replaying the decision, by another `policy` or with its `certificate`, if given."""
        body = {name: value for name, value in options.items() if value}
        return self._ask("POST", f"decisions/{quote(decision_id, safe='')}:replay", json=body)

    def events(self, pipeline: str | None, *, after: int | None, follow: bool) -> Iterator[str]:
        """The lines of the text/event-stream after the event `after`."""
        return self._lines("events", pipeline=pipeline, after=after, follow=None if follow else "false")

    def audit(self, pipeline: str | None, *, after: int) -> Iterator[str]:
        """The lines of the record after the entry `after`."""
        return self._lines("audit", pipeline=pipeline, after=after)

    def configuration(self) -> JsonObject:
        """The effective settings of the service, with their sources."""
        return self._get("configuration")

    def _get(self, path: str, **query: Any) -> JsonObject:
        return self._ask("GET", path, params=_given(query))

    def _lines(self, path: str, **query: Any) -> Iterator[str]:
        """The lines of the answer as they arrive; it may pause for a minute."""
        given = _given(query)
        timeout = httpx.Timeout(TIMEOUT_S, read=2 * TIMEOUT_S)
        try:
            with self._client.stream("GET", f"/v1/{path}", params=given, timeout=timeout) as answer:
                if answer.is_success:
                    yield from answer.iter_lines()
                    return
                answer.read()
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        self._read(answer)

    def _ask(self, method: str, path: str, **options: Any) -> JsonObject:
        return self._read(self._answer(method, path, **options))

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, f"/v1/{path}", **options)
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _silent(self, error: httpx.HTTPError) -> UnavailableError:
        return UnavailableError(
            f"the service at {self.at} does not answer: {error}",
            hint="Start it with `ipa serve`, or give its URL with --at.",
        )

    def _read(self, answer: httpx.Response) -> JsonObject:
        """The JSON object of the answer; raises the error that it describes."""
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise UnavailableError(
                f"the server at {self.at} is not ipa (HTTP {answer.status_code}, no JSON object)",
                hint="Give the service's URL with --at.",
            )
        if answer.is_success:
            return body
        raise _error(answer.status_code, body)


def is_service(at: str) -> bool:
    """True if `at` is the URL of a service."""
    try:
        url = httpx.URL(at)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def client_at(at: str) -> HttpClient:
    """The client of the service at that URL; UsageError if it is not a service's URL."""
    if not is_service(at):
        raise UsageError(
            f"--at {mask_url(at)!r} is not the URL of a service",
            hint="For example http://127.0.0.1:8080. `ipa serve` starts one, over a cluster with --target "
            "kubernetes.",
        )
    return HttpClient(at)


def pipeline_path(pipeline: str, *rest: str) -> str:
    """The path of a resource of the pipeline, below /v1."""
    return "/".join(["pipelines", *(quote(part, safe="") for part in (pipeline, *rest))])


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "")}


def _error(status: int, problem: dict[str, Any]) -> IpaError:
    """The error that the problem was made from; by its status if the code is unknown here."""
    message = str(problem.get("detail") or f"the service answered HTTP {status}")
    problems = []
    for item in problem.get("errors", []):
        pointer, words = str(item.get("pointer", "")), str(item.get("message", ""))
        problems.append(Problem(f"{pointer}: {words}" if pointer else words, pointer=pointer))
    kinds: list[type[IpaError]] = [IpaError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    by_code = {kind.code: kind for kind in kinds}
    # The general kinds of a status come first in the tree; other refusals are of the request itself.
    by_status = {kind.status: kind for kind in reversed(kinds)} | {400: InputError, 409: ConflictError}
    usual = by_status.get(status, InputError if status < 500 else IpaError)
    kind = by_code.get(str(problem.get("code")), usual)
    return kind(message, hint=str(problem.get("hint", "")), problems=problems)
