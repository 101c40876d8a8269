"""Where the verbs read and change a pipeline's state: the service over its API, a cluster, or a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from ipa.cli.clients import credential
from ipa.control.loop import clock
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
)
from ipa.settings import Settings

# A plan may take the solver's whole deadline; a change waits for its record and one write.
TIMEOUT_S = 30.0


class PipelineClient(Protocol):
    """What the verbs need: answers about pipelines, as JSON values. Errors: those of IpaError.

    A watch reads it every `interval_s`; None where nothing changes by itself.
    """

    @property
    def interval_s(self) -> float | None:
        """Seconds between two reads of a watch."""
        ...

    def __enter__(self) -> PipelineClient:
        """Leaving closes what is open."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is open."""
        ...

    def get(self, path: str, **query: Any) -> Any:
        """The answer at that address below /v1."""
        ...

    def send(self, method: str, path: str, body: dict[str, Any], *, if_match: str | None = None) -> Any:
        """The answer to that request; ConflictError where `if_match` no longer holds."""
        ...

    def lines(self, path: str, **query: Any) -> Iterator[str]:
        """The lines of the answer at that address below /v1, as they come."""
        ...


class HttpClient:
    """A running service, named by its base URL."""

    interval_s = 1.0

    def __init__(
        self, at: str, transport: httpx.BaseTransport | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        url = httpx.URL(at)
        # What errors and logs name, without what it may say of who asks.
        self._at = _shown(at)
        # Proxies of the environment are for the way out of a house; the service is inside it.
        self._client = httpx.Client(
            base_url=self._at,
            timeout=timeout_s,
            trust_env=False,
            transport=transport,
            auth=credential.auth() or ((url.username, url.password) if url.username else None),
        )

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        """The answer at that address below /v1."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path, params=given)

    def send(self, method: str, path: str, body: dict[str, Any], *, if_match: str | None = None) -> Any:
        """The answer to that request; ConflictError where `if_match` no longer holds."""
        headers = {"If-Match": if_match} if if_match else {}
        return self._ask(method, path, json=body, headers=headers)

    def lines(self, path: str, **query: Any) -> Iterator[str]:
        """The lines of the answer at that address below /v1, as they come; it may pause for a minute."""
        given = {name: value for name, value in query.items() if value is not None}
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

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._client.request(method, f"/v1/{path}", **options)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        return self._read(answer)

    def _silent(self, error: httpx.HTTPError) -> UnavailableError:
        return UnavailableError(
            f"the service at {self._at} does not answer: {error}",
            hint="Start it with `ipa serve`, or say where it is with --at URL.",
        )

    def _read(self, answer: httpx.Response) -> Any:
        """What the answer says; the error that it is."""
        try:
            body = answer.json()
        except ValueError as error:
            raise UnavailableError(
                f"what answers at {self._at} is not ipa (HTTP {answer.status_code}, not JSON)",
                hint="Say where the service is with --at URL.",
            ) from error
        if answer.is_success:
            return body
        raise _error(answer.status_code, body if isinstance(body, dict) else {})


def is_service(at: str) -> bool:
    """Whether it is the URL of a service."""
    try:
        url = httpx.URL(at)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def client_at(at: str, settings: Settings | None = None, *, namespace: str | None = None) -> PipelineClient:
    """The state at `at`: a service's URL, `kubernetes[:KUBECONFIG]`, or the .yaml of a SeldonDeployment.

    Clusters and manifests are read by `settings` (those of the environment where None); `namespace` is where
    SeldonDeployments are looked for instead of where the pipelines' files say. UsageError for anything else;
    ConfigurationError where the cluster cannot be used.
    """
    if is_service(at):
        if namespace is not None:
            raise UsageError(
                "--namespace is for a cluster or a file: a service knows its pipelines by their names",
                hint="Leave it out, or use --at kubernetes.",
            )
        return HttpClient(at)
    if at.partition(":")[0] == "kubernetes":
        from ipa.cli.clients.cluster import ClusterClient

        return ClusterClient(at, settings or Settings.from_env(), clock.SystemClock(), namespace)
    if at.endswith((".yaml", ".yml")):
        from ipa.cli.clients.manifest import ManifestClient

        return ManifestClient(at, settings or Settings.from_env(), clock.SystemClock(), namespace)
    raise UsageError(
        f"--at {_shown(at)!r} is no URL of a service, no cluster and no manifest",
        hint="For example http://127.0.0.1:8080, kubernetes, kubernetes:~/.kube/config, or video.yaml",
    )


def _shown(at: str) -> str:
    """The address without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", at)


def decisions_of(
    service: PipelineClient, pipeline: str, kind: str, limit: int, before: str | None, **more: Any
) -> dict[str, Any]:
    """The `limit` decisions before that one, over as many pages as the service makes of them."""
    found: list[Any] = []
    while True:
        page = service.get(pipeline_path(pipeline, kind), limit=limit - len(found), before=before, **more)
        found += page["decisions"]
        before = page["next_before"]
        if before is None or len(found) >= limit:
            return {"decisions": found, "next_before": before}


def pipeline_path(pipeline: str, *rest: str) -> str:
    """The address of something of that pipeline."""
    return "/".join(["pipelines", quote(pipeline, safe=""), *rest])


def entity_tag(status: dict[str, Any]) -> str:
    """What to send as If-Match to be refused once the pipeline has moved."""
    revision = str(status["live"]["revision"]).replace('"', "")
    return f'"{revision}"'


def _error(status: int, problem: dict[str, Any]) -> IpaError:
    """The problem as the error it was made from; by its status where its code is unknown here."""
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
