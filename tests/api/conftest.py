"""Fixtures of the API's tests: a world that has seen some ticks, its API, and the command over it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipa.cli.main import run
from ipa.clients.http import HttpClient
from tests.fakes.services import ApiClient, FakeWorld, InProcess


@pytest.fixture
def world(request: pytest.FixtureRequest) -> FakeWorld:
    return FakeWorld().play(getattr(request.module, "PLAYED", 20))


@pytest.fixture
def api(world: FakeWorld) -> ApiClient:
    return ApiClient(world.services())


@pytest.fixture
def ipa(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command against the world; its exit code, output and complaints."""
    monkeypatch.setattr(
        "ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(world.services()))
    )
    monkeypatch.setattr("getpass.getuser", lambda: "kim")

    def command(*words: str) -> tuple[int, str, str]:
        code = run(list(words))
        out, err = capfd.readouterr()
        return code, out, err

    return command
