"""The contract of `PipelineClient`, over a service's REST API and over use cases in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipa.clients.http import HttpClient, PipelineClient, service_at
from ipa.clients.in_process import InProcessClient
from ipa.model.errors import ConflictError, InputError, IpaError, NotFoundError, UsageError
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig
from ipa.service.preconditions import ChangeOrder, at_revision
from tests.fakes.services import FakeWorld, InProcess

Make = Callable[[FakeWorld], PipelineClient]
AT = "http://127.0.0.1:8080"


def at_service(world: FakeWorld) -> HttpClient:
    return HttpClient(AT, InProcess(world.services()))


CLIENTS: dict[str, Make] = {
    "http": at_service,
    "in-process": lambda world: InProcessClient(world.services().service, AT),
}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(60)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, world: FakeWorld) -> Iterator[PipelineClient]:
    with CLIENTS[request.param](world) as made:
        yield made


def configs_of(values: dict[str, Any]) -> tuple[StageConfig, ...]:
    return tuple(StageConfig(**each) for each in values["configs"])


def order_of(client: PipelineClient, reason: str) -> ChangeOrder:
    return ChangeOrder(at_revision(client.status("ocr")["live"]["revision"]), "kim", reason)


READS: dict[str, Callable[[PipelineClient], Any]] = {
    "names": lambda client: client.names(),
    "status": lambda client: client.status("ocr"),
    "decisions": lambda client: client.decisions("ocr", limit=7),
    "decisions without inputs": lambda client: client.decisions("ocr", limit=7, inputs=False),
    "history": lambda client: client.decisions("ocr", limit=3, applied_only=True),
    "older decisions": lambda client: client.decisions(
        "ocr", limit=5, before=client.decisions("ocr", limit=5)["next_before"]
    ),
    "record": lambda client: client.record("ocr", None),
    "decision": lambda client: client.decision(
        client.decisions("ocr", limit=1)["decisions"][0]["decision_id"]
    ),
    "replay": lambda client: client.replay(
        client.decisions("ocr", limit=1)["decisions"][0]["decision_id"], None
    ),
    "address": lambda client: (client.at, client.interval_s),
}


@pytest.mark.parametrize("read", READS)
def test_answers_are_the_same_by_either_way(read: str, world: FakeWorld) -> None:
    answers = []
    for make in CLIENTS.values():
        with make(world) as client:
            answers.append(READS[read](client))
    assert answers[0] == answers[1]
    assert answers[0]


@pytest.mark.parametrize("rate_rps", [None, 12.0])
def test_a_plan_names_its_configurations(client: PipelineClient, rate_rps: float | None) -> None:
    plan = client.plan("ocr", rate_rps, None)
    assert plan["pipeline"] == "ocr" and plan["rate_rps"] > 0
    assert {"termination", "stages", "pas", "relaxations", "solver"} <= set(plan)
    assert [stage["stage"] for stage in plan["stages"]] == ["detect", "recognise"]


def test_apply_runs_the_configurations_and_rollback_takes_them_back(client: PipelineClient) -> None:
    before = client.status("ocr")["live"]["stages"]
    found = client.decisions("ocr", limit=50, applied_only=True)["decisions"]
    applied = next(each for each in found if each["configs"] != [stage["config"] for stage in before])
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


def test_a_change_for_another_revision_is_refused(client: PipelineClient) -> None:
    applied = client.decisions("ocr", limit=1, applied_only=True)["decisions"][0]
    with pytest.raises(ConflictError, match="read it again"):
        client.apply("ocr", configs_of(applied), ChangeOrder(at_revision("another")))
    with pytest.raises(ConflictError, match="read it again"):
        client.rollback("ocr", None, ChangeOrder(at_revision("another")))


def test_what_cannot_run_is_refused_with_all_its_problems(client: PipelineClient) -> None:
    wrong = [StageConfig("detect", "none", 1, 1.0, 1), StageConfig("other", "none", 1, 1.0, 1)]
    with pytest.raises(InputError) as caught:
        client.apply("ocr", wrong, order_of(client, ""))
    assert len(caught.value.problems) >= 3


def test_overrides_are_set_and_ended_at_a_service(world: FakeWorld) -> None:
    client = at_service(world)
    said = {"by": "kim", "reason": "a release"}
    control = client.pause("ocr", for_s=60.0, **said)
    assert (control["paused"], control["paused_by"], control["paused_reason"]) == (True, "kim", "a release")
    assert client.status("ocr")["control"]["paused"]
    assert not client.resume("ocr", **said)["paused"]
    assert client.set_mode("ocr", "guarded", **said)["mode"] == "guarded"
    pin = client.pin("ocr", "detect", Pin(replicas=2), **said)["pins"]
    assert [(each["stage"], each["pin"]["replicas"]) for each in pin] == [("detect", 2)]
    assert client.unpin("ocr", "detect", **said)["pins"] == []
    frozen = client.freeze("ocr", start=None, end="2126-01-31T18:00:00+00:00", weekly=False, **said)
    [freeze] = frozen["freezes"]
    assert freeze["active"] and freeze["end"].startswith("2126-01-31T18:00:00")
    assert client.unfreeze("ocr", freeze["id"], **said)["freezes"] == []
    client.freeze("ocr", start=None, end="2126-01-31T18:00:00+00:00", weekly=False, **said)
    assert client.unfreeze("ocr", None, **said)["freezes"] == []


UNKNOWN: dict[str, Callable[[PipelineClient], Any]] = {
    "status": lambda client: client.status("none"),
    "decisions": lambda client: client.decisions("none", limit=1),
    "decision": lambda client: client.decision("none"),
    "record": lambda client: client.record("none", None),
    "plan": lambda client: client.plan("none", 1.0, None),
    "objective": lambda client: client.plan("ocr", 1.0, "none"),
    "rollback": lambda client: client.rollback("ocr", "none", order_of(client, "")),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_what_is_not_there_is_said_alike(call: str, world: FakeWorld) -> None:
    errors: list[IpaError] = []
    for make in CLIENTS.values():
        with make(world) as client, pytest.raises(NotFoundError) as caught:
            UNKNOWN[call](client)
        errors.append(caught.value)
    assert [each.message for each in errors] == [errors[0].message] * 2


AT_A_SERVICE: dict[str, Callable[[HttpClient], Any]] = {
    "unpin": lambda client: client.unpin("ocr", "detect", by="", reason=""),
    "unfreeze": lambda client: client.unfreeze("ocr", "none", by="", reason=""),
    "definition": lambda client: client.definition("none"),
    "profiles": lambda client: client.profiles("none"),
}


@pytest.mark.parametrize("call", AT_A_SERVICE)
def test_a_service_says_what_is_not_there(call: str, world: FakeWorld) -> None:
    with at_service(world) as client, pytest.raises(NotFoundError):
        AT_A_SERVICE[call](client)


def test_a_file_has_nothing_that_only_a_service_does() -> None:
    with pytest.raises(UsageError, match=r"^pause needs a service, and ocr\.yaml is not one"):
        service_at("ocr.yaml", "pause")


@pytest.mark.parametrize("end", ["tomorrow", "2126-01-31T18:00:00"])
def test_a_moment_without_its_offset_is_refused(world: FakeWorld, end: str) -> None:
    client = at_service(world)
    with pytest.raises(InputError):
        client.freeze("ocr", start=None, end=end, weekly=False, by="", reason="")
    with pytest.raises(InputError):
        client.pause("ocr", by="", reason="", until=end)
