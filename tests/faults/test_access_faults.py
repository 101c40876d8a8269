"""Requests of people who are not who they say, may not what they ask, or come by a page of others."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ipa.adapters.identity.reviews import KEEP_S, KubeIdentities
from ipa.adapters.store import Store
from ipa.adapters.store import state as key_store
from ipa.adapters.store.state import KeyIdentities
from ipa.model.access import Grant, Operation, Role
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.section import SeldonTarget
from ipa.targets.seldon.target import SELDON
from tests.fakes.bad_tokens import bad_tokens
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.reviews import User
from tests.fakes.people import (
    HIDDEN,
    OTHERS,
    People,
    token,
    two_namespaces,
)
from tests.fakes.services import NOW, ApiClient, FakeWorld, a_pipeline, over
from tests.faults.table import Case

LIST = "/v1/pipelines"
PAUSE = "/v1/pipelines/ocr/pause"
# A verb for each kind of operation, and what it is sent to.
ASKED = (("GET", LIST), ("GET", f"{LIST}/ocr/status"), ("POST", f"{LIST}/ocr/plans"), ("POST", PAUSE))


def behind(world: FakeWorld, *authenticators: Any) -> ApiClient:
    return ApiClient(replace(world.services(), authenticators=authenticators))


def test_h1_tokens_that_do_not_hold(case: Case, store: Store, kube: FakeKube, connect: Any) -> None:
    world, clock = FakeWorld().play(5), VirtualClock()
    made = {
        name: store.keys.create(name, Grant(Role.OPERATOR), now=clock.now(), expires_at=ends)
        for name, ends in (("expired", clock.now()), ("revoked", None), ("good", None))
    }
    store.keys.revoke(made["revoked"][0].key_id, now=clock.now())
    tokens = bad_tokens() | {
        f"a key that is {name}": key for name, (_, key) in made.items() if name != "good"
    }
    good = made["good"][1]
    tokens["a good key with another end"] = f"{good[:-2]}AA"
    tokens["a good key's id alone"] = good[:16]
    reviewer = kube.api.reviewer
    reviewer.tokens["hers"] = User("ada")
    reviewer.let("ada", "default", "get")
    by_cluster = KubeIdentities(connect(clock=clock), clock, SELDON_DEPLOYMENT, SELDON.places_of)
    api = behind(world, KeyIdentities(store.keys, clock), by_cluster)
    headers: list[tuple[str, list[tuple[str, str]]]] = [
        (name, [("Authorization", f"Bearer {it}")]) for name, it in tokens.items()
    ]
    headers += [
        ("another scheme", [("Authorization", f"Basic {good}")]),
        ("two of them", [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]),
        ("a list", [("Authorization", f"Bearer {good}, Bearer {good}")]),
    ]
    let_in, answers = [], Counter[tuple[str, str]]()
    for name, sent in headers:
        for method, path in ASKED:
            answer = api(method, path, json=None if method == "GET" else {}, headers=sent)
            if answer.status_code != 401:
                let_in.append(f"{name}: {method} {path}: {answer.status_code}")
            body = {**answer.json(), "request_id": ""}
            answers[json.dumps(body), answer.headers.get("www-authenticate", "")] += 1
    case.note("requests", len(headers) * len(ASKED))
    case.equal("let in", let_in, [])
    case.equal("different answers", len(answers), 1)
    for name, it in (("a good token", "hers"), ("a good key", good)):
        response = api.get(LIST, headers={"Authorization": f"Bearer {it}"})
        case.equal(f"{name} is let in", response.status_code, 200)
    case.equal("without any: challenge", api.get(LIST).headers["www-authenticate"], 'Bearer realm="ipa"')
    case.equal("changes", world.controls, {})


def test_h1_unknown_and_bad_take_the_same_way(
    case: Case, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same reads of the store and the same comparison, so the time says nothing of what exists."""
    from sqlalchemy import event

    _, good = store.keys.create("ada", Grant(Role.OWNER, "default"), now=NOW)
    steps: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda *it: steps.append(str(it[2])))

    def compare(a: str, b: str) -> bool:
        steps.append(f"compare {len(a)} {len(b)}")
        return a == b

    monkeypatch.setattr(key_store.hmac, "compare_digest", compare)
    ways = []
    for it in (f"ipa_{'0' * 12}_{'A' * 43}", f"{good[:-3]}AAA", good):
        steps.clear()
        is_found = store.keys.find(it) is not None
        ways.append((tuple(steps), is_found))
    case.note("steps", len(ways[0][0]))
    case.equal("different ways", len({steps for steps, _ in ways}), 1)
    case.equal("found", [is_found for _, is_found in ways], [False, False, True])


