"""The client of a service, over its REST API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipa.clients.http import HttpClient
from ipa.model.errors import ConflictError, InputError, NotFoundError
from ipa.model.plan import StageConfig
from ipa.service.service import ChangeOrder, at_revision
from tests.fakes.services import FakeWorld, InProcess

AT = "http://127.0.0.1:8080"


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(60)


@pytest.fixture
def client(world: FakeWorld) -> Iterator[HttpClient]:
    with HttpClient(AT, InProcess(world.services())) as made:
        yield made


def configs_of(values: dict[str, Any]) -> tuple[StageConfig, ...]:
    return tuple(StageConfig(**each) for each in values["configs"])


def order_of(client: HttpClient, reason: str) -> ChangeOrder:
    return ChangeOrder(at_revision(client.status("ocr")["live"]["revision"]), "kim", reason)


def test_pages_of_decisions_are_joined_until_the_limit(client: HttpClient) -> None:
    assert client.names() == ["ocr"] and client.at == AT
    newest = client.decisions("ocr", limit=5)
    older = client.decisions("ocr", limit=7, before=newest["next_before"], inputs=False)["decisions"]
    ticks = [each["tick"] for each in (*newest["decisions"], *older)]
    assert ticks == sorted(ticks, reverse=True) and len(set(ticks)) == 12
    assert client.decision(older[0]["decision_id"])["tick"] == older[0]["tick"]
    assert client.replay(older[0]["decision_id"], None)["outcome"]
    assert client.record("ocr", None)["decisions"] >= 12


@pytest.mark.parametrize("rate_rps", [None, 12.0])
def test_a_plan_names_its_configurations(client: HttpClient, rate_rps: float | None) -> None:
    plan = client.plan("ocr", rate_rps, None)
    assert plan["pipeline"] == "ocr" and plan["rate_rps"] > 0
    assert {"termination", "stages", "pas", "relaxations", "solver"} <= set(plan)
    assert [stage["stage"] for stage in plan["stages"]] == ["detect", "recognise"]


def test_apply_runs_the_configurations_and_rollback_takes_them_back(client: HttpClient) -> None:
    before = client.status("ocr")["live"]["stages"]
    decisions = client.decisions("ocr", limit=50, applied_only=True)["decisions"]
    applied = next(each for each in decisions if each["configs"] != [stage["config"] for stage in before])
    decision = client.apply("ocr", configs_of(applied), order_of(client, "a trial"))
    assert decision["action"] == "apply" and "requested by kim: a trial" in decision["detail"]
    assert [stage["config"] for stage in client.status("ocr")["live"]["stages"]] == applied["configs"]
    shown = client.preview_rollback("ocr", None, by="kim")
    assert shown["configs"] == [stage["config"] for stage in before]
    assert [each["decision_id"] for each in shown["takes_back"]] == [decision["decision_id"]]
    back = client.rollback("ocr", None, order_of(client, "slow"))
    assert back["detail"].startswith("rollback by kim: slow")
    assert [each["config"] for each in client.status("ocr")["live"]["stages"]] == [
        each["config"] for each in before
    ]


def test_a_change_for_another_revision_is_refused(client: HttpClient) -> None:
    applied = client.decisions("ocr", limit=1, applied_only=True)["decisions"][0]
    with pytest.raises(ConflictError, match="read it again"):
        client.apply("ocr", configs_of(applied), ChangeOrder(at_revision("another")))
    with pytest.raises(ConflictError, match="read it again"):
        client.rollback("ocr", None, ChangeOrder(at_revision("another")))


def test_what_cannot_run_is_refused_with_all_its_problems(client: HttpClient) -> None:
    wrong = [StageConfig("detect", "none", 1, 1.0, 1), StageConfig("other", "none", 1, 1.0, 1)]
    with pytest.raises(InputError) as caught:
        client.apply("ocr", wrong, order_of(client, ""))
    assert len(caught.value.problems) >= 3


UNKNOWN: dict[str, Callable[[HttpClient], Any]] = {
    "status": lambda client: client.status("none"),
    "decisions": lambda client: client.decisions("none", limit=1),
    "decision": lambda client: client.decision("none"),
    "record": lambda client: client.record("none", None),
    "plan": lambda client: client.plan("none", 1.0, None),
    "objective": lambda client: client.plan("ocr", 1.0, "none"),
    "rollback": lambda client: client.rollback("ocr", "none", order_of(client, "")),
    "definition": lambda client: client.definition("none"),
    "saved plan": lambda client: client.saved_plan("none"),
    "pins": lambda client: client.control("DELETE", "ocr", "pins", "detect"),
    "freezes": lambda client: client.control("DELETE", "ocr", "freezes", "none"),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_what_is_not_there_is_said(call: str, client: HttpClient) -> None:
    with pytest.raises(NotFoundError):
        UNKNOWN[call](client)
