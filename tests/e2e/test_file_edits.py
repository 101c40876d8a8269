"""Edits of the files of a running pipeline, on a cluster: the fake API server."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import pytest
import yaml

from ipa.api.context import ApiContext
from ipa.api.wiring import make_context
from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.engine.actuation import ActuationPhase
from ipa.files import load_profile
from ipa.settings import Settings
from tests.fakes.deployed import deployed
from tests.fakes.services import ApiClient
from tests.fakes.waiting import until

WAIT_S = 300.0
AT = "/v1/pipelines/video"


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Iterator[Settings]:
    """A service over files of its own."""
    for folder in ("pipelines", "profiles"):
        shutil.copytree(root / folder / "video", tmp_path / folder / "video")
    with deployed(root, tmp_path) as made:
        yield replace(made.settings, pipelines_dir=tmp_path / "pipelines", profiles_dir=tmp_path / "profiles")


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[[], App]]:
    made: list[App] = []

    def started() -> App:
        app = build(settings, ServeOptions())
        app.roster.start()
        made.append(app)
        until(lambda: app.loops["video"].snapshot().tick > 0, WAIT_S)
        return app

    yield started
    for app in made:
        app.close()
        app.roster.join(WAIT_S)


@pytest.fixture
def app(start: Callable[[], App]) -> App:
    return start()


@pytest.fixture
def context(app: App) -> ApiContext:
    return make_context(app)


@pytest.fixture
def api(context: ApiContext) -> ApiClient:
    return ApiClient(context)


@pytest.fixture
def file(settings: Settings) -> Path:
    return settings.pipelines_dir / "video" / "pipeline.yaml"


def written(path: Path, text: str) -> None:
    """Write the file as if it was done a while ago."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.utime(part, (time() - 60, time() - 60))
    part.replace(path)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    written(path, text.replace(old, new, 1))


def status(api: ApiClient) -> Any:
    return api.get(f"{AT}/status").json()


def entries(app: App, what: str) -> list[Any]:
    recorded = [each.values for each in app.store.entries(0, 1000)]
    return [each for each in recorded if each["what"] == what]


def tag(api: ApiClient) -> dict[str, str]:
    return {"If-Match": api.get(AT).headers["etag"]}


def test_an_edit_is_taken_recorded_and_shown_and_the_pods_go_on(app: App, api: ApiClient, file: Path) -> None:
    before, version, pods = app.loops["video"], tag(api), status(api)["live"]["revision"]
    edited(file, "sla: {latency: 1s", "sla: {latency: 800ms")
    app.roster.look()
    now = status(api)
    assert now["sla_s"] == 0.8 and now["edit"]["state"] == "taken"
    assert now["edit"]["changes"] == ["sla.latency: 1s → 800ms"]
    assert now["live"]["tick"] >= before.snapshot().tick, "what was seen is shown until the first tick"
    assert now["live"]["degraded"] == [] or "nothing was observed" not in now["live"]["degraded"][0]
    until(lambda: app.loops["video"].snapshot().tick > before.snapshot().tick, WAIT_S)
    assert app.loops["video"].pipeline.sla.latency_s == 0.8
    assert status(api)["live"]["revision"] == pods
    assert tag(api) != version
    (entry,) = entries(app, "edit")
    assert (entry["by"], entry["why"]) == (getpass.getuser(), f"{file}: sla.latency: 1s → 800ms")
    changed = app.loops["video"]
    written(file, f"# a comment\n{file.read_text()}")
    app.roster.look()
    assert app.loops["video"] is changed, "nothing of the pipeline has changed"


BROKEN = {
    "no YAML": ("sla: {latency: 1s", "sla: {latency: [1s", "pipeline.yaml:"),
    "a typo": ("sla: {latency: 1s", "sla: {latncy: 1s", "did you mean 'latency'?"),
    "no unit": ("sla: {latency: 1s", "sla: {latency: 1", "latency"),
    "without effect": (", ignores: [drop_after]", "", "drop_after"),
    "another name": ("name: video", "name: vidoe", "its folder is 'video'"),
    "another namespace": ("namespace: default", "namespace: other", "namespace would change"),
    "no profile": ("crop", "cut", "no profile of cut"),
}


