"""Invariants while the service runs: secrets stay where they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.doctor import metrics_checks
from ipa.adapters.prometheus.server import credentials
from ipa.adapters.store import open_store
from ipa.adapters.store.state import KeyIdentities
from ipa.api.context import ApiContext
from ipa.cli.main import run
from ipa.clients.http import HttpClient, client_at
from ipa.model.access import Grant, Role
from ipa.model.errors import IpaError, UnavailableError
from ipa.service.service import DependencyCheck, configuration
from ipa.settings import Settings
from ipa.targets.gitops import Git
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.people import People, token
from tests.fakes.services import ApiClient, FakeWorld, InProcess, a_pipeline, over
from tests.faults.table import Case

CANARY = "canary5f1c9e"
VERBS = (
    ["status", "ocr"],
    ["history", "ocr"],
    ["diff", "ocr"],
    ["apply", "ocr"],
    ["pause", "ocr", "--reason", "r"],
    ["resume", "ocr"],
    ["mode", "ocr", "active"],
    ["status", "ocr", "-o", "json"],
)


class Elsewhere(httpx.BaseTransport):
    """A service that is another one, refuses, or is not there."""

    def __init__(self, status: int | None) -> None:
        self._status = status

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._status is None:
            raise httpx.ConnectError("refused", request=request)
        if self._status == 200:
            return httpx.Response(200, text="<html>another service</html>")
        return httpx.Response(self._status, json={"detail": "no", "code": "x"})


def test_o5_the_command_line_keeps_its_token(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    services = replace(FakeWorld().play(20).services(), authenticators=(People(),))
    good = token("ops", canary=CANARY)
    at = f"http://ada:{CANARY}@127.0.0.1:1"
    ways: list[tuple[str, httpx.BaseTransport]] = [
        (good, InProcess(services)),
        (token("watch", canary=CANARY), InProcess(services)),
        (CANARY, InProcess(services)),
        *((CANARY, Elsewhere(status)) for status in (None, 200, 401, 403, 500)),
        (f"{CANARY}\nX: y", Elsewhere(200)),
        (f"{CANARY}é", Elsewhere(200)),
    ]
    spoken, codes = "", []
    for sent, transport in ways:
        monkeypatch.setattr("ipa.clients.http.client_at", lambda at, t=transport, **_: HttpClient(at, t))
        monkeypatch.setenv("IPA_TOKEN", sent)
        codes += [run([*verb, "--at", at]) for verb in VERBS]
        monkeypatch.delenv("IPA_TOKEN")
        codes.append(run(["--token", sent, "status", "ocr", "--at", at]))
        spoken += "".join(capfd.readouterr()) + caplog.text
    case.note("commands", len(codes))
    case.equal("done with a good token", codes[: len(VERBS) + 1], [0] * (len(VERBS) + 1))
    # 77: not known, or not allowed; 64: it is no token; the rest is that nothing sensible answers.
    case.equal("codes", set(codes), {0, 1, 64, 77})
    case.equal("hits", _hits(spoken, good), 0)
    with pytest.raises(IpaError) as caught:
        client_at(f"ftp://ada:{CANARY}@host")
    case.equal("hits at a wrong address", _hits(str(caught.value)), 0)


def test_o5_the_service_keeps_what_it_is_sent(
    case: Case, caplog: pytest.LogCaptureFixture, tmp_path: Path, kube: FakeKube, connect: Callable[..., Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "keys.sqlite3"
    store, clock = open_store(f"sqlite:///{path}"), VirtualClock()
    _, key = store.keys.create("ada", Grant(Role.OWNER, "default"), now=clock.now())
    secret = key.rsplit("_", 1)[1] if key.count("_") == 2 else key[17:]
    for kind in (FaultKind.HTML, FaultKind.TRUNCATED, FaultKind.WRONG_KIND, FaultKind.RESET):
        kube.fault(kind, resource="tokenreviews")
    services: ApiContext = replace(
        FakeWorld().play(5).services(),
        authenticators=(
            KeyIdentities(store.keys, clock),
            People(),
            KubeIdentities(connect(1.0, clock=clock), clock, SELDON_DEPLOYMENT, SELDON.places_of),
        ),
    )
    api, spoken = ApiClient(services), ""
    tokens = [key, f"{key[:-2]}AA", f"ipa_{CANARY}", CANARY, f"{CANARY} {CANARY}", "", CANARY, CANARY, CANARY]
    tokens += [token("ops", canary=CANARY), token("x", canary=CANARY)]
    for sent in tokens:
        for scheme in ("Bearer", "Basic"):
            headers = {"Authorization": f"{scheme} {sent}"}
            for answer in (
                api.get("/v1/pipelines", headers=headers, params={"access_token": CANARY}),
                api.post("/v1/pipelines/ocr/pause", {}, headers=headers),
                api.get("/readyz?verbose", headers=headers),
                api.get("/metrics", headers=headers),
            ):
                spoken += answer.text + json.dumps(dict(answer.headers))
    # What the client of this test logs of its own addresses is not ours.
    spoken += "".join(it.getMessage() for it in caplog.records if not it.name.startswith("httpx"))
    spoken += repr(services) + repr(store.keys.all())
    written = b"".join(it.read_bytes() for it in tmp_path.glob("keys.sqlite3*")).decode("latin-1")
    store.close()
    case.note("requests", len(tokens) * 8)
    case.equal("hits in answers and logs", _hits(spoken, secret), 0)
    case.equal("hits in the store", _hits(written, secret), 0)
    reviewed = [it for it in kube.requests if it.resource == "tokenreviews"]
    case.equal("keys sent to the cluster", json.dumps([it.body for it in reviewed]).count("ipa_"), 0)


def test_o5_settings_keep_their_passwords(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def prometheus() -> None:
        metrics = PrometheusMetrics(Settings(prometheus_url=f"http://ada:{CANARY}@127.0.0.1:1"))
        raise IpaError(str(metrics.read(a_pipeline(), 60.0)))

    attempts: dict[str, Callable[[], object]] = {
        "a store's URL that is none": lambda: open_store(f"postgresql//ada:{CANARY}@db"),
        "a store of another kind": lambda: open_store(f"mysql://ada:{CANARY}@db/x"),
        "a store that does not answer": lambda: open_store(f"postgresql://ada:{CANARY}@127.0.0.1:1/x"),
        "Prometheus that does not answer": prometheus,
        "a setting beside the token": lambda: Settings.from_env({"IPA_TOKEN": CANARY, "IPA_TOKN": CANARY}),
    }
    spoken = ""
    for name, attempt in attempts.items():
        with pytest.raises(IpaError) as caught:
            attempt()
        spoken += f"{name}: {caught.value} {caught.value.problems}\n"
    case.note("attempts", len(attempts))
    case.equal("hits", [line for line in (spoken + caplog.text).splitlines() if CANARY in line], [])


# Every setting that is a URL, and one that it may be; each part of it holds the secret in turn.
URLS = {
    "IPA_STORE_URL": "postgresql://{user}:{password}@127.0.0.1:1/ipa?{query}",
    "IPA_PROMETHEUS_URL": "http://{user}:{password}@127.0.0.1:1/{path}?{query}#{fragment}",
    "IPA_GATEWAY_URL": "http://{user}:{password}@127.0.0.1:1/{path}?{query}#{fragment}",
    "IPA_GITOPS_REMOTE": "http://{user}:{password}@127.0.0.1:1/x.git?{query}",
}
SECRETS = ("IPA_PROMETHEUS_TOKEN",)
PLAIN = {"user": "ada", "password": "pw", "path": "x", "query": "sslmode=disable", "fragment": "x"}
PARTS = {
    **{part: {part: CANARY} for part in ("user", "password", "path", "fragment")},
    "a password with every sign": {"password": f"{CANARY}/b?{CANARY}#@ {CANARY}"},
    "an option": {"query": f"sslmode=disable&password={CANARY}"},
    "an option without a value": {"query": CANARY},
}


def planted(template: str) -> dict[str, str]:
    """The URL once for each part that it has, with the secret there."""
    urls = {part: template.format(**PLAIN | given) for part, given in PARTS.items()}
    return {part: url for part, url in urls.items() if CANARY in url}


def test_r17_no_part_of_a_setting_is_told(
    case: Case, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    given = [
        (variable, part, url)
        for variable, template in URLS.items()
        for part, url in planted(template).items()
    ]
    given += [(variable, "token", CANARY) for variable in SECRETS]
    hits: list[str] = []
    attempts = 0

    def tried(what: str, attempt: Callable[[], object]) -> None:
        nonlocal attempts
        attempts += 1
        try:
            output = repr(attempt() or "")
        except IpaError as error:
            output = f"{error} {error.message} {error.hint} {error.problems}"
        output += caplog.text + "".join(capfd.readouterr())
        caplog.clear()
        if CANARY in output:
            at = output.index(CANARY)
            hits.append(f"{what}: {output[max(at - 90, 0) : at + 60]}")

    for variable, part, value in given:
        name = variable.removeprefix("IPA_").lower()
        # As it is, and with a scheme that is none.
        for text in (value, value.replace("://", "x://", 1)):
            where = f"{variable}, {part}, {text.partition(':')[0]}"
            settings = Settings(**{name: text})
            tried(f"{where}: read", lambda env={variable: text}: _read(env))
            tried(f"{where}: option", lambda given={name: text}: _read({}, **given))
            tried(f"{where}: shown", lambda it=settings: configuration(it))
            tried(f"{where}: used", lambda it=settings, of=name: USES[of](it, tmp_path))
    case.note("attempts", attempts)
    case.equal("hits", hits, [])


def _read(environment: dict[str, str], **options: str) -> None:
    Settings.from_env(environment, **options)


def _reads(settings: Settings, _: Path) -> object:
    checks = metrics_checks(settings, {}, "")
    findings = [finding for check in checks for finding in check.look()]
    metrics = PrometheusMetrics(replace(settings, prometheus_timeout_s=0.2))
    return [*findings, metrics.read(a_pipeline(), 60.0), credentials(settings) and ""]


def _pushes(settings: Settings, folder: Path) -> object:
    repository = folder / "repository"
    repository.mkdir(exist_ok=True)
    try:
        git = Git(repository, 10.0)
        git("init", "-q")
        return git("push", settings.gitops_remote, "HEAD")
    except UnavailableError as error:
        return error


# The use of each setting that reaches its fault: nothing answers, or it is refused.
USES: dict[str, Callable[[Settings, Path], object]] = {
    "store_url": lambda it, _: open_store(it.store_url),
    "prometheus_url": _reads,
    "prometheus_token": _reads,
    "gitops_remote": _pushes,
    "gateway_url": lambda it, _: None,
}


def test_r17_readiness_is_explained_to_known_callers_alone(case: Case) -> None:
    checks = (
        DependencyCheck("store", False, f"the store says {CANARY}", required=True),
        DependencyCheck("video", False, f"the metrics say {CANARY}"),
    )
    explained: dict[str, list[str]] = {}
    for name, dependencies in {"unready": checks, "degraded": checks[1:]}.items():
        services = over(FakeWorld().play(2).services(), health=lambda dependencies=dependencies: dependencies)
        api = ApiClient(replace(services, authenticators=(People(),)))
        for path in ("/healthz", "/readyz", "/readyz?verbose"):
            for who, headers in {
                "nobody": {},
                "a stranger": {"Authorization": "Bearer x"},
                "a viewer": {"Authorization": f"Bearer {token('ops')}"},
            }.items():
                if CANARY in api.get(path, headers=headers).text:
                    explained.setdefault(who, []).append(f"{name} {path}")
        # On this machine alone.
        if CANARY in ApiClient(services).get("/readyz?verbose").text:
            explained.setdefault("open mode", []).append(name)
    case.equal("told", sorted(explained), ["a viewer", "open mode"])


def _hits(text: str, *secrets: str) -> int:
    return sum(text.count(secret) for secret in (CANARY, *secrets))
