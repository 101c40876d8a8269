"""The client of a service over its REST API, and the choice of a client by an address."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import httpx

from ipa.clients import credential
from ipa.model.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    Problem,
    UnauthenticatedError,
    UnavailableError,
    UsageError,
    service_only,
)
from ipa.model.masking import mask_url
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig
from ipa.service.preconditions import ChangeOrder, plain_version
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.clients.in_process import InProcessClient, JsonObject

# Reads and changes pipelines, at a service or without one; both have the methods of `InProcessClient`.
PipelineClient: TypeAlias = "HttpClient | InProcessClient"
# Seconds for an answer: a plan may take the solver's deadline, a change its record and one write.
TIMEOUT_S = 30.0


class HttpClient(AbstractContextManager["HttpClient"]):
    """A running service, named by its base URL. Answers are JSON values; errors are those of IpaError."""

    # Seconds between two reads of a watch.
    interval_s = 1.0

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
        """The pipelines that may be found here."""
        return [each["pipeline"] for each in self._get("pipelines")["pipelines"]]

    def definition(self, pipeline: str) -> JsonObject:
        """The pipeline as its owner wrote it, and where it takes requests."""
        return self._get(pipeline_path(pipeline))

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
        """The `limit` decisions before the decision `before`, newest first; `inputs`: with theirs."""
        path = pipeline_path(pipeline, "history" if applied_only else "decisions")
        more = {} if inputs else {"inputs": False}
        found: list[Any] = []
        # A page ends after some megabytes; the next one continues it.
        while True:
            page = self._get(path, limit=limit - len(found), before=before, **more)
            found += page["decisions"]
            before = page["next_before"]
            if before is None or len(found) >= limit:
                return {"decisions": found, "next_before": before}

    def decision(self, decision_id: str) -> JsonObject:
        """The decision of that id."""
        return self._get(f"decisions/{quote(decision_id, safe='')}")

    def record(self, pipeline: str, anchor: str | None) -> JsonObject:
        """The verified record; `anchor` is a head that was kept elsewhere."""
        return self._get(pipeline_path(pipeline, "record"), anchor=anchor)

    def plan(self, pipeline: str, rate_rps: float | None, objective: str | None) -> JsonObject:
        """The best plan for the rate (None: for the forecast)."""
        body = {"rate_rps": rate_rps, "objective": objective}
        return self._send("POST", pipeline_path(pipeline, "plans"), body)

    def apply(self, pipeline: str, configs: Sequence[StageConfig], order: ChangeOrder) -> JsonObject:
        """The decision that applied `configs`.

        ConflictError: the expected revision does not run any more, or it takes capacity while requests are
        late and that is not `confirmed`.
        """
        body: JsonObject = {"configs": [asdict(config) for config in configs]}
        # An older service does not know the key.
        body |= {"confirmed": True} if order.confirmed else {}
        return self._order("apply", pipeline, body, order)

    def preview_rollback(self, pipeline: str, to: str | None, *, by: str) -> JsonObject:
        """The changes that `rollback` would take back now, and the configuration that it would restore."""
        # An older service goes by the name even where it authenticates nobody.
        return self._get(pipeline_path(pipeline, "rollback"), to=to, by=by)

    def rollback(self, pipeline: str, to: str | None, order: ChangeOrder) -> JsonObject:
        """The decision that took back the last change by that person, or restored the revision `to`.

        Errors: those of `apply`; ConflictError: nothing is left to take back, or another change rolls out.
        """
        return self._order("rollback", pipeline, {"to": to, "confirmed": order.confirmed}, order)

    def _order(self, what: str, pipeline: str, body: JsonObject, order: ChangeOrder) -> JsonObject:
        (revision,) = order.expected.versions
        said = {"by": order.by, "reason": order.reason}
        return self._send("POST", pipeline_path(pipeline, what), {**body, **said}, revision=revision)

    def replay(self, decision_id: str, policy: str | None) -> JsonObject:
        """The outcome of deciding again from the recorded inputs."""
        body = {} if policy is None else {"policy": policy}
        return self._send("POST", f"decisions/{quote(decision_id, safe='')}:replay", body)

    def events(self, pipeline: str | None, *, after: int | None, follow: bool) -> Iterator[str]:
        """The lines of the text/event-stream after the event `after`."""
        return self._lines("events", pipeline=pipeline, after=after, follow=None if follow else "false")

    def audit(self, pipeline: str | None, *, after: int) -> Iterator[str]:
        """The lines of the record after the entry `after`."""
        return self._lines("audit", pipeline=pipeline, after=after)

    def configuration(self) -> JsonObject:
        """The effective settings of the service, with their sources."""
        return self._get("configuration")

    def file(self, pipeline: str) -> tuple[str, str]:
        """The pipeline as the text of its file, and its version."""
        try:
            path = f"/v1/{pipeline_path(pipeline)}"
            answer = self._client.get(path, headers={"Accept": "application/yaml"})
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if not answer.is_success:
            self._read(answer)
        return answer.text, answer.headers.get("etag", "")

    def create(self, file: Mapping[str, Any], *, by: str, reason: str) -> JsonObject:
        """The new pipeline, which is advisory at first; `file` has the keys of its file."""
        return self._send("POST", "pipelines", dict(file), by=by, reason=reason)

    def replace(
        self, pipeline: str, file: Mapping[str, Any], *, version: str, by: str, reason: str
    ) -> JsonObject:
        """The pipeline once it is as `file`; PreconditionError if it is not at that version any more."""
        path = pipeline_path(pipeline)
        return self._send("PUT", path, dict(file), revision=version, by=by, reason=reason)

    def profiles(self, pipeline: str) -> JsonObject:
        """The profiles that the service plans with, by stage."""
        return self._get(pipeline_path(pipeline, "profiles"))

    def give_profile(
        self, pipeline: str, stage: str, file: str, *, version: str, by: str, reason: str
    ) -> JsonObject:
        """The profile of the stage once it is as the text of its file; errors as for `replace`."""
        headers = {"If-Match": f'"{plain_version(version)}"', "Content-Type": "application/yaml"}
        path = pipeline_path(pipeline, "profiles", stage)
        return self._ask(
            "PUT", path, content=file, headers=headers, params=_given({"by": by, "reason": reason})
        )

    def pause(
        self, pipeline: str, *, by: str, reason: str, for_s: float | None = None, until: str | None = None
    ) -> JsonObject:
        """The control of the pipeline once it is paused."""
        body = _given({"for_s": for_s, "until": until})
        return self._send("POST", pipeline_path(pipeline, "pause"), {**body, "by": by, "reason": reason})

    def resume(self, pipeline: str, *, by: str, reason: str) -> JsonObject:
        """The control of the pipeline once its pause is ended."""
        return self._send("POST", pipeline_path(pipeline, "resume"), {}, by=by, reason=reason)

    def set_mode(self, pipeline: str, mode: str, *, by: str, reason: str) -> JsonObject:
        """The control of the pipeline in that mode."""
        body = {"mode": mode, "reason": reason, "by": by}
        return self._send("PUT", pipeline_path(pipeline, "mode"), body)

    def pin(self, pipeline: str, stage: str, pin: Pin, *, by: str, reason: str) -> JsonObject:
        """The control of the pipeline with that pin of the stage."""
        body = {**asdict(pin), "reason": reason, "by": by}
        return self._send("PUT", pipeline_path(pipeline, "pins", stage), body)

    def unpin(self, pipeline: str, stage: str, *, by: str, reason: str) -> JsonObject:
        """The control of the pipeline without a pin of the stage."""
        return self._send("DELETE", pipeline_path(pipeline, "pins", stage), {}, by=by, reason=reason)

    def freeze(
        self, pipeline: str, *, start: str | None, end: str, weekly: bool, by: str, reason: str
    ) -> JsonObject:
        """The control of the pipeline with that freeze."""
        body = {**_given({"start": start}), "end": end, "weekly": weekly, "reason": reason, "by": by}
        return self._send("POST", pipeline_path(pipeline, "freezes"), body)

    def unfreeze(self, pipeline: str, freeze_id: str | None, *, by: str, reason: str) -> JsonObject:
        """The control of the pipeline without that freeze (None: without any)."""
        path = pipeline_path(pipeline, "freezes", *([freeze_id] if freeze_id else []))
        return self._send("DELETE", path, {}, by=by, reason=reason)

    def _get(self, path: str, **query: Any) -> JsonObject:
        return self._ask("GET", path, params=_given(query))

    def _send(
        self, method: str, path: str, body: JsonObject, *, revision: str | None = None, **query: str
    ) -> JsonObject:
        headers = {} if revision is None else {"If-Match": f'"{plain_version(revision)}"'}
        return self._ask(method, path, json=body, headers=headers, params=_given(query))

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
        try:
            answer = self._client.request(method, f"/v1/{path}", **options)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        return self._read(answer)

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


def client_at(at: str, settings: Settings | None = None, *, namespace: str | None = None) -> PipelineClient:
    """The client of `at`: a service's URL, a target such as `kubernetes[:KUBECONFIG]`, or a manifest (.yaml).

    Clusters and manifests are read with `settings` (None: those of the environment); `namespace` replaces
    that of the pipelines' files. Errors: UsageError (anything else), ConfigurationError (no such cluster).
    """
    if is_service(at):
        if namespace is not None:
            raise UsageError(
                "--namespace applies to a cluster or a file: a service knows its pipelines by name",
                hint="Leave it out, or use --at kubernetes.",
            )
        return HttpClient(at)
    is_manifest = at.endswith((".yaml", ".yml"))
    if not is_manifest and not is_target(at):
        raise UsageError(
            f"--at {mask_url(at)!r} is neither a service's URL nor a cluster nor a manifest",
            hint="For example http://127.0.0.1:8080, kubernetes, kubernetes:~/.kube/config, or video.yaml",
        )
    from ipa.bootstrap.one_shot import on_manifest, on_target
    from ipa.clients.in_process import InProcessClient

    known = settings or Settings.from_env()
    open_at = on_manifest if is_manifest else on_target
    one_shot = open_at(known, at, namespace, _say)
    return InProcessClient(one_shot.service, at, one_shot)


def service_at(at: str, what: str) -> HttpClient:
    """The client of the service at that URL; UsageError elsewhere, since only a service has `what`."""
    found = client_at(at)
    if isinstance(found, HttpClient):
        return found
    with found:
        raise service_only(what, found.at)


def is_target(at: str) -> bool:
    """True if `at` is a target, NAME or NAME:WHERE."""
    from ipa.files.kinds.targets import TARGETS

    return at.partition(":")[0] in TARGETS


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def pipeline_path(pipeline: str, *rest: str) -> str:
    """The path of a resource of the pipeline, below /v1."""
    return "/".join(["pipelines", *(quote(part, safe="") for part in (pipeline, *rest))])


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "")}


def _error(status: int, problem: dict[str, Any]) -> IpaError:
    """The error that the problem was made from; by its status if the code is unknown here."""
    message = str(problem.get("detail") or f"the service answered HTTP {status}")
    problems = [_problem(item) for item in problem.get("errors", [])]
    kinds: list[type[IpaError]] = [IpaError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    by_code = {kind.code: kind for kind in kinds}
    kind = by_code.get(str(problem.get("code")), BY_STATUS.get(status, IpaError))
    return kind(message, hint=str(problem.get("hint", "")), problems=problems)


def _problem(item: dict[str, Any]) -> Problem:
    pointer, message = str(item.get("pointer", "")), str(item.get("message", ""))
    return Problem(f"{pointer}: {message}" if pointer else message, pointer=pointer)


BY_STATUS: dict[int, type[IpaError]] = {
    400: InputError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    413: InputError,
    415: InputError,
    422: InputError,
    428: ConflictError,
    429: BusyError,
    503: UnavailableError,
}
