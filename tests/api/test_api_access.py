"""The rights: every identity × role × namespace × route, and the answers to those who lack them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import open_store
from ipa.adapters.store.state import KeyIdentities
from ipa.api.app import create_app
from ipa.api.auth import RULES
from ipa.api.bodies import PIPELINE
from ipa.bootstrap.identity import Identities
from ipa.clients.http import HttpClient
from ipa.model.access import EVERYWHERE, Role
from ipa.settings import Settings
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.commands import Ipa
from tests.fakes.kube import FakeKube
from tests.fakes.kube.reviews import User
from tests.fakes.people import (
    GRANTS,
    HIDDEN,
    OTHERS,
    People,
    TwoNamespaces,
    plan_of,
    token,
    two_namespaces,
)
from tests.fakes.services import NOW, ApiClient, InProcess, over

# What the matrix expects is written here once more, in other words than the code's: by method and address.
OPEN = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/",
    "/openapi.json",
    "/problems/{code}",
    "/assets",
)
EVERYWHERE_ALONE = ("/v1/audit",)
OPERATORS_ALONE = ("/v1/configuration",)
RECORD = ("/v1/audit", "/v1/events")
WHAT_IFS = (
    "/plans",
    "/explanations",
    "/frontiers",
    ":replay",
)
# What changes must say.
MADE_FOR = {"If-Match": '"1"', "Idempotency-Key": "k"}
CONFIG = {"stage": "detect", "variant": "v4-320", "batch_size": 1, "cores": 0.5, "replicas": 1}
CONFIGS = [CONFIG, {**CONFIG, "stage": "recognise", "variant": "v6-240"}]
BODIES: dict[str, Any] = {
    "mode": {"mode": "advisory"},
    "plans": {"rate_rps": 5},
    "explanations": {"rate_rps": 5, "solver": "exact"},
    "frontiers": {"rate_rps": 5},
    "{stage}": {"replicas": 1},
    "freezes": {"end": (NOW + timedelta(hours=1)).isoformat()},
    "apply": {"configs": CONFIGS},
}
# Routes that are about the pipeline that their body names: the least role there.
OF_BODY = {
    ("POST", "/v1/pipelines"): "owner",
}
# Identities of the matrix: the role of each in each namespace, "" for none.
PEOPLE: dict[str, dict[str, str]] = {
    "nobody": {},
    "watch-here": {"default": "viewer"},
    "act-here": {"default": "owner"},
    "act-there": {OTHERS: "owner"},
    "watch": {"default": "viewer", OTHERS: "viewer"},
    "act": {"default": "owner", OTHERS: "owner"},
    "ops": {"default": "operator", OTHERS: "operator"},
}
Tokens = dict[str, str]


def by_key(folder: Path) -> Iterator[tuple[Identities, Tokens]]:
    """Keys of a real store."""
    store = open_store(f"sqlite:///{folder / 'keys.sqlite3'}")
    made = {name: store.keys.create(name, grant, now=NOW)[1] for name, grant in GRANTS.items()}
    yield KeyIdentities(store.keys, VirtualClock()), made
    store.close()


def by_cluster(folder: Path) -> Iterator[tuple[Identities, Tokens]]:
    """A cluster's users, over HTTP, with the rights that those roles have by kubectl."""
    owner = ("get", "patch", "create", "update", "delete")
    verbs = {Role.VIEWER: ("get",), Role.OWNER: owner, Role.OPERATOR: owner}
    with FakeKube() as kube:
        reviewer = kube.api.reviewer
        reviewer.tokens = {f"of-{name}": User(name) for name in PEOPLE}
        for name, grant in GRANTS.items():
            place = "" if grant.namespace == EVERYWHERE else grant.namespace
            reviewer.let(name, place, *verbs[grant.role])
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(folder)), 10.0)
        yield (
            KubeIdentities(client, VirtualClock(), SELDON_DEPLOYMENT, SELDON.places_of),
            {name: f"of-{name}" for name in PEOPLE},
        )
        client.close()


WAYS = {"key": by_key, "cluster": by_cluster}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Identities, Tokens]]:
    yield from WAYS[request.param](tmp_path)


@pytest.fixture
def two() -> TwoNamespaces:
    return two_namespaces()