def test_h2_other_namespaces_and_verbs(case: Case, kube: FakeKube, connect: Any) -> None:
    two, reviewer = two_namespaces(), kube.api.reviewer
    reviewer.tokens = {"hers": User("ada", groups=("vision-team",)), "his": User("bob")}
    reviewer.let("vision-team", OTHERS, "get", "patch")
    reviewer.let("bob", "default", "get")
    # What is no right to see or change a pipeline.
    reviewer.let("bob", "default", "patch", resource="pods")
    api = ApiClient(
        replace(
            two.services,
            authenticators=(KubeIdentities(connect(), VirtualClock(), SELDON_DEPLOYMENT, SELDON.places_of),),
        )
    )
    bodies = {"pause": {}, "resume": {}, "mode": {"mode": "active"}, "rollback": {}, "plans": {"rate_rps": 5}}
    reads = writes = 0
    statuses: dict[str, set[int]] = {"ada at hers": set(), "ada at default": set(), "bob at his": set()}
    for who, sent, name in (
        ("ada at hers", "hers", HIDDEN),
        ("ada at default", "hers", "ocr"),
        ("bob at his", "his", "ocr"),
    ):
        for path in (
            "",
            "/status",
            "/history",
            "/record",
            "/pause",
            "/resume",
            "/mode",
            "/rollback",
            "/plans",
        ):
            verb = path.strip("/")
            method = "PUT" if verb == "mode" else "POST" if verb in bodies else "GET"
            answer = api(
                method,
                f"{LIST}/{name}{path}",
                json=bodies.get(verb),
                headers={"Authorization": f"Bearer {sent}"},
            )
            is_write = method != "GET" and verb != "plans"
            statuses[who].add(answer.status_code)
            if who == "ada at default" and answer.status_code != 404:
                reads, writes = reads + (not is_write), writes + is_write
            done = 403 if is_write else 201 if verb == "plans" else 200
            if who == "bob at his" and answer.status_code != done:
                writes += is_write
                reads += not is_write
    case.equal("cross-namespace reads", reads, 0)
    case.equal("cross-namespace or forbidden writes", writes, 0)
    case.equal("elsewhere", statuses["ada at default"], {404})
    case.equal("a verb that is not allowed", statuses["bob at his"], {200, 201, 403})
    case.equal("at home", 403 in statuses["ada at hers"] or 404 in statuses["ada at hers"], False)
    attributes = [
        it.body["spec"]["resourceAttributes"] for it in kube.requests if it.resource == "subjectaccessreviews"
    ]
    verbs = {(it["group"], it["resource"], it["verb"]) for it in attributes}
    group = "machinelearning.seldon.io"
    case.equal("reviews", verbs, {(group, "seldondeployments", "get"), (group, "seldondeployments", "patch")})


BREAKS: dict[str, dict[str, Any]] = {
    "500": {"kind": FaultKind.STATUS, "status": 500, "reason": "InternalError"},
    "429": {"kind": FaultKind.STATUS, "status": 429, "reason": "TooManyRequests"},
    "403": {"kind": FaultKind.STATUS, "status": 403, "reason": "Forbidden"},
    "401": {"kind": FaultKind.STATUS, "status": 401, "reason": "Unauthorized"},
    "404": {"kind": FaultKind.STATUS, "status": 404, "reason": "NotFound"},
    "slow": {"kind": FaultKind.HANG},
    "reset": {"kind": FaultKind.RESET},
    "half an answer": {"kind": FaultKind.TRUNCATED},
    "HTML": {"kind": FaultKind.HTML},
    "another kind": {"kind": FaultKind.WRONG_KIND},
}


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("resource", ["tokenreviews", "subjectaccessreviews"])
def test_h3_reviews_that_fail(case: Case, kube: FakeKube, connect: Any, resource: str, fault: str) -> None:
    """Writes are granted by fresh answers alone; reads for 60 s by the last one."""
    world, clock, reviewer = FakeWorld().play(5), VirtualClock(), kube.api.reviewer
    reviewer.tokens["hers"] = User("ada")
    reviewer.let("ada", "default", "get", "patch")
    api = behind(world, KubeIdentities(connect(0.5, clock=clock), clock, SELDON_DEPLOYMENT, SELDON.places_of))
    hers = {"Authorization": "Bearer hers"}
    case.equal(
        "before: read, write",
        [api.get(LIST, headers=hers).status_code, api.post(PAUSE, {}, headers=hers).status_code],
        [200, 200],
    )
    world.controls.clear()
    for _ in range(40):
        kube.fault(**BREAKS[fault], resource=resource, verb="create")
    writes = [api.post(PAUSE, {}, headers=hers).status_code for _ in range(2)]
    case.equal("writes granted", [status for status in writes if status < 400] or len(world.controls), 0)
    case.equal("writes are answered", set(writes), {503})
    clock.wait(KEEP_S - 1.0)
    case.equal("reads within 60 s", api.get(LIST, headers=hers).status_code, 200)
    clock.wait(2.0)
    case.equal("reads after 60 s", api.get(LIST, headers=hers).status_code, 503)
    case.equal(
        "strangers", api.get(LIST, headers={"Authorization": "Bearer x"}).status_code in (401, 503), True
    )
    kube.faults.faults.clear()
    clock.wait(120.0)
    case.equal("once it answers again", api.post(PAUSE, {}, headers=hers).status_code, 200)


