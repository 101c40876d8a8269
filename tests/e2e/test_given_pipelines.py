"""Pipelines that come and go over the API of a service on a cluster, here the fake API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.api.wiring import make_context
from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.engine.actuation import ActuationPhase
from ipa.files import load_pipelines, pipeline_to_mapping
from ipa.settings import Settings
from tests.fakes.deployed import deployed
from tests.fakes.services import ApiClient
from tests.fakes.waiting import until

WAIT_S = 300.0
AT = "/v1/pipelines/video"


@pytest.fixture
def video(root: Path) -> dict[str, Any]:
    return pipeline_to_mapping(load_pipelines(root / "pipelines")["video"])


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Iterator[Settings]:
    """A service without pipelines, on a cluster where one runs."""
    (tmp_path / "none").mkdir()
    with deployed(root, tmp_path) as made:
        yield replace(made.settings, pipelines_dir=tmp_path / "none")


Start = Callable[[], tuple[App, ApiClient]]


@pytest.fixture
def started(settings: Settings) -> Iterator[Start]:
    yield from starting(settings)


@pytest.fixture
def replicas(settings: Settings, postgres_url: str) -> Iterator[Start]:
    """Services that share a store, as only PostgreSQL is shared."""
    yield from starting(replace(settings, store_url=postgres_url))


def starting(settings: Settings) -> Iterator[Start]:
    made: list[App] = []

    def start() -> tuple[App, ApiClient]:
        app = build(settings, ServeOptions())
        app.roster.start()
        made.append(app)
        return app, ApiClient(make_context(app))

    yield start
    for app in made:
        app.close()
        app.roster.join(WAIT_S)


def tag(api: ApiClient) -> dict[str, str]:
    return {"If-Match": api.get(AT).headers["etag"]}


def test_a_pipeline_is_controlled_from_when_it_is_given_until_it_is_removed(
    started: Start, video: dict[str, Any]
) -> None:
    app, api = started()
    assert api.get("/v1/pipelines").json() == {"pipelines": []}
    given = api.post("/v1/pipelines", video)
    assert (given.status_code, given.json()["not_controlled"]) == (201, "")
    until(lambda: bool(api.get(f"{AT}/decisions").json()["decisions"]), WAIT_S)
    status = api.get(f"{AT}/status").json()
    assert status["control"]["mode"] == "advisory"
    assert [stage["config"]["replicas"] for stage in status["live"]["stages"]] == [2, 2]
    assert b'ipa_decisions_total{pipeline="video"' in api.get("/metrics").content
    first = app.loops["video"]
    patched = api("PUT", AT, json={**video, "description": "patched"}, headers=tag(api))
    assert patched.status_code == 200
    assert app.loops["video"] is not first
    until(lambda: app.loops["video"].snapshot().tick > first.snapshot().tick, WAIT_S)
    removed = api("DELETE", AT, headers=tag(api))
    assert "its workload goes on" in removed.json()["left"]
    assert "video" not in app.loops
    last = first.snapshot().tick
    first.wake()
    until(lambda: api.get("/v1/pipelines").status_code == 200, WAIT_S)
    assert first.snapshot().tick == last, "a loop that has ended has no more turns"
    assert api.get(f"{AT}/status").status_code == 404
    assert b'pipeline="video"' not in api.get("/metrics").content


@pytest.mark.xdist_group("postgresql")
def test_what_was_given_is_there_after_a_restart_and_at_another_replica(
    replicas: Start, video: dict[str, Any]
) -> None:
    first, api = replicas()
    other, elsewhere = replicas()
    api.post("/v1/pipelines", video)
    assert elsewhere.get(AT).status_code == 404
    other.roster.sync()
    assert elsewhere.get(AT).json() == api.get(AT).json()
    assert other.loops["video"] is not first.loops["video"]
    api("PUT", AT, json={**video, "description": "patched"}, headers=tag(api))
    before = other.loops["video"]
    other.roster.sync()
    assert elsewhere.get(AT).json()["description"] == "patched"
    assert other.loops["video"] is not before
    before = other.loops["video"]
    other.roster.sync()
    assert other.loops["video"] is before, "what did not change goes on"
    first.close()
    _, again = replicas()
    assert again.get(AT).json()["description"] == "patched"
    again("DELETE", AT, headers=tag(again))
    other.roster.sync()
    assert elsewhere.get(AT).status_code == 404


def test_nothing_is_taken_from_under_a_change_that_is_rolling_out(
    started: Start, video: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, api = started()
    api.post("/v1/pipelines", video)
    until(lambda: bool(api.get(f"{AT}/decisions").json()["decisions"]), WAIT_S)
    loop = app.loops["video"]
    monkeypatch.setattr(
        loop, "_snapshot", loop._snapshot.__class__("video", 1, loop._control, ActuationPhase.WAITING_READY)
    )
    for method, body in (("DELETE", None), ("PUT", video)):
        refused = api(method, AT, json=body, headers=tag(api))
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict.in_progress")
        assert refused.headers["retry-after"]
    assert app.loops["video"] is loop


def test_a_pipeline_that_does_not_run_here_can_be_planned(started: Start, video: dict[str, Any]) -> None:
    app, api = started()
    given = api.post("/v1/pipelines", {key: each for key, each in video.items() if key != "seldon"})
    assert "no seldon section" in given.json()["not_controlled"]
    plan = api.post(f"{AT}/plans", {"rate_rps": 5})
    assert plan.json()["termination"] == "optimal"
    headers = {"If-Match": plan.headers["etag"], "Idempotency-Key": "k"}
    applied = api.post(f"{plan.headers['location']}:apply", {}, headers=headers)
    assert (applied.status_code, "not controlled here" in applied.json()["detail"]) == (409, True)
    status = api.get(f"{AT}/status").json()
    assert status["live"]["degraded"][0].startswith("not controlled here: it has no seldon section")
    assert app.loops == {}


def test_a_key_without_effect_is_refused_and_one_that_was_taken_before_ends_no_control(
    started: Start, video: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An earlier version took `drop_after` in shape single, where Seldon drops nothing."""
    ignoring = {key: each for key, each in video["seldon"].items() if key != "ignores"}
    mapping = {**video, "seldon": ignoring, "drop_after": "1s"}
    app, api = started()
    refused = api.post("/v1/pipelines", mapping)
    assert refused.status_code == 422
    assert "drop_after" in refused.json()["errors"][0]["message"]
    assert api.get("/v1/pipelines").json() == {"pipelines": []}
    app.store.given.keep("video", mapping)
    app.store.records.begin("video", "default")
    app.close()
    again, _ = started()
    assert list(again.loops) == ["video"]
    assert "drop_after" in caplog.text