def behind(two: TwoNamespaces, *authenticators: Identities) -> ApiClient:
    return ApiClient(replace(two.services, authenticators=authenticators))


def routes(two: TwoNamespaces) -> list[tuple[str, str]]:
    """Every method and address of the application."""
    return [
        (method, route.path)
        for route in create_app(two.services).router.routes
        for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"})
    ]


def address(path: str, pipeline: str, decision: str) -> str:
    named = path.replace("{pipeline}", pipeline).replace("{decision_id}", decision)
    named = named.replace("{plan_id}", plan_of(pipeline))
    named = named.replace("{stage}", "detect").replace("{freeze}", "none").replace("{code}", "input")
    return f"{named}/app.js" if path == "/assets" else named


def body_of(method: str, path: str, pipeline: str) -> Any:
    if method in ("GET", "DELETE"):
        return None
    if path == "/v1/pipelines":
        namespace = OTHERS if pipeline == HIDDEN else "default"
        return {**PIPELINE, "name": f"new-{namespace}", "seldon": {"name": "new", "namespace": namespace}}
    return BODIES.get(path.rsplit("/", 1)[1], {})


def ask(
    api: ApiClient, method: str, path: str, there: str, sent: str | None, pipeline: str = "ocr"
) -> httpx.Response:
    headers = MADE_FOR if sent is None else {**MADE_FOR, "Authorization": f"Bearer {sent}"}
    return api(method, there, json=body_of(method, path, pipeline), headers=headers)


def plain(answer: httpx.Response) -> tuple[int, str]:
    """The content of an answer, without the request's id and what was asked for."""
    text = json.dumps({**answer.json(), "request_id": ""})
    for name in answer.request.url.path.split("/")[3:4]:
        text = text.replace(name.partition(":")[0], "NAME")
    return answer.status_code, text


def needed(method: str, path: str) -> str:
    return "viewer" if method == "GET" or path.endswith(WHAT_IFS) else "owner"


def is_enough(role: str, wanted: str) -> bool:
    order = ["", "viewer", "owner", "operator"]
    return order.index(role) >= order.index(wanted)


def test_every_route_has_a_rule_and_every_rule_a_route(two: TwoNamespaces) -> None:
    assert sorted(routes(two)) == sorted(RULES)


