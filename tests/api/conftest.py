"""Fixtures of the API's tests: a world that has seen some ticks, its API, and the command over it."""

from __future__ import annotations

import pytest

from ipa.clients.http import HttpClient
from tests.fakes.commands import Ipa
from tests.fakes.services import ApiClient, FakeWorld, InProcess


@pytest.fixture
def world(request: pytest.FixtureRequest) -> FakeWorld:
    return FakeWorld().play(getattr(request.module, "PLAYED", 20))


@pytest.fixture
def api(world: FakeWorld) -> ApiClient:
    return ApiClient(world.services())


@pytest.fixture
def ipa(world: FakeWorld, ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> Ipa:
    """The command against the world, as kim."""
    monkeypatch.setattr(
        "ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(world.services()))
    )
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    return ipa
