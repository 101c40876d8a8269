"""R9: a name that one namespace gave away and another one took. Over the real store and service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.api.bodies import PIPELINE, PROFILE
from ipa.api.wiring import make_context
from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.audit.record import verify_lines
from ipa.model.access import Grant, Role
from ipa.model.decision import Action
from ipa.settings import Settings
from tests.contract.store_harness import a_decision
from tests.fakes.services import NOW, ApiClient
from tests.faults.table import Case

NAME = str(PIPELINE["name"])
AT = f"/v1/pipelines/{NAME}"
# Which nothing of a later pipeline of that name has in it.
SECRET = "hushhush"


class Person:
    """Someone with a key."""

    def __init__(self, app: App, api: ApiClient, name: str, grant: Grant) -> None:
        self._api = api
        self.key, token = app.store.keys.create(name, grant, now=NOW)
        self.headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, json: Any = None, **headers: str) -> httpx.Response:
        return self._api(method, path, json=json, headers={**self.headers, **headers})


def served_by(folder: Path) -> App:
    """A service without pipelines of files, over a store in that folder."""
    (folder / "none").mkdir(exist_ok=True)
    settings = Settings(
        pipelines_dir=folder / "none",
        profiles_dir=folder / "none",
        store_url=f"sqlite:///{folder / 'ipa.sqlite3'}",
        auth="keys",
    )
    return build(settings, ServeOptions(folder=folder / "local"))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    served = served_by(tmp_path)
    yield served
    served.close()


def given(namespace: str) -> dict[str, Any]:
    return {**PIPELINE, "seldon": {"name": NAME, "namespace": namespace}}


def tag(person: Person) -> dict[str, str]:
    return {"If-Match": person("GET", AT).headers["etag"]}


def lived(app: App, owner: Person, namespace: str) -> dict[str, str]:
    """The addresses of what a pipeline leaves: decisions, a profile, a plan, a pause."""
    assert owner("POST", "/v1/pipelines", given(namespace)).status_code == 201
    assert owner("PUT", f"{AT}/profiles/{PROFILE['stage']}", PROFILE, **tag(owner)).status_code == 200
    assert owner("POST", f"{AT}/pause", {"reason": SECRET}).status_code == 200
    for tick in range(1, 4):
        of = replace(a_decision(tick, pipeline=NAME, action=Action.APPLY), detail=SECRET)
        app.store.record(replace(of, decision_id=f"{namespace}-{tick}"))
    plan = owner("POST", f"{AT}/plans", {"rate_rps": 1})
    assert plan.status_code == 201, plan.text
    return {
        "plan": plan.headers["location"],
        "tag": plan.headers["etag"],
        "decision": f"/v1/decisions/{namespace}-1",
    }


def rows_seen(person: Person, left: dict[str, str]) -> dict[str, int]:
    """The number of rows of a pipeline that was theirs or another's which a person sees, by where."""
    lists = {
        "decisions": person("GET", f"{AT}/decisions?limit=500").json().get("decisions", []),
        "history": person("GET", f"{AT}/history?limit=500").json().get("decisions", []),
        "profiles": person("GET", f"{AT}/profiles").json() if person("GET", AT).status_code == 200 else [],
    }
    events = person("GET", "/v1/events?after=0&follow=false").text
    one = person("GET", f"/v1/events?after=0&follow=false&pipeline={NAME}").text
    status = person("GET", f"{AT}/status")
    record = person("GET", f"{AT}/record")
    return {
        **{name: len(rows) for name, rows in lists.items()},
        **{name: int(person("GET", left[name]).status_code == 200) for name in ("plan", "decision")},
        "replayed": int(person("POST", f"{left['decision']}:replay", {}).status_code == 200),
        "paged from": int(
            person("GET", f"{AT}/decisions?before={left['decision'].rsplit('/', 1)[1]}").status_code == 200
        ),
        "events": events.count(SECRET) + one.count(SECRET),
        "control": status.text.count(SECRET),
        "record": record.json().get("decisions", 0),
    }


