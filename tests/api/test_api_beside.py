"""The plans of another policy: in the status, and in a record of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from ipa.cli.views.status_text import status_table
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode, ReasonCode
from ipa.model.plan import StageConfig
from tests.fakes.services import ApiClient, FakeLoop, FakeWorld

WOULD = (StageConfig("detect", "v6-320", 2, 0.5, 3), StageConfig("recognise", "v6-240", 4, 0.5, 2))


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld().play(20)
    for decision in world.recorded[-3:]:
        name = "ocr@vpa+"
        would = replace(decision, pipeline=name, decision_id=f"{name}-{decision.tick}", configs=WOULD)
        world.record(replace(would, reason=ReasonCode.SHADOW, mode=Mode.SHADOW))
    return world


def client(world: FakeWorld, would: tuple[StageConfig, ...] = WOULD) -> ApiClient:
    snapshot = Snapshot("ocr@vpa+", 3, PipelineControl(mode=Mode.SHADOW), ActuationPhase.IDLE, would=would)
    if would:
        snapshot = replace(snapshot, decision=world.recorded[-1])
    world.beside["ocr"] = FakeLoop(lambda: snapshot, world.answer, "vpa+")
    return ApiClient(world.services())


def text_of(status: dict[str, object]) -> str:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(status_table(status))
    return shown.get()


def test_the_status_shows_what_it_would_run(world: FakeWorld) -> None:
    status = client(world).get("/v1/pipelines/ocr/status").json()
    (beside,) = status["beside"]
    assert [config["replicas"] for config in beside["configs"]] == [3, 2]
    assert beside["cost_cores"] == 2.5 and beside["pas"] == pytest.approx(0.773 * 0.761)
    assert (beside["policy"], beside["record"], beside["reason"]) == ("vpa+", "ocr@vpa+", "hold.shadow")
    words = "vpa+ would run detect=v6-320 b2 3×0.5  recognise=v6-240 b4 2×0.5   PAS 0.588   cost 2.5 cores"
    assert words in text_of(status)


def test_before_it_has_decided_there_is_nothing_to_show(world: FakeWorld) -> None:
    status = client(world, ()).get("/v1/pipelines/ocr/status").json()
    assert status["beside"][0]["pas"] is None and status["beside"][0]["cost_cores"] is None
    assert "vpa+ would run nothing yet" in text_of(status)


def test_there_is_none_without_a_second_policy(world: FakeWorld) -> None:
    status = ApiClient(world.services()).get("/v1/pipelines/ocr/status").json()
    assert status["beside"] == [] and "would run" not in text_of(status)


def test_its_decisions_are_a_record_of_their_own(world: FakeWorld) -> None:
    api = client(world)
    name = "ocr%40vpa%2B"
    page = api.get(f"/v1/pipelines/{name}/decisions?limit=2").json()
    assert [it["pipeline"] for it in page["decisions"]] == ["ocr@vpa+"] * 2
    rest = api.get(f"/v1/pipelines/{name}/decisions?before={page['next_before'].replace('+', '%2B')}").json()
    assert len(rest["decisions"]) == 1 and rest["next_before"] is None
    record = api.get(f"/v1/pipelines/{name}/record").json()
    assert (record["pipeline"], record["decisions"], record["entries"]) == ("ocr@vpa+", 3, 3)
    assert api.get(f"/v1/pipelines/{name}/history").json()["decisions"] == []
    mine = api.get("/v1/pipelines/ocr/decisions").json()["decisions"]
    assert {it["pipeline"] for it in mine} == {"ocr"}


def test_a_policy_beside_is_no_pipeline(world: FakeWorld) -> None:
    api = client(world)
    for path in ("", "/status", "/profiles"):
        assert api.get(f"/v1/pipelines/ocr%40vpa%2B{path}").status_code == 404
    assert api.get("/v1/pipelines/nobody%40hpa/decisions").status_code == 404
