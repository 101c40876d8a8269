"""Lists of decisions without their inputs, and what the status says beside what it said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.services import ApiClient, FakeWorld


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld().play(40)
    world.log = [replace(each, inputs='{"tick":1}') for each in world.log]
    return world


@pytest.mark.parametrize("name", ["decisions", "history"])
def test_inputs_are_left_out_where_nobody_wants_them(world: FakeWorld, name: str) -> None:
    ask = ApiClient(world.services())
    path = f"/v1/pipelines/ocr/{name}?limit=2"
    whole, short = ask("GET", path), ask("GET", f"{path}&inputs=false")
    assert {each["inputs"] for each in whole.json()["decisions"]} == {'{"tick":1}'}
    assert [{**each, "inputs": ""} for each in whole.json()["decisions"]] == short.json()["decisions"]
    assert short.json()["next_before"] == whole.json()["next_before"]
    assert "inputs=false" in short.headers["Link"]


def test_the_status_says_what_was_planned_of_each_stage(world: FakeWorld) -> None:
    live = ApiClient(world.services())("GET", "/v1/pipelines/ocr/status").json()["live"]
    plan = world.snapshot().plan
    assert plan is not None
    for stage, planned in zip(live["stages"], plan.stages, strict=True):
        assert stage["planned_latency_s"] == pytest.approx(planned.latency_s + planned.queue_delay_s)
    assert live["series"][-1]["predicted_latency_s"] == world.history[-1].predicted_latency_s
    assert {each["stage"] for each in live["inputs"]} == {"", "detect", "recognise"}
