"""Decisions taken again over the API and with `ipa replay`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.api.context import ApiContext
from ipa.api.limits import ApiLimits
from ipa.clients.http import HttpClient
from ipa.control.audit.replay import Replayer
from ipa.model.decision import Action, Decision
from tests.fakes.children import run_process
from tests.fakes.commands import Ipa
from tests.fakes.services import ApiClient, FakeWorld, InProcess, a_pipeline, over
from tests.fakes.viewed import again, decided, taken

# In one process: the decisions are made once.
pytestmark = pytest.mark.xdist_group("taken")


@pytest.fixture
def world() -> FakeWorld:
    return taken()


@pytest.fixture
def services(world: FakeWorld) -> ApiContext:
    return again(world)


@pytest.fixture
def api(services: ApiContext) -> ApiClient:
    return ApiClient(services)


@pytest.fixture
def contexts(services: ApiContext) -> list[ApiContext]:
    """The command's requests; tests may put another in its place."""
    return [services]


@pytest.fixture
def ipa(contexts: list[ApiContext], ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> Ipa:
    """`ipa replay` against the services."""
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(contexts[0])))
    return partial(ipa, "replay", "ocr")


def a_change() -> Decision:
    return next(it for it in reversed(decided()) if it.action is Action.APPLY and it.plan)


def test_a_decision_is_taken_again(api: ApiClient) -> None:
    decision = a_change()
    for body in (None, {}, {"policy": "ours"}):
        replayed = api.post(f"/v1/decisions/{decision.decision_id}:replay", body).json()
        assert (replayed["outcome"], replayed["policy"], replayed["differences"]) == ("same", "ours", [])
        assert (
            replayed["again"]["inputs"] == "" and replayed["again"]["inputs_digest"] == decision.inputs_digest
        )
        assert replayed["again"]["detail"] == decision.detail
    other = api.post(f"/v1/decisions/{decision.decision_id}:replay", {"policy": "rim"}).json()
    assert other["outcome"] == "differs" and other["differences"]