def test_broken_edits_are_refused_and_all_goes_on(
    app: App, api: ApiClient, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, loop, version = file.read_text(), app.loops["video"], tag(api)
    for why, (old, new, message) in BROKEN.items():
        caplog.clear()
        text = good.replace(old, new)
        assert text != good, why
        written(file, text)
        for _ in range(3):
            app.roster.look()
        edit = status(api)["edit"]
        assert (edit["state"], message in edit["message"]) == ("refused", True), (why, edit)
        assert caplog.text.count("is refused, the former one applies") == 1, "said once, not at every look"
        assert app.loops["video"] is loop and tag(api) == version and entries(app, "edit") == []
        assert status(api)["sla_s"] == 1.0
        written(file, good)
        app.roster.look()
        assert status(api)["edit"] is None and app.loops["video"] is loop, why
    file.unlink()
    app.roster.look()
    assert "does not exist" in status(api)["edit"]["message"]
    assert app.loops["video"] is loop


def test_an_edit_waits_while_a_change_rolls_out(
    app: App, api: ApiClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = app.loops["video"]
    calm = loop.snapshot()
    monkeypatch.setattr(loop, "_snapshot", replace(calm, phase=ActuationPhase.WAITING_READY))
    edited(file, "sla: {latency: 1s", "sla: {latency: 2s")
    app.roster.look()
    assert status(api)["edit"]["state"] == "waiting" and app.loops["video"] is loop
    monkeypatch.setattr(loop, "_snapshot", calm)
    app.roster.look()
    assert (status(api)["edit"]["state"], status(api)["sla_s"]) == ("taken", 2.0)


def test_a_file_that_is_being_written_is_left_until_it_is_whole(app: App, api: ApiClient, file: Path) -> None:
    file.write_text(file.read_text().replace("sla: {latency: 1s", "sla: {latency: 2s"))
    app.roster.edits.wall_s = lambda: file.stat().st_mtime + 0.1
    app.roster.look()
    assert status(api)["edit"] is None
    app.roster.edits.wall_s = lambda: file.stat().st_mtime + 1.0
    app.roster.look()
    assert status(api)["sla_s"] == 2.0


def test_a_new_profile_is_planned_with(app: App, api: ApiClient, settings: Settings) -> None:
    path = settings.profiles_dir / "video" / "crop.yaml"
    accuracy = load_profile(path).variants[0].accuracy
    edited(path, f"accuracy: {accuracy:g}", "accuracy: 0.111")
    app.roster.look()
    assert status(api)["edit"]["changes"] == ["profile of crop"]
    assert app.roster.profiles["video"]["crop"].variants[0].accuracy == 0.111
    assert app.store.profiles("video")["crop"].variants[0].accuracy == 0.111
    (entry,) = entries(app, "edit")
    assert entry["why"] == f"{path}: profile of crop"
    edited(path, "accuracy: 0.111", "accuracy: 1.111")
    app.roster.look()
    assert status(api)["edit"]["state"] == "refused"
    assert app.roster.profiles["video"]["crop"].variants[0].accuracy == 0.111


def test_a_pipeline_of_a_file_is_changed_in_its_file_alone(app: App, api: ApiClient, file: Path) -> None:
    wanted = yaml.safe_load(api.get(AT, headers={"Accept": "application/yaml"}).text)
    refused = api("PUT", AT, json={**wanted, "sla": {"latency": "700ms"}}, headers=tag(api))
    assert refused.status_code == 409 and str(file) in refused.json()["hint"]
    assert status(api)["sla_s"] == 1.0 and entries(app, "replace") == []
