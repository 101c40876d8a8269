"""The verbs that talk to a service: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.cli.layout import date_time
from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.model.decision import Action, ReasonCode
from ipa.model.errors import ConflictError, ForbiddenError, UnavailableError
from ipa.model.plan import Plan, Termination
from ipa.service.service import ChangeOrder, at_revision
from tests.fakes.commands import Ipa
from tests.fakes.services import LADDER, FakeWorld, a_plan

# The ticks that the world has seen.
PLAYED = 60


def test_status_shows_the_pipeline(ipa: Ipa) -> None:
    out = ipa("status", "ocr").out
    for word in ("v4-480", "v6-320", "1/1", "λ", "q95", "mode active", "PAS 0.742", "1.5 cores", "next tick"):
        assert word in out
    assert "\x1b" not in out


def test_status_of_all_is_a_list(ipa: Ipa) -> None:
    assert [each["pipeline"] for each in json.loads(ipa("status", "-o", "json").out)] == ["ocr"]


def test_status_of_a_degraded_pipeline_is_5(ipa: Ipa, world: FakeWorld) -> None:
    world.metrics_fail = True
    world.tick()
    assert "Degraded: hold.metrics_missing: Prometheus did not answer" in ipa("status", "ocr", code=5).out
    ipa("status", "ocr", "-o", "json", code=5)


def test_history_lists_changes_and_with_all_holds_too(ipa: Ipa, world: FakeWorld) -> None:
    changes = [decision for decision in world.recorded if decision.action is Action.APPLY]
    lines = ipa("history", "ocr").out.splitlines()
    assert len(lines) == 1 + len(changes)
    assert changes[-1].decision_id in lines[1] and changes[-1].reason.value in lines[1]
    page = json.loads(ipa("history", "ocr", "--all", "--limit", "7", "-o", "json").out)
    assert len(page["decisions"]) == 7
    older = json.loads(ipa("history", "ocr", "--all", "--before", page["next_before"], "-o", "json").out)
    assert older["decisions"][0]["tick"] == page["decisions"][-1]["tick"] - 1


def test_history_can_be_verified(ipa: Ipa) -> None:
    verdict, head = ipa("history", "ocr", "--verify").out.splitlines()
    assert verdict == "60 decisions of ocr, none of them changed"
    assert re.fullmatch("head to keep elsewhere: 60:[0-9a-f]{64}", head)
    ipa("history", "ocr", "--verify", "--anchor", head.rpartition(" ")[2])


def test_diff_without_a_change(ipa: Ipa) -> None:
    assert "No change." in ipa("diff", "ocr", "--rate", "5", "--detailed-exitcode").out


def test_diff_with_a_change_says_what_it_costs_and_gains(ipa: Ipa) -> None:
    ipa("diff", "ocr", "--rate", "30")
    out = ipa("diff", "ocr", "--rate", "30", "--detailed-exitcode", code=2).out
    for word in (
        "~ detect",
        "v4-480 → v4-320",
        "2 → 8",
        "0.742 → 0.497 (-0.245)",
        "1.5 → 2 (+0.5, +33%) cores",
    ):
        assert word in out
    change = json.loads(ipa("diff", "ocr", "--rate", "30", "-o", "json").out)
    assert change["changed"] and change["stages"][1]["changed"] == ["variant", "batch_size"]


def test_diff_without_a_feasible_plan_is_3_and_says_what_would_help(
    ipa: Ipa, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorld, "plan", infeasible)
    assert "Feasible with cores ≥ 7" in ipa("diff", "ocr", "--rate", "5", code=3).err


def test_diff_and_apply_take_a_plan_from_a_file(ipa: Ipa, world: FakeWorld, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(a_plan(30.0).to_json()))
    ipa("diff", "ocr", "--plan", str(path), "--detailed-exitcode", code=2)
    out = ipa("apply", "ocr", "--plan", str(path), "--reason", "trial").out
    assert "apply.requested: requested by kim: trial" in out
    assert world.recorded[-1].configs == LADDER[3][3]


def test_a_plan_of_another_pipeline_is_refused(ipa: Ipa, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**a_plan(30.0).to_json(), "pipeline": "video"}))
    assert "'video'" in ipa("apply", "ocr", "--plan", str(path), code=65).err


def test_a_plan_the_pipeline_cannot_run_is_refused_with_every_fault(ipa: Ipa, tmp_path: Path) -> None:
    plan = a_plan(30.0).to_json()
    plan["stages"] = [{**stage, "variant": "v9", "batch_size": 3} for stage in plan["stages"]]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    err = ipa("apply", "ocr", "--plan", str(path), code=65).err
    assert err.count("'v9'") == 2 and err.count("batch size 3") == 2


def test_apply_is_refused_when_the_pipeline_moved_meanwhile(
    ipa: Ipa, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = FakeWorld.plan

    async def plan_slowly(self: FakeWorld, *arguments: Any, **options: Any) -> Any:
        self.applied_tick = 1000
        return await planned(self, *arguments, **options)

    monkeypatch.setattr(FakeWorld, "plan", plan_slowly)
    before = len(world.recorded)
    assert '"1000"' in ipa("apply", "ocr", "--rate", "30", code=4).err
    assert len(world.recorded) == before


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ReasonCode.PAUSED, 3),
        (ReasonCode.ADVISORY, 3),
        (ReasonCode.CONFLICT, 4),
        (ReasonCode.IN_PROGRESS, 4),
        (ReasonCode.RBAC, 77),
        (ReasonCode.NO_CHANGE, 0),
    ],
)
def test_a_request_that_was_held_back_is_not_success(
    ipa: Ipa, world: FakeWorld, monkeypatch: pytest.MonkeyPatch, reason: ReasonCode, code: int
) -> None:
    def hold(self: FakeWorld, wanted: Any) -> Any:
        return self._decide(reason, "not now", wanted.configs, rate=1.0)

    monkeypatch.setattr(FakeWorld, "answer", hold)
    first = next(each.decision_id for each in world.recorded if each.action is Action.APPLY)
    ipa("rollback", "ocr", "--to", first, code=code)
    out = ipa("rollback", "ocr", "--to", first, "-o", "json", code=code).out
    assert json.loads(out)["reason"] == reason.value


def test_rollback_goes_back(ipa: Ipa, world: FakeWorld) -> None:
    previous, first = world.recorded[-1].configs, world.recorded[0]
    world.apply(next(rung[3] for rung in LADDER if rung[3] != previous), "requested by ann", "ann")
    revision = world.recorded[-1].tick
    decisions = len(world.recorded)
    out = ipa("rollback", "ocr", "--by", "ann", "--preview").out
    assert len(world.recorded) == decisions
    assert f"It takes back revision {revision}." in out and "stages would change" in out
    assert "stages would change" in ipa("rollback", "ocr", "--by", "ann", "--reason", "slow").out
    assert world.recorded[-1].configs == previous
    assert world.recorded[-1].detail.startswith(f"rollback by ann: slow: takes back revision {revision}: ")
    assert "no change by a person is left to take back" in ipa("rollback", "ocr", "--by", "ann", code=4).err
    out = ipa("history", "ocr").out
    assert "revision" in out and str(revision) in out
    ipa("rollback", "ocr", "--to", "nope", code=1)
    ipa("rollback", "ocr", "--to", first.decision_id)


def test_pause_and_resume(ipa: Ipa, world: FakeWorld) -> None:
    out = ipa("pause", "ocr", "--for", "30min", "--reason", "release").out
    assert f"paused until {date_time('2026-11-24T12:35:00Z')}" in out
    control = world.control("ocr")
    assert (control.paused_by, control.paused_reason) == ("kim", "release")
    assert "Paused until" in ipa("status", "ocr").out
    assert "no longer paused" in ipa("resume", "ocr").out
    # A block of before ends, though no tick saw the pause.
    resumed = world.control("ocr")
    assert not resumed.paused and resumed.resumed_at is not None
    assert "until `ipa resume`" in ipa("pause", "ocr").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["status", "nope"], 1, "There are: ocr"),
        (["pause", "ocr", "--for", "soon"], 64, "'soon'"),
        (["pause", "ocr", "--until", "2020-01-01T00:00Z"], 65, "/until"),
        (["pause", "ocr", "--until", "later"], 65, "/until"),
        (["watch", "ocr", "--until", "bored"], 64, "settled"),
        (["apply", "ocr", "--plan", "/nope.json"], 65, "/nope.json"),
        (["diff", "ocr", "--plan", "/nope.json", "--rate", "3"], 64, "--rate"),
        (["diff", "ocr", "--objective", "nope"], 1, "default, frugal"),
        (["diff", "ocr", "--rate", "-1"], 65, "/rate_rps"),
        (["history", "ocr", "--limit", "0"], 64, "limit"),
        (["status"] + ["ocr"] * 2, 64, "ocr"),
    ],
)
def test_what_makes_no_sense_is_said(ipa: Ipa, words: list[str], code: int, message: str) -> None:
    assert message in ipa(*words, code=code).err


def test_a_service_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--at", "http://127.0.0.1:9"]) == 1
    assert "ipa serve" in capfd.readouterr().err
    for elsewhere in ("somewhere", "kubernetes", "video.yaml"):
        assert run(["status", "--at", elsewhere]) == 64
        assert "is not the URL of a service" in capfd.readouterr().err


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(502, text="gateway")])
def test_something_else_at_that_address(answer: httpx.Response) -> None:
    with (
        HttpClient("http://127.0.0.1:1", httpx.MockTransport(lambda _: answer)) as service,
        pytest.raises(UnavailableError, match="not ipa"),
    ):
        service.names()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, ForbiddenError), (412, ConflictError), (409, ConflictError), (503, UnavailableError)],
)
def test_a_problem_with_a_code_from_tomorrow_goes_by_its_status(status: int, kind: type[Exception]) -> None:
    answer = httpx.Response(status, json={"code": "new.code", "detail": "so", "errors": []})
    with (
        HttpClient("http://127.0.0.1:1", httpx.MockTransport(lambda _: answer)) as service,
        pytest.raises(kind, match="so"),
    ):
        service.names()


@pytest.mark.parametrize("revision", ["", "7"])
def test_a_change_says_which_revision_it_was_made_for_even_if_none_was_seen(revision: str) -> None:
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("If-Match"))
        return httpx.Response(200, json={})

    with HttpClient("http://127.0.0.1:1", httpx.MockTransport(answer)) as service:
        order = ChangeOrder(at_revision(revision), "kim")
        service.apply("ocr", LADDER[0][3], order)
        service.rollback("ocr", None, order)
        service.control("POST", "ocr", "resume")
    assert sent == [f'"{revision}"', f'"{revision}"', None]


async def infeasible(self: FakeWorld, *_: Any, **__: Any) -> Plan:
    """A plan that nothing can run."""
    none = {"objective": None, "bound": None, "pas": None, "cost_cores": None, "latency_s": None}
    return replace(
        a_plan(5.0), termination=Termination.INFEASIBLE, stages=(), relaxations=("cores ≥ 7",), **none
    )