@pytest.mark.parametrize(
    ("decision_id", "body", "status", "code"),
    [
        ("nope", {}, 404, "not_found"),
        ("", {"policy": "nope"}, 422, "input"),
        ("", {"policy": "infadapter"}, 400, "usage"),
        ("", {"police": "hpa"}, 422, "input"),
    ],
)
def test_refusals_are_problems(
    api: ApiClient, decision_id: str, body: dict[str, str], status: int, code: str
) -> None:
    answer = api.post(f"/v1/decisions/{decision_id or a_change().decision_id}:replay", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if code == "input":
        assert answer.json()["errors"][0]["pointer"].startswith("/polic")


def test_it_takes_a_place_of_a_solve_and_no_more_time_than_it_has(
    world: FakeWorld, services: ApiContext
) -> None:
    address = f"/v1/decisions/{a_change().decision_id}:replay"
    full = replace(services, limits=ApiLimits(solves=0, waiting=0))
    assert ApiClient(full).post(address).status_code == 429
    slow = over(services, replayer=Replayer(world, within_s=0.0))
    assert ApiClient(slow).post(address).json()["code"] == "deadline"
    few = replace(services, limits=ApiLimits(rate_rps=0.01))
    api = ApiClient(few)
    assert [api.post(address).status_code for _ in range(2)] == [200, 429]


def test_the_newest_are_listed_with_what_came_of_them(ipa: Ipa, world: FakeWorld) -> None:
    lines = ipa("--limit", "7").out.splitlines()
    for decision, line in zip(reversed(world.recorded[-7:]), lines[1:8], strict=True):
        assert decision.decision_id in line and decision.reason.value in line and "same" in line
    assert lines[8:] == ["7 decisions: 7 same"]
    pairs = json.loads(ipa("--limit", "3", "--before", world.recorded[-5].decision_id, "-o", "json").out)
    assert [each["decision"]["decision_id"] for each in pairs] == [
        it.decision_id for it in reversed(world.recorded[-8:-5])
    ]
    assert {each["replayed"]["outcome"] for each in pairs} == {"same"}


def test_one_that_differs_is_2_with_every_difference(
    ipa: Ipa, world: FakeWorld, contexts: list[ApiContext]
) -> None:
    at = world.recorded.index(a_change())
    decision = world.recorded[at]
    assert decision.plan is not None
    world.recorded[at] = replace(decision, plan=replace(decision.plan, pas=0.5))
    out = ipa(decision.decision_id, "--certificate", code=2).out
    assert "plan.pas" in out and "0.5" in out and f"{decision.plan.pas:.3f}" in out
    out = ipa("--limit", "30", code=2).out
    assert "differs: plan.pas 0.5 → " in out and "30 decisions: 29 same, 1 differs" in out


def test_what_cannot_be_told_is_4(ipa: Ipa, world: FakeWorld, contexts: list[ApiContext]) -> None:
    other = replace(a_pipeline(), description="another")
    contexts[0] = over(contexts[0], pipelines={"ocr": other})
    out = ipa("--limit", "2", code=4).out
    assert "cannot be told: the pipeline has changed since" in out
    assert "2 decisions: 2 cannot be told" in out
    ipa("--policy", "hpa", "--first", code=4)
    world.record(replace(a_change(), decision_id="ocr-99-old", tick=99, inputs="", inputs_digest=""))
    contexts[0] = again(world)
    # Asked for by name there is an answer wanted; among others it does not count.
    ipa("ocr-99-old", code=4)
    assert ipa("--limit", "2").out.splitlines()[-1] == "2 decisions: 1 same, 1 nothing to replay"


def test_another_policy_is_listed_where_it_decides_otherwise(ipa: Ipa) -> None:
    out = ipa("--policy", "rim", "--limit", "30", "-o", "json", code=2).out
    parted = [each for each in json.loads(out) if each["replayed"]["outcome"] == "differs"]
    out = ipa("--policy", "rim", "--limit", "30", code=2).out
    assert len(parted) > 5 and f"rim would have decided {len(parted)} of 30 differently" in out
    assert out.count("differs: ") == len(parted)
    assert all(each["decision"]["decision_id"] in out for each in parted)


def test_the_first_where_two_policies_part_has_both_plans(ipa: Ipa, world: FakeWorld) -> None:
    words = ("--policy", "rim", "--limit", "30")
    pairs = json.loads(ipa(*words, "-o", "json", code=2).out)
    parted = [it["decision"]["tick"] for it in pairs if it["replayed"]["outcome"] == "differs"]
    first: Any = yaml.safe_load(ipa(*words, "--first", "-o", "yaml", code=2).out)
    assert first["decision"]["tick"] == min(parted)
    out = ipa(*words, "--first", code=2).out
    for plan in (first["decision"]["plan"], first["replayed"]["again"]["plan"]):
        for stage in plan["stages"]:
            assert f"{stage['variant']} b{stage['batch_size']}" in out
        assert f"{plan['cost_cores']:g} cores" in out
    # Where they never part.
    out = ipa("--policy", "ours", "--first", "--limit", "5").out
    assert out == "ours decides the same in all 5 decisions that could be replayed\n"


def test_a_certificate_is_verified_without_the_service(ipa: Ipa, tmp_path: Path) -> None:
    file, text = tmp_path / "decision.json", ipa(a_change().decision_id, "--certificate").out
    values = json.loads(text)
    values["plans"][0]["latency_s"] = 0.1
    for content, code, words in ((text, 0, "verified"), (json.dumps(values), 2, "by arithmetic, not 0.1")):
        file.write_text(content)
        run = run_process([Path(sys.executable).with_name("ipa"), "verify", file], cwd=tmp_path)
        assert run.returncode == code and words in run.stdout, run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--first"], 64, "--first needs a second policy"),
        (["x", "--first", "--policy", "hpa"], 64, "takes no ID"),
        (["--certificate"], 64, "--certificate needs the ID of a decision"),
        (["nope"], 1, "there is no decision 'nope'"),
        (["--policy", "nope"], 65, "there is no policy 'nope'"),
        (["--policy", "infadapter"], 64, "cannot be planned as a set"),
    ],
)
def test_what_makes_no_sense_is_said(ipa: Ipa, words: list[str], code: int, message: str) -> None:
    assert message in ipa(*words, code=code).err


def test_a_decision_of_another_pipeline_is_not_taken_for_one_of_this(ipa: Ipa, world: FakeWorld) -> None:
    world.record(replace(a_change(), decision_id="video-1-x", pipeline="ocr@hpa"))
    assert "is a decision of pipeline 'ocr@hpa', not of 'ocr'" in ipa("video-1-x", code=64).err
