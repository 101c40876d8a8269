"""Plans under ids: made, read, applied once, and refused once what they were made from is another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.store import open_store
from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import Action, Decision
from ipa.model.errors import UnavailableError
from tests.fakes.services import ApiClient, FakeWorld, a_profile, over

OCR = "/v1/pipelines/ocr"
INFEASIBLE = {"rate_rps": 5, "sla_s": 0.1}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A world whose plans and answers are in a database."""
    store = open_store(f"sqlite:///{tmp_path}/ipa.sqlite3")
    yield FakeWorld(plans=store.plans, answers=store.answers).play(20)
    store.close()


def made(api: ApiClient, body: dict[str, Any] | None = None) -> httpx.Response:
    answer = api.post(f"{OCR}/plans", body or {"rate_rps": 20})
    assert answer.status_code == 201
    return answer


def apply(api: ApiClient, plan: httpx.Response, key: str | None = "k1", **headers: str) -> httpx.Response:
    """Apply it as it was made; `If_Match` and a body may be others."""
    given = {"If-Match": plan.headers["etag"], **({"Idempotency-Key": key} if key else {})}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return api.post(f"{plan.headers['location']}:apply", {"by": "kim"}, headers=given)


def applied(world: FakeWorld) -> int:
    return sum(
        decision.action is Action.APPLY and "requested" in decision.detail for decision in world.recorded
    )


def test_a_plan_is_kept_with_what_it_was_made_from(api: ApiClient, world: FakeWorld) -> None:
    answer = made(api, {"rate_rps": 20, "sla_s": 0.8})
    plan = answer.json()
    assert answer.headers["location"] == f"/v1/plans/{plan['plan_id']}"
    assert plan["asked"] == {"rate_rps": 20, "sla_s": 0.8}
    assert plan["computed_from"]["revision"] == str(world.applied_tick)
    again = api.get(answer.headers["location"])
    assert (again.json(), again.headers["etag"]) == (plan, answer.headers["etag"])


def test_applying_runs_the_plan_and_says_which(api: ApiClient, world: FakeWorld) -> None:
    plan = made(api)
    answer = apply(api, plan)
    assert answer.status_code == 200
    assert answer.json()["reason"] == "apply.requested"
    assert f"plan {plan.json()['plan_id']}" in answer.json()["detail"]
    assert [config.variant for config in world.recorded[-1].configs] == [
        stage["variant"] for stage in plan.json()["stages"]
    ]


def test_the_same_key_gets_the_same_answer_and_changes_nothing(api: ApiClient, world: FakeWorld) -> None:
    plan = made(api)
    first = apply(api, plan)
    world.play(5)
    again = apply(api, plan)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert applied(world) == 1


def test_a_key_and_a_tag_are_required(api: ApiClient, world: FakeWorld) -> None:
    plan = made(api)
    assert apply(api, plan, key=None).status_code == 400
    assert apply(api, plan, key="k" * 256).status_code == 422
    bare = api.post(f"{plan.headers['location']}:apply", {}, headers={"Idempotency-Key": "k"})
    assert (bare.status_code, bare.json()["code"]) == (428, "http.precondition_required")
    assert apply(api, plan, If_Match="*").status_code == 428
    assert apply(api, plan, If_Match='"other"').status_code == 412
    assert apply(api, plan, If_Match="W/" + plan.headers["etag"]).status_code == 412
    assert applied(world) == 0


def test_a_stale_plan_is_refused_and_names_what_moved(api: ApiClient, world: FakeWorld) -> None:
    services = world.services()
    plan = made(api)
    world.applied_tick += 1
    revision = apply(api, plan)
    assert (revision.status_code, revision.json()["code"]) == (412, "conflict.stale")
    assert [item["pointer"] for item in revision.json()["errors"]] == ["/computed_from/revision"]
    world.applied_tick -= 1
    pipeline = replace(services.service.pipelines["ocr"], description="another")
    moved = ApiClient(
        over(
            services,
            pipelines={"ocr": pipeline},
            profiles={"detect": replace(a_profile("detect"), method="another")},
        )
    )
    answer = apply(moved, plan)
    assert answer.status_code == 412
    assert [item["pointer"] for item in answer.json()["errors"]] == [
        "/computed_from/pipeline_digest",
        "/computed_from/profiles_digest",
    ]
    assert applied(world) == 0
    # Nothing happened under the key, so it is still good for what the plan was made from.
    assert apply(api, plan).status_code == 200


def test_an_infeasible_plan_is_kept_but_not_applied(api: ApiClient, world: FakeWorld) -> None:
    plan = made(api, INFEASIBLE)
    answer = apply(api, plan)
    assert (answer.status_code, answer.json()["code"]) == (409, "hold.infeasible")
    assert answer.json()["hint"] == "Feasible with SLA ≥ 0.31 s"
    assert api.get(answer.json()["type"]).status_code == 200
    assert applied(world) == 0


def test_a_plan_that_there_is_not(api: ApiClient) -> None:
    assert api.get("/v1/plans/nope").status_code == 404
    headers = {"If-Match": '"x"', "Idempotency-Key": "k"}
    assert api.post("/v1/plans/nope:apply", {}, headers=headers).status_code == 404


def test_a_change_that_failed_may_be_sent_again_with_its_key(world: FakeWorld) -> None:
    answers = iter([UnavailableError("the store did not answer"), None])

    def once_not(wanted: ChangeRequest) -> Decision:
        error = next(answers)
        if error:
            raise error
        return world.answer(wanted)

    api = ApiClient(over(world.services(), request=once_not))
    plan = made(api)
    assert apply(api, plan).status_code == 503
    assert apply(api, plan).status_code == 200


class Crash(BaseException):
    """The service is gone: nothing of it runs on."""


@pytest.mark.parametrize("died", ["before the change", "after the change"])
def test_a_key_that_a_crash_left_open_applies_once(
    api: ApiClient, world: FakeWorld, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    plan = made(api)

    def crash(wanted: ChangeRequest) -> Decision:
        if died == "after the change":
            world.answer(wanted)
            world.applied_tick += 1
        raise Crash

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(world.answers, "release", lambda key: None)
        apply(ApiClient(over(world.services(), request=crash)), plan)
    assert apply(api, plan).status_code == 409
    monkeypatch.setattr("ipa.service.plans._HOLDER", "the next run of the service")
    again = apply(api, plan)
    assert again.status_code == 200
    assert again.json()["reason"] == "apply.requested"
    assert again.json()["plan_id"] == plan.json()["plan_id"]
    assert apply(api, plan).content == again.content
    assert applied(world) == 1