def test_h2_a_right_to_some_objects_is_one_to_those_pipelines(
    case: Case, kube: FakeKube, connect: Any
) -> None:
    """`resourceNames` in a role: the API server says no to whoever asks of all."""
    reviewer = kube.api.reviewer
    pipeline = replace(a_pipeline(), targets={"seldon": SeldonTarget("ocr-deployed")})
    services = over(FakeWorld().play(5).services(), pipelines={"ocr": pipeline})
    reviewer.tokens["hers"] = User("ada")
    reviewer.let("ada", "default", "get")
    reviewer.let("ada", "default", "patch", name="another")
    clock = VirtualClock()
    by_cluster = KubeIdentities(connect(), clock, SELDON_DEPLOYMENT, SELDON.places_of)
    api, hers = ApiClient(replace(services, authenticators=(by_cluster,))), {"Authorization": "Bearer hers"}

    def shown() -> set[str]:
        (mine,) = api.get("/v1/me", headers=hers).json()["pipelines"]
        return {each for each in mine["operations"] if each in ("apply", "control")}

    def applied() -> int:
        plan = api.post("/v1/pipelines/ocr/plans", {"rate_rps": 2.0}, headers=hers)
        tags = {"If-Match": plan.headers["ETag"], "Idempotency-Key": uuid4().hex}
        return api.post(f"{plan.headers['Location']}:apply", {}, headers={**hers, **tags}).status_code

    refused = (api.post(PAUSE, {}, headers=hers).status_code, applied(), shown())
    case.equal("with a right to another's", refused, (403, 403, set()))
    reviewer.let("ada", "default", "patch", name="ocr-deployed")
    # What was refused is remembered for reads.
    clock.wait(KEEP_S + 1)
    granted = (applied(), api.post(PAUSE, {}, headers=hers).status_code, shown())
    case.equal("with a right to the pipeline's own", granted, (200, 200, {"apply", "control"}))


def test_h3_a_right_that_is_taken_away(case: Case, kube: FakeKube, connect: Any) -> None:
    world, clock, reviewer = FakeWorld().play(5), VirtualClock(), kube.api.reviewer
    reviewer.tokens["hers"] = User("ada")
    reviewer.let("ada", "default", "get", "patch")
    api, hers = (
        behind(world, KubeIdentities(connect(clock=clock), clock, SELDON_DEPLOYMENT, SELDON.places_of)),
        {"Authorization": "Bearer hers"},
    )
    assert api.post(PAUSE, {}, headers=hers).status_code == 200
    reviewer.rights.clear()
    case.equal("the next write", api.post(PAUSE, {}, headers=hers).status_code, 403)
    case.equal("a read within 60 s", api.get(f"{LIST}/ocr", headers=hers).status_code, 200)
    clock.wait(KEEP_S + 1.0)
    case.equal("a read after 60 s", api.get(f"{LIST}/ocr", headers=hers).status_code, 404)
    reviewer.let("ada", "default", "get", "patch")
    del reviewer.tokens["hers"]
    case.equal("the next write with a token that ended", api.post(PAUSE, {}, headers=hers).status_code, 401)


def test_h3_a_token_that_was_made_for_others(case: Case, kube: FakeKube, connect: Any) -> None:
    """An audience that the cluster does not vouch for is none."""
    reviewer, clock = kube.api.reviewer, VirtualClock()
    reviewer.tokens = {"ours": User("ada", audiences=("ipa",)), "vault's": User("ada", audiences=("vault",))}
    ours = KubeIdentities(connect(clock=clock), clock, SELDON_DEPLOYMENT, SELDON.places_of, "ipa")
    case.equal("for us", getattr(ours.identify("ours", fresh=True), "name", None), "kubernetes:ada")
    case.equal("for others", ours.identify("vault's", fresh=True), None)
    reviewer.knows_audiences = False
    case.equal("from one that knows no audiences", ours.identify("ours", fresh=True), None)