def test_r9_the_next_owner_of_a_name_sees_nothing_of_the_former(case: Case, app: App) -> None:
    api = ApiClient(make_context(app))
    ada = Person(app, api, "ada", Grant(Role.OWNER, "vision"))
    bob = Person(app, api, "bob", Grant(Role.OWNER, "speech"))
    ops = Person(app, api, "ops", Grant(Role.OPERATOR))
    left = lived(app, ada, "vision")
    own = rows_seen(ada, left)
    case.equal(
        "rows the owner sees: kinds without any",
        [name for name, count in own.items() if not count],
        [],
    )
    case.equal("rows another namespace sees meanwhile", sum(rows_seen(bob, left).values()), 0)

    assert ada("DELETE", AT, **tag(ada)).status_code == 200
    case.equal("rows the former owner sees once it is removed", sum(rows_seen(ada, left).values()), 0)
    assert bob("POST", "/v1/pipelines", given("speech")).status_code == 201
    case.equal("rows of the former tenant visible to the next", sum(rows_seen(bob, left).values()), 0)
    case.equal("rows of the former tenant visible to itself", sum(rows_seen(ada, left).values()), 0)
    status = bob("GET", f"{AT}/status").json()["control"]
    case.equal("paused, mode", (status["paused"], status["mode"]), (False, "advisory"))
    sent = {"If-Match": left["tag"], "Idempotency-Key": "1"}
    case.equal("the former plan applied", bob("POST", f"{left['plan']}:apply", {}, **sent).status_code, 404)

    theirs = lived_on(app, bob)
    case.equal("rows of the next one visible to the former", sum(rows_seen(ada, theirs).values()), 0)
    visible = rows_seen(bob, theirs)
    case.equal("decisions of the next one that it sees", (visible["decisions"], visible["record"]), (2, 2))

    export = ops("GET", "/v1/audit").text.splitlines()
    whole = verify_lines(export, {})
    case.equal("records in the operator's export, each whole", len(whole), 2)
    former = next(name for name in whole if whole[name].decisions == 3)
    mine = ops("GET", f"/v1/audit?pipeline={former}").text
    case.at_least("entries of the former one that the operator reads by its record", mine.count(SECRET), 3)
    case.equal("the same for its next owner", bob("GET", f"/v1/audit?pipeline={former}").status_code, 403)


def lived_on(app: App, owner: Person) -> dict[str, str]:
    """The rest that the next pipeline of the name leaves."""
    for tick in range(1, 3):
        of = replace(a_decision(tick, pipeline=NAME, action=Action.APPLY), decision_id=f"next-{tick}")
        app.store.record(of)
    assert owner("POST", f"{AT}/pause", {"reason": SECRET}).status_code == 200
    plan = owner("POST", f"{AT}/plans", {"rate_rps": 1})
    return {
        "plan": plan.headers.get("location", "/v1/plans/none"),
        "decision": "/v1/decisions/next-1",
    }


def test_r9_a_pipeline_that_moves_takes_no_record_along(case: Case, app: App) -> None:
    api = ApiClient(make_context(app))
    both = Person(app, api, "both", Grant(Role.OWNER, "*"))
    bob = Person(app, api, "bob", Grant(Role.OWNER, "speech"))
    left = lived(app, both, "vision")
    assert both("PUT", AT, given("speech"), **tag(both)).status_code == 200
    case.equal("rows visible where it moved to", sum(rows_seen(bob, left).values()), 0)
    record = json.dumps([entry.values for entry in app.store.entries(0, 100)])
    case.at_least("entries kept", record.count(SECRET), 4)


def test_r9_the_record_is_the_same_after_a_restart(case: Case, tmp_path: Path) -> None:
    app = served_by(tmp_path)
    api = ApiClient(make_context(app))
    ada = Person(app, api, "ada", Grant(Role.OWNER, "vision"))
    bob = Person(app, api, "bob", Grant(Role.OWNER, "speech"))
    left = lived(app, ada, "vision")
    ada("DELETE", AT, **tag(ada))
    bob("POST", "/v1/pipelines", given("speech"))
    app.close()

    again = served_by(tmp_path)
    api = ApiClient(make_context(again))
    bob._api = ada._api = api
    case.equal("rows of the former tenant visible", sum(rows_seen(bob, left).values()), 0)
    theirs = lived_on(again, bob)
    visible = rows_seen(bob, theirs)
    case.equal("decisions of its own", (visible["decisions"], visible["record"]), (2, 2))
    again.close()
