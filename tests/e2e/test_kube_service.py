"""The service as it is put together for a cluster, on the fake API server."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from prometheus_client import generate_latest
from sqlalchemy import event

from ipa.adapters.kube.kinds import observer as observer_role
from ipa.api.wiring import make_context
from ipa.bootstrap.app import build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.loop.snapshot import Snapshot
from ipa.model.decision import Decision, Mode, ReasonCode
from ipa.service.status import status
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from tests.fakes.deployed import deployed
from tests.fakes.kube import FakeKube
from tests.fakes.services import ApiClient

WAIT_S = 300.0
SDEPS = "seldondeployments"
READS = ("get", "list", "watch")


def watched(kube: FakeKube, count: int) -> None:
    """Return once so many watches have begun."""
    for _ in range(1200):
        if sum(one.verb == "watch" for one in kube.requests) >= count:
            return
        with kube.store.lock:
            kube.store.changed.wait(0.05)
    raise AssertionError("nothing is watched")


def test_a_change_by_another_hand_is_looked_at_when_it_happens(root: Path, tmp_path: Path) -> None:
    decisions: Queue[Decision] = Queue()

    def hook(decision: Decision, snapshot: Snapshot) -> None:
        decisions.put(decision)

    def scale(sdep: dict[str, Any]) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 7

    with deployed(root, tmp_path) as made:
        kube = made.kube
        app = build(made.settings, ServeOptions(names=("video",)))
        loop = app.loops["video"]
        loop._hooks = (*loop._hooks, hook)
        app.roster.turns.add(loop)
        assert decisions.get(timeout=WAIT_S).previous == made.configs
        watched(kube, 1)
        kube.edit(*made.place, scale)
        assert decisions.get(timeout=WAIT_S).previous[0].replicas == 7
        metrics = generate_latest(app.registry).decode()
        app.stop.set()
        app.roster.turns.join(WAIT_S)
        app.close()
    labels = f'kind="SeldonDeployments",namespace="{made.place[0]}"'
    assert f"ipa_kube_watch_lists_total{{{labels}}} 1.0" in metrics
    assert "ipa_kube_clock_skew_seconds" in metrics
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-")]


def test_a_second_policy_decides_beside_the_first_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    with deployed(root, tmp_path) as made:
        app = build(made.settings, ServeOptions(names=("video",), shadow_policy="kpa"))
        service, video = make_context(app).service, app.pipelines["video"]
        (before,) = status(service, video).beside
        first, second = app.loops["video"].tick_once(), app.roster.beside["video"].tick_once()
        (after,) = status(service, video).beside
        app.close()
    assert (before.policy, before.tick, before.configs) == ("kpa", 0, ())
    assert (after.record, after.tick, after.configs, after.cost_cores) == ("video@kpa", 1, made.configs, 4.0)
    assert (first.pipeline, second.pipeline) == ("video", "video@kpa")
    # The load cannot be read here: both hold, each by itself.
    assert first.reason is second.reason is ReasonCode.METRICS_MISSING
    assert (first.mode, second.mode) == (Mode.ADVISORY, Mode.SHADOW)
    assert not [one for one in made.kube.requests if one.verb not in READS and one.resource == SDEPS]


def test_readiness_asks_the_store_once_however_often_it_is_asked(root: Path, tmp_path: Path) -> None:
    with deployed(root, tmp_path) as made:
        app = build(made.settings, ServeOptions(names=("video",)))
        statements: list[str] = []
        client = ApiClient(make_context(app))
        event.listen(app.store._engine, "before_cursor_execute", lambda *of: statements.append(of[2]))
        for _ in range(10):
            answer = client.get("/readyz?verbose").json()
        app.close()
    assert [check["name"] for check in answer["checks"]] == [
        "store", "store writes", "store retention", "leadership", "video"
    ]  # fmt: skip
    assert answer["ready"] and len([one for one in statements if one.startswith("SELECT")]) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_a_pipeline_that_is_only_planned_is_no_fault_while_nothing_of_it_runs(
    root: Path, tmp_path: Path, is_there: bool
) -> None:
    with deployed(root, tmp_path) as made:
        if not is_there:
            made.kube.store.delete(SDEPS, *made.place)
        app = build(made.settings, ServeOptions(names=("video",)))
        app.loops["video"].tick_once()
        service = make_context(app).service
        view, *checks = status(service, app.pipelines["video"]), *service.health()
        app.close()
    assert not view.runnable
    # Its metrics are missing, which is one where it runs.
    assert (view.healthy, view.live.degraded == ()) == (not is_there, not is_there)
    (check,) = (each for each in checks if each.name == "video")
    assert (check.ok, check.detail.startswith("planned only: ")) == (not is_there, not is_there)


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_that_writes_nothing_asks_for_what_the_observer_may(
    root: Path, tmp_path: Path, mode: Mode
) -> None:
    """The load cannot be read: a trouble that begins, which the other modes tell as an Event."""
    observer = {
        (right.verb, right.group, right.resource) for right in observer_role(SELDON_DEPLOYMENT).rights
    }
    with deployed(root, tmp_path) as made:
        app = build(made.settings, ServeOptions(names=("video",), mode=mode))
        made.kube.verbs.clear()
        decision = app.loops["video"].tick_once()
        app.close()
    assert (decision.mode, decision.reason) == (mode, ReasonCode.METRICS_MISSING)
    event_verbs = {("create", "", "events")} if mode.writes else set()
    assert made.kube.verbs - observer == event_verbs
