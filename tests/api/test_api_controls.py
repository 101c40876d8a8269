"""The actions of people on a pipeline, over the API and on the command line: mode, pins, freezes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from ipa.cli.layout import date_time
from ipa.control.ports import PipelineControl, StagePin
from ipa.model.decision import Mode
from ipa.model.pipeline import Pin
from tests.fakes.commands import Ipa
from tests.fakes.services import NOW, ApiClient, FakeWorld, a_pipeline, over

OCR = "/v1/pipelines/ocr"


# The ticks that the world has seen.
PLAYED = 1


@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_can_be_set_with_who_and_why(api: ApiClient, world: FakeWorld, mode: Mode) -> None:
    control = api("PUT", f"{OCR}/mode", json={"mode": mode.value, "by": "kim", "reason": "week two"}).json()
    assert (control["mode"], control["mode_by"], control["mode_reason"]) == (mode.value, "kim", "week two")
    assert world.control("ocr").mode is mode
    assert api.get(f"{OCR}/status").json()["control"] == control


def test_a_pin_is_kept_with_who_and_why_and_replaces_the_stage_s(api: ApiClient, world: FakeWorld) -> None:
    body = {"variant": "v4-480", "replicas": 2, "by": "kim", "reason": "the canary is on it"}
    assert api("PUT", f"{OCR}/pins/recognise", json={"batch_size": 1}).status_code == 200
    assert api("PUT", f"{OCR}/pins/detect", json={"cores": 1}).status_code == 200
    control = api("PUT", f"{OCR}/pins/detect", json=body).json()
    assert world.control("ocr").pins == (
        StagePin("recognise", Pin(batch_size=1)),
        StagePin("detect", Pin("v4-480", replicas=2), "the canary is on it", "kim"),
    )
    assert api.get(f"{OCR}/status").json()["control"]["pins"] == control["pins"]
    assert [pin["stage"] for pin in api("DELETE", f"{OCR}/pins/recognise").json()["pins"]] == ["detect"]
    gone = api("DELETE", f"{OCR}/pins/recognise")
    assert (gone.status_code, gone.json()["hint"]) == (404, "Pinned are: detect")


@pytest.mark.parametrize(
    ("stage", "body", "status", "message"),
    [
        ("detekt", {"replicas": 1}, 404, "did you mean 'detect'?"),
        ("nothing-like-it", {"replicas": 1}, 404, "known: detect, recognise"),
        ("detect", {"variant": "v4-48"}, 422, "did you mean 'v4-480'?"),
        ("detect", {}, 422, "variant, batch_size, cores, replicas"),
        ("detect", {"batch_size": 3}, 422, "batch size 3 is not one of"),
        ("detect", {"replicas": 99}, 422, "99 replicas are outside 1 to 8"),
        ("detect", {"cores": 99.0}, 422, "99 cores exceed the budget"),
        ("detect", {"by": "k" * 300, "replicas": 1}, 422, "253"),
    ],
)
def test_a_pin_the_pipeline_cannot_run_is_refused(
    api: ApiClient, world: FakeWorld, stage: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = api("PUT", f"{OCR}/pins/{stage}", json=body)
    assert (answer.status_code, message in answer.text) == (status, True), answer.text
    assert world.control("ocr").pins == ()


def test_a_pin_beside_the_file_s_may_not_contradict_it(world: FakeWorld) -> None:
    pipeline = a_pipeline()
    first, *rest = pipeline.stages
    pinned = replace(pipeline, stages=(replace(first, pin=Pin(batch_size=1)), *rest))
    api = ApiClient(over(world.services(), pipelines={"ocr": pinned}))
    answer = api("PUT", f"{OCR}/pins/{first.name}", json={"batch_size": 2})
    assert answer.json()["errors"][0]["pointer"] == "/batch_size"
    assert api("PUT", f"{OCR}/pins/{first.name}", json={"batch_size": 1, "replicas": 1}).status_code == 200


def test_a_freeze_begins_now_and_ends_by_itself(api: ApiClient, world: FakeWorld) -> None:
    end = (world.clock.now() + timedelta(hours=1)).isoformat()
    (freeze,) = api.post(f"{OCR}/freezes", {"end": end, "by": "kim", "reason": "sales"}).json()["freezes"]
    assert (freeze["active"], freeze["by"], freeze["reason"]) == (True, "kim", "sales")
    world.clock.wait(3599)
    assert api.get(f"{OCR}/status").json()["control"]["freezes"][0]["active"]
    world.clock.wait(1)
    assert api.get(f"{OCR}/status").json()["control"]["freezes"] == []
    later = (world.clock.now() + timedelta(hours=1)).isoformat()
    assert len(api.post(f"{OCR}/freezes", {"end": later}).json()["freezes"]) == 1
    assert len(world.control("ocr").freezes) == 1


@pytest.mark.parametrize("moment", [0, 1.5, True])
def test_a_moment_is_text(api: ApiClient, moment: object) -> None:
    for path, body in (("freezes", {"end": moment}), ("pause", {"until": moment})):
        answer = api.post(f"{OCR}/{path}", body)
        assert answer.status_code == 422
        assert "a time must be text, such as 2026-11-24T12:00:00Z" in answer.text


def test_a_weekly_freeze_comes_again_and_the_same_window_is_one(api: ApiClient, world: FakeWorld) -> None:
    window = {"start": "2026-11-20T18:00:00+02:00", "end": "2026-11-20T20:00:00+02:00", "weekly": True}
    api.post(f"{OCR}/freezes", window)
    (freeze,) = api.post(f"{OCR}/freezes", {**window, "reason": "again"}).json()["freezes"]
    assert (freeze["start"], freeze["reason"]) == ("2026-11-20T16:00:00Z", "again")
    active = []
    for at in ("2026-11-20T15:59:59", "2026-11-27T16:00:00", "2026-11-28T17:00:00", "2026-12-04T17:59:59"):
        world.clock.set_wall(NOW.fromisoformat(f"{at}+00:00"))
        active.append(api.get(f"{OCR}/status").json()["control"]["freezes"][0]["active"])
    assert active == [False, True, False, True]
    assert api("DELETE", f"{OCR}/freezes/{freeze['id']}").json()["freezes"] == []
    gone = api("DELETE", f"{OCR}/freezes/{freeze['id']}")
    assert (gone.status_code, gone.json()["hint"]) == (404, "There are: none")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"end": "2030-01-01T00:00:00"}, "/end"),
        ({"start": "2030-01-02T00:00:00Z", "end": "2030-01-01T00:00:00Z"}, "/end"),
        ({"start": "2030-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"}, "/end"),
        ({"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}, "/end"),
        ({"start": "2020-01-01T00:00:00Z", "end": "2020-01-08T00:00:00Z", "weekly": True}, "/end"),
        ({}, "/end"),
    ],
)
def test_a_freeze_that_makes_no_sense(
    api: ApiClient, world: FakeWorld, body: dict[str, Any], pointer: str
) -> None:
    answer = api.post(f"{OCR}/freezes", body)
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]
    assert world.control("ocr").freezes == ()


# Moments beyond those that arithmetic bears, in their own zone or in UTC.
FAR = (
    "9999999-01-01T00:00Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    "2026-11-20T16:00:00+99:99",
)


@pytest.mark.parametrize("moment", FAR)
def test_moments_out_of_range_are_refused_by_name(
    api: ApiClient, world: FakeWorld, ipa: Ipa, moment: str
) -> None:
    for path, body, key in (
        ("freezes", {"end": moment}, "/end"),
        ("freezes", {"start": moment, "end": "2027-01-01T00:00:00Z"}, "/start"),
        ("freezes", {"end": moment, "weekly": True}, "/end"),
        ("pause", {"until": moment}, "/until"),
    ):
        answer = api.post(f"{OCR}/{path}", body)
        assert answer.status_code in (400, 422), (path, body)
        assert [each["pointer"] for each in answer.json()["errors"]] == [key]
    for verb in (["freeze", "ocr", "--until", moment], ["pause", "ocr", "--until", moment]):
        err = ipa(*verb, code=65).err
        assert "/end" in err or "/until" in err
    assert (world.control("ocr").freezes, world.control("ocr").paused) == ((), False)


def test_freezes_have_a_limit(api: ApiClient) -> None:
    answers = [
        api.post(f"{OCR}/freezes", {"end": (NOW + timedelta(days=day)).isoformat()}).status_code
        for day in range(1, 102)
    ]
    assert answers == [200] * 100 + [422]


def test_two_that_speak_at_once_are_both_heard(api: ApiClient, world: FakeWorld) -> None:
    """Each reads what was said before it adds: without a lock one would be lost."""
    together, plain = Barrier(2, timeout=0.2), world.control

    def slow(pipeline: str) -> PipelineControl:
        controls = plain(pipeline)
        try:
            together.wait()
        except BrokenBarrierError:  # the other one waits its turn, as it should
            together.reset()
        return controls

    world.control = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: api("PUT", f"{OCR}/pins/{name}", json={"replicas": 1}),
                      ("detect", "recognise")))  # fmt: skip
    assert {pin.stage for pin in plain("ocr").pins} == {"detect", "recognise"}


def test_the_verbs_say_it_and_the_status_shows_it(ipa: Ipa, world: FakeWorld) -> None:
    assert ipa("mode", "ocr", "shadow", "--reason", "first week").out == "ocr is shadow\n"
    out = ipa("pin", "ocr", "detect", "--variant", "v4-480", "--reason", "canary").out
    assert out == "detect of ocr is pinned: variant v4-480 by kim: canary\n"
    out = ipa("freeze", "ocr", "--until", "2026-11-25T12:00Z", "--reason", "sales", "--by", "ann").out
    assert f"to {date_time('2026-11-25T12:00:00Z')}, now by ann: sales" in out
    shown = ipa("status", "ocr").out
    for line in (
        "mode shadow",
        "Mode shadow by kim: first week",
        "Pinned detect: variant v4-480 by kim: canary",
        "by ann: sales",
    ):
        assert line in shown
    assert ipa("unpin", "ocr", "detect").out == "detect of ocr is no longer pinned\n"
    assert ipa("unfreeze", "ocr").out == "ocr is not frozen\n"
    assert world.control("ocr") == PipelineControl(Mode.SHADOW, mode_reason="first week", mode_by="kim")


def test_one_of_several_freezes_is_ended_by_its_id(ipa: Ipa) -> None:
    window = ("--from", "2026-12-01T18:00Z", "--until", "2026-12-01T20:00Z", "--weekly", "-o", "json")
    (freeze,) = json.loads(ipa("freeze", "ocr", *window).out)["freezes"]
    ipa("freeze", "ocr", "--until", "2026-11-25T12:00Z")
    out = ipa("unfreeze", "ocr", freeze["id"]).out
    assert f"to {date_time('2026-11-25T12:00:00Z')}, " in out and "every week" not in out
    ipa("unfreeze", "ocr", "nope", code=1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["mode", "ocr", "brave"], 64, "brave"),
        (["pin", "ocr", "detekt", "--replicas", "1"], 1, "did you mean 'detect'?"),
        (["pin", "ocr", "detect"], 65, "nothing is pinned"),
        (["unpin", "ocr", "detect"], 1, "Pinned are: none"),
        (["freeze", "ocr", "--until", "2020-01-01T00:00Z"], 65, "/end"),
        (["freeze", "ocr", "--until", "soon"], 65, "/end"),
        (["freeze", "ocr"], 64, "--until"),
    ],
)
def test_what_makes_no_sense_is_said(ipa: Ipa, words: list[str], code: int, message: str) -> None:
    assert message in ipa(*words, code=code).err