def test_a_route_without_a_rule_is_refused_to_everyone(two: TwoNamespaces) -> None:
    for authenticators in ((), (People(),)):
        api = ApiClient(replace(two.services, authenticators=authenticators))
        app = create_app(replace(two.services, authenticators=authenticators))
        app.add_api_route("/v1/forgotten", lambda: {"secret": 1}, methods=["GET"])
        api = ApiClient(two.services, app=app)
        answer = api.get("/v1/forgotten", headers={"Authorization": f"Bearer {token('ops')}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "no rule" in answer.json()["detail"]


def test_the_matrix(way: tuple[Identities, Tokens], two: TwoNamespaces) -> None:
    """Identity × role × namespace × route: what is allowed is done, nothing else, and nothing is let out."""
    authenticator, tokens = way
    api, places = behind(two, authenticator), {"default": ("ocr", two.here), OTHERS: (HIDDEN, two.there)}
    wrong: list[str] = []

    @cache
    def about_nothing(person: str, method: str, path: str) -> httpx.Response:
        return ask(api, method, path, address(path, "nothing", "nothing"), tokens.get(person))

    # All of them by keys; whoever else is known is let in by the same gate.
    people = PEOPLE if isinstance(authenticator, KeyIdentities) else ("nobody", "watch-here", "act-there")
    for person in people:
        for method, path in routes(two):
            for namespace, (pipeline, decision) in places.items():
                role = PEOPLE[person].get(namespace, "")
                there = address(path, pipeline, decision)
                answer = ask(api, method, path, there, tokens.get(person), pipeline)
                unknown = None if role or "{" not in path else about_nothing(person, method, path)
                everywhere = len(PEOPLE[person]) == len(places)
                faults = misfits(method, path, role, answer, tokens.get(person), unknown, everywhere)
                if (
                    OTHERS not in PEOPLE[person]
                    and path != "/metrics"
                    # What was asked for may be named.
                    and not ((unknown or (method, path) in OF_BODY) and pipeline == HIDDEN)
                ):
                    faults += ["names what is hidden"] if HIDDEN in answer.text else []
                wrong += [f"{person} {method} {path} of {namespace}: {fault}" for fault in faults]
    assert wrong == []


def misfits(
    method: str,
    path: str,
    role: str,
    answer: httpx.Response,
    sent: str | None,
    unknown: httpx.Response | None,
    everywhere: bool,
) -> list[str]:
    """The faults of the answer to one of that role, beside that to the same of what does not exist."""
    status = answer.status_code
    if path in OPEN:
        wanted: tuple[int, ...] = (200,)
    elif sent is None:
        wanted = (401,)
        if not answer.headers.get("www-authenticate", "").startswith("Bearer"):
            return ["no challenge"]
    elif (path in EVERYWHERE_ALONE and not everywhere) or (path in OPERATORS_ALONE and role != "operator"):
        wanted = (403,)
    elif (method, path) in OF_BODY:
        allowed = is_enough(role, OF_BODY[method, path])
        # What is hidden is as what is not there; that one may not be put there is no secret.
        wanted = (200, 201, 202, 409, 422) if allowed else (403,) if "pipelines" in path else (404, 422)
    elif "{" not in path:
        # 503: this world keeps no record to follow.
        wanted = (200, 503) if path in RECORD else (200,)
    elif not role:
        wanted = (404,)
        if unknown is not None and plain(answer) != plain(unknown):
            return [f"{plain(answer)} is not {plain(unknown)}"]
    elif not is_enough(role, needed(method, path)):
        wanted = (403,)
    else:
        # What the route then says is no matter of who asks: there is no freeze, and the world is a fake.
        wanted = (200, 201, 204, 409, 412, 422)
        if "{freeze}" in path or "{experiment_id}" in path:
            wanted += (404,)
    return [] if status in wanted else [f"{status} {answer.text[:150]}"]


def test_what_is_refused_changes_nothing(two: TwoNamespaces) -> None:
    api, decisions = behind(two, People()), len(two.world.recorded)
    for sent in (None, "nonsense", token("watch"), token("watch-here"), token("act-here")):
        for method, path in routes(two):
            ask(api, method, path, address(path, HIDDEN, two.there), sent, HIDDEN)
    assert (two.world.controls, len(two.world.recorded)) == ({}, decisions)


def test_lists_show_what_may_be_seen(way: tuple[Identities, Tokens], two: TwoNamespaces) -> None:
    authenticator, tokens = way
    api = behind(two, authenticator)
    shown = {}
    for person in GRANTS:
        pipelines = ask(api, "GET", "", "/v1/pipelines", tokens[person]).json()["pipelines"]
        shown[person] = " ".join(each["pipeline"] for each in pipelines)
    both = f"{HIDDEN} ocr"
    assert shown == {
        "watch-here": "ocr",
        "act-here": "ocr",
        "act-there": HIDDEN,
        "watch": both,
        "act": both,
        "ops": both,
    }


def test_who_asks_is_told_what_they_may_and_that_is_so(
    way: tuple[Identities, Tokens], two: TwoNamespaces
) -> None:
    """The rights listed for each pipeline are those that its routes grant; hidden ones are not named."""
    authenticator, tokens = way
    api = behind(two, authenticator)
    for person in GRANTS:
        me = ask(api, "GET", "", "/v1/me", tokens[person]).json()
        visible = {
            name: place for name, place in (("ocr", "default"), (HIDDEN, OTHERS)) if PEOPLE[person].get(place)
        }
        assert {each["pipeline"]: each["namespace"] for each in me["pipelines"]} == visible
        for each in me["pipelines"]:
            for operation, last in (("control", "/pause"), ("apply", "/apply"), ("what-if", "/plans")):
                path = f"/v1/pipelines/{each['pipeline']}{last}"
                refused = ask(api, "POST", last, path, tokens[person]).status_code == 403
                assert refused == (operation not in each["operations"]), (person, path)
        assert ("read" in me["everywhere"]) == (len(PEOPLE[person]) == 2)
        assert me["name"]


def test_an_operator_reads_the_settings_in_effect(
    two: TwoNamespaces, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    services = replace(
        two.services,
        service=replace(
            two.services.service, settings=Settings.from_env({"IPA_PROMETHEUS_TOKEN": "CANARY"}, port=9000)
        ),
        authenticators=(People(),),
    )
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(services)))
    show = ["config", "show", "--changed", "--at", "http://127.0.0.1:8080"]
    monkeypatch.setenv("IPA_TOKEN", token("act"))
    ipa(*show, code=77)
    monkeypatch.setenv("IPA_TOKEN", token("ops"))
    rows = [line.split() for line in ipa(*show).out.splitlines()[1:]]
    assert rows == [
        ["IPA_PORT", "api", "9000", "option"],
        ["IPA_PROMETHEUS_TOKEN", "prometheus", "***", "environment"],
    ]


def test_where_nobody_has_to_say_who_they_are_everything_is_allowed(two: TwoNamespaces) -> None:
    me = behind(two).get("/v1/me").json()
    assert me["name"] == ""
    assert me["everywhere"] == [
        "read",
        "what-if",
        "control",
        "apply",
        "define",
        "replace",
        "remove",
        "operate",
    ]
    assert [each["pipeline"] for each in me["pipelines"]] == [HIDDEN, "ocr"]


def test_a_decision_of_others_is_no_way_in(two: TwoNamespaces) -> None:
    """Neither as the start of a page nor as what to go back to."""
    api, owner = behind(two, People()), {"Authorization": f"Bearer {token('act-here')}"}
    for other in (two.there, "nothing"):
        page = api.get("/v1/pipelines/ocr/decisions", params={"before": other}, headers=owner)
        tag = api.get("/v1/pipelines/ocr/status", headers=owner).headers["etag"]
        made_for = {**owner, "If-Match": tag}
        back = api.post("/v1/pipelines/ocr/rollback", {"to": other}, headers=made_for)
        assert [page.status_code, back.status_code] == [404, 404]
        assert page.json()["detail"] == back.json()["detail"] == f"there is no decision {other!r}"


def test_the_record_of_a_pipeline_is_exported_for_who_may_read_it(two: TwoNamespaces) -> None:
    """The whole record and those of others stay out of sight: `ipa audit NAME` of an owner was refused."""
    api, owner = behind(two, People()), {"Authorization": f"Bearer {token('act-here')}"}
    statuses = [api.get("/v1/audit", params=which, headers=owner).status_code for which in (
        {"pipeline": "ocr"}, {}, {"pipeline": two.there.partition("-")[0]}, {"pipeline": "ocr~1"}
    )]  # fmt: skip
    assert statuses == [200, 403, 404, 403]


def test_who_acted_is_who_asked(two: TwoNamespaces) -> None:
    api, owner = behind(two, People()), {"Authorization": f"Bearer {token('act-here', sub='ada@x')}"}
    claim = {"by": "someone else", "reason": "r"}
    base, ada = "/v1/pipelines/ocr", "kubernetes:ada@x"
    assert api.post(f"{base}/pause", claim, headers=owner).json()["paused_by"] == ada
    moded = api("PUT", f"{base}/mode", json={"mode": "active", **claim}, headers=owner).json()
    pinned = api("PUT", f"{base}/pins/detect", json={"replicas": 1, **claim}, headers=owner).json()
    ends = {"end": (two.world.clock.now() + timedelta(hours=1)).isoformat()}
    frozen = api.post(f"{base}/freezes", {**ends, **claim}, headers=owner).json()
    tag = {"If-Match": api.get(f"{base}/status", headers=owner).headers["etag"]}
    applied = api.post(f"{base}/apply", {"configs": CONFIGS, **claim}, headers=owner | tag).json()
    back = api.post(f"{base}/rollback", claim, headers=owner | tag).json()
    plan = api.post(f"{base}/plans", {"rate_rps": 5}, headers=owner)
    once = {"If-Match": plan.headers["etag"], "Idempotency-Key": "k"}
    planned = api.post(f"{plan.headers['location']}:apply", claim, headers=owner | once).json()
    assert planned["detail"].startswith(f"requested by {ada}: r; plan ")
    given = api.post("/v1/pipelines", PIPELINE, headers=owner, params={"by": "someone else"})
    assert given.status_code == 201
    assert two.world.written[-1].values["by"] == ada
    assert [moded["mode_by"], pinned["pins"][0]["by"], frozen["freezes"][0]["by"]] == [ada] * 3
    assert (
        applied["detail"].startswith(f"requested by {ada}: r") and f"rollback by {ada}: r" in back["detail"]
    )


def test_where_nobody_has_to_say_who_they_are_their_word_counts(two: TwoNamespaces) -> None:
    api = behind(two)
    assert api.post("/v1/pipelines/ocr/pause", {"by": "ada"}).json()["paused_by"] == "ada"


def test_every_body_says_who_asks_in_one_way(two: TwoNamespaces) -> None:
    """A new route whose body has `by` must take it from the identity: it is of the kind that is signed."""
    schemas = create_app(two.services).openapi()["components"]["schemas"]
    bodies = {
        name for name, it in schemas.items() if name.endswith("Body") and "by" in it.get("properties", {})
    }
    assert bodies == {
        "ApplyBody",
        "ApplyPlanBody",
        "FreezeBody",
        "ModeBody",
        "PauseBody",
        "PinBody",
        "RollbackBody",
    }


def test_what_is_open_tells_no_pipeline_to_those_who_do_not_say_who_they_are(two: TwoNamespaces) -> None:
    from ipa.service.service import DependencyCheck

    checks = (
        DependencyCheck("store", True, required=True),
        DependencyCheck("ocr", True),
        DependencyCheck(HIDDEN, False, "metrics: secret"),
    )
    services = replace(over(two.services, health=lambda: checks), authenticators=(People(),))
    api = ApiClient(services)
    sent = {name: {"Authorization": f"Bearer {token(name)}"} for name in ("ops", "watch-here")}

    def names(**options: Any) -> list[str]:
        return [it["name"] for it in api.get("/readyz?verbose", **options).json()["checks"]]

    assert names() == names(headers={"Authorization": "Bearer x"}) == []
    assert names(headers=sent["watch-here"]) == ["store", "ocr"]
    assert names(headers=sent["ops"]) == ["store", "ocr", HIDDEN]


def test_metrics_may_be_closed(two: TwoNamespaces) -> None:
    api = ApiClient(replace(two.services, metrics_open=False, authenticators=(People(),)))
    statuses = {
        name: api.get("/metrics", headers={"Authorization": f"Bearer {token(name)}"}).status_code
        for name in ("watch", "ops", "watch-here", "act-there")
    }
    assert api.get("/metrics").status_code == 401
    assert statuses == {"watch": 200, "ops": 200, "watch-here": 403, "act-there": 403}


def test_a_pipeline_of_others_is_neither_seen_nor_replaced(two: TwoNamespaces) -> None:
    api = ApiClient(replace(two.world.services(), authenticators=(People(),)))
    owner = {"Authorization": f"Bearer {token('act-there')}"}
    mine = {**PIPELINE, "seldon": {"name": "mine", "namespace": OTHERS}}
    assert api.post("/v1/pipelines", {**mine, "name": "ocr"}, headers=owner).status_code == 403
    tag = {"If-Match": api.post("/v1/pipelines", mine, headers=owner).headers["etag"]}
    # Nor is one's own put among those of others.
    other = {**PIPELINE, "seldon": {"name": "mine", "namespace": "default"}}
    assert api("PUT", "/v1/pipelines/captions", json=other, headers=owner | tag).status_code == 403
    assert api("DELETE", "/v1/pipelines/captions", headers=owner | tag).status_code == 200


def test_a_key_of_a_request_is_its_senders_own(two: TwoNamespaces) -> None:
    api = behind(two, People())
    answers = []
    for name in ("ada", "bob"):
        person = {"Authorization": f"Bearer {token('act-here', sub=name)}"}
        plan = api.post("/v1/pipelines/ocr/plans", {"rate_rps": 5}, headers=person)
        once = {"If-Match": plan.headers["etag"], "Idempotency-Key": "the same"}
        answers.append(api.post(f"{plan.headers['location']}:apply", {}, headers=person | once))
    assert [each.status_code for each in answers] == [200, 200]
    assert "bob" in answers[1].json()["detail"]