def test_a_stored_pipeline_that_cannot_be_read_does_not_keep_the_service_from_starting(
    started: Start, video: dict[str, Any]
) -> None:
    app, api = started()
    app.store.given.keep("broken", {"name": "broken"})
    api.post("/v1/pipelines", video)
    app.close()
    _, again = started()
    assert [each["pipeline"] for each in again.get("/v1/pipelines").json()["pipelines"]] == ["video"]


def test_a_key_that_an_earlier_version_always_wrote_changes_nothing(
    started: Start, video: dict[str, Any]
) -> None:
    app, api = started()
    api.post("/v1/pipelines", video)
    (stored,) = app.store.given.all().values()
    app.store.given.keep("video", {**stored, "max_predictors": 1})
    app.close()
    again, api = started()
    assert api.get(AT).status_code == 200
    before = again.loops["video"]
    again.roster.sync()
    assert again.loops["video"] is before


def test_a_pipeline_that_the_next_start_would_not_know_is_refused(
    root: Path, tmp_path: Path, video: dict[str, Any]
) -> None:
    """`ipa serve video` takes only `video` up from the store."""
    with deployed(root, tmp_path) as made:
        app = build(made.settings, ServeOptions(names=("video",)))
        api = ApiClient(make_context(app))
        answer = api.post("/v1/pipelines", {**video, "name": "other"})
        stored = dict(app.store.given.all())
        app.close()
    assert (answer.status_code, stored) == (409, {})
    assert "only video" in answer.json()["detail"] and "`ipa serve`" in answer.json()["hint"]