def test_h3_a_store_that_does_not_answer(case: Case, store: Store, tmp_path: Path) -> None:
    world, clock = FakeWorld().play(5), VirtualClock()
    _, good = store.keys.create("ada", Grant(Role.OPERATOR), now=clock.now())
    api, hers = behind(world, KeyIdentities(store.keys, clock)), {"Authorization": f"Bearer {good}"}
    case.equal("before", api.post(PAUSE, {}, headers=hers).status_code, 200)
    world.controls.clear()
    store.close()
    for path in tmp_path.glob("keys.sqlite3*"):
        path.rename(f"{path}.gone")
    statuses = [api(method, path, json={}, headers=hers).status_code for method, path in ASKED]
    case.equal("let in", [status for status in statuses if status != 503], [])
    case.equal("changes", world.controls, {})


def test_h9_pages_of_others(case: Case) -> None:
    world = FakeWorld().play(5)
    findings: list[str] = []
    good = {"Authorization": f"Bearer {token('ops')}"}
    for kind, api in (("open", behind(world)), ("authenticated", behind(world, People()))):
        evil = {"Origin": "http://evil.example", **good}
        form = {**evil, "Content-Type": "application/x-www-form-urlencoded"}
        sent = {
            "a form of another page": api("POST", PAUSE, content=b"reason=x", headers=form),
            "a request of another page": api("POST", PAUSE, json={}, headers=evil),
            "a sandboxed page": api("POST", PAUSE, json={}, headers={**good, "Origin": "null"}),
        }
        findings += [f"{kind}: {name} {it.status_code}" for name, it in sent.items() if it.status_code != 403]
        for path in ("/", LIST, "/metrics"):
            answer = api.get(path, headers=evil)
            allowed = [it for it in answer.headers if it.startswith("access-control-")]
            policy = answer.headers["content-security-policy"]
            framed = "frame-ancestors 'none'" not in policy or "default-src 'none'" not in policy
            cookies = "set-cookie" in answer.headers
            findings += [f"{kind}: {path}"] if allowed or framed or cookies or "unsafe" in policy else []
        preflight = api("OPTIONS", PAUSE, headers={**evil, "Access-Control-Request-Method": "POST"})
        findings += [f"{kind}: preflight"] if "access-control-allow-origin" in preflight.headers else []
        rebound = api.get(LIST, headers={**good, "Host": "evil.example:8080"})
        findings += [f"{kind}: another host"] if rebound.status_code != 403 else []
    api = behind(world, People())
    for name, options in (
        ("a token in the address", {"params": {"access_token": token("ops"), "token": token("ops")}}),
        ("a token in a cookie", {"headers": {"Cookie": f"token={token('ops')}; Authorization=Bearer x"}}),
    ):
        findings += [name] if api.get(LIST, **options).status_code != 401 else []  # type: ignore[arg-type]
    case.equal("findings", findings, [])
    case.equal("changes", world.controls, {})


def test_h9_probes_call_it_by_its_address(case: Case) -> None:
    """By the address that was connected to, as kubelet and Prometheus do; by no other, and by no name."""
    statuses = []
    for host in (
        "10.1.2.3:8080",
        "localhost:80",
        "[::1]",
        "10.9.9.9:8080",
        "evil.example",
        "[::1",
        "10.1.2.3.evil.example",
    ):
        api = ApiClient(FakeWorld().services(), "http://10.1.2.3:8080")
        statuses.append(api.get("/healthz", headers={"Host": host}).status_code)
    case.equal("answers", statuses, [200] * 3 + [403] * 4)


def test_h1_the_operations_of_an_identity_end_with_its_key(case: Case, store: Store) -> None:
    clock = VirtualClock()
    ends = clock.now() + timedelta(days=90)
    _, good = store.keys.create("ada", Grant(Role.OWNER, "default"), now=clock.now(), expires_at=ends)
    identities = KeyIdentities(store.keys, clock)
    ada = identities.identify(good, fresh=False)
    assert ada is not None
    case.equal("may act in its namespace", ada.may(Operation.APPLY, "default"), True)
    case.equal("may act in others", ada.may(Operation.APPLY, OTHERS), False)
    clock.wait(90 * 86400.0 - 1.0)
    case.equal("a second before its end", identities.identify(good, fresh=False) is not None, True)
    clock.wait(1.0)
    case.equal("at its end", identities.identify(good, fresh=False), None)
