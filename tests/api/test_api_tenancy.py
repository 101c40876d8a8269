"""The limits of callers of one namespace: others, names in the record, and the right for a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import open_store
from ipa.adapters.store.state import KeyIdentities
from ipa.api.bodies import PIPELINE, PROFILE
from ipa.model.access import Grant, Role
from ipa.settings import Settings
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.reviews import User
from tests.fakes.people import OTHERS, People, token, two_namespaces
from tests.fakes.services import NOW, ApiClient, FakeWorld, over

PIPELINES = "/v1/pipelines"
AT = f"{PIPELINES}/{PIPELINE['name']}"


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


def at(namespace: str, name: str = str(PIPELINE["name"]), runs: str = "mine") -> dict[str, Any]:
    return {**PIPELINE, "name": name, "seldon": {"name": runs, "namespace": namespace}}


def plain(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    return answer.status_code, {**answer.json(), "request_id": ""}


# The ticks that the world has seen.
PLAYED = 5


def test_a_name_that_is_hidden_is_refused_in_the_words_of_one_that_is_kept(world: FakeWorld) -> None:
    """By a rule that a caller can read, so that being refused says nothing of what there is."""
    services = replace(
        over(world.services(), settings=Settings(api_names="prefixed")), authenticators=(People(),)
    )
    api, owner, all_ = ApiClient(services), bearer(token("act-there")), bearer(token("act"))
    assert api.post(PIPELINES, at("default", "taken"), headers=all_).status_code == 201
    hidden, free = (api.post(PIPELINES, at(OTHERS, name), headers=owner) for name in ("taken", "freed"))
    assert hidden.status_code == free.status_code == 403
    assert plain(hidden)[1] == {
        **plain(free)[1],
        "detail": free.json()["detail"].replace("freed", "taken"),
    }
    assert api.post(PIPELINES, at(OTHERS, f"{OTHERS}-new"), headers=owner).status_code == 201
    # Who may define everywhere may take any.
    assert api.post(PIPELINES, at(OTHERS, "other"), headers=all_).status_code == 201


def test_a_name_that_is_hidden_is_forbidden_and_one_that_is_seen_is_in_conflict(world: FakeWorld) -> None:
    api = ApiClient(replace(world.services(), authenticators=(People(),)))
    refused = api.post(PIPELINES, at(OTHERS, "ocr"), headers=bearer(token("act-there")))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for word in ("default", "file", "exist", "already", "PUT"):
        assert word not in refused.text
    visible = api.post(PIPELINES, at("default", "ocr"), headers=bearer(token("act-here")))
    assert (visible.status_code, visible.json()["code"]) == (409, "conflict")


def test_refusals_for_want_of_room_count_nobody() -> None:
    """Others' load is theirs: a caller that is refused learns why, and when to come again."""
    from ipa.api.limits import _busy

    assert not any(char.isdigit() for char in _busy().message)


def test_a_namespace_has_room_for_so_many_pipelines(world: FakeWorld) -> None:
    api = ApiClient(over(world.services(), settings=Settings(api_pipelines=2)))
    answers = [api.post(PIPELINES, at(OTHERS, f"p{each}")).status_code for each in range(3)]
    assert answers == [201, 201, 409]
    assert api.post(PIPELINES, at("speech", "p9")).status_code == 201


def test_moving_into_a_namespace_asks_for_its_rights_and_its_names(world: FakeWorld) -> None:
    api = ApiClient(replace(world.services(), authenticators=(People(),)))
    owner, all_ = bearer(token("act-there")), bearer(token("act"))
    tag = {"If-Match": api.post(PIPELINES, at(OTHERS), headers=owner).headers["etag"]}
    assert api("PUT", AT, json=at("default"), headers={**owner, **tag}).status_code == 403
    moved = api("PUT", AT, json=at("default"), headers={**all_, **tag})
    assert (moved.status_code, moved.json()["pipeline"]) == (200, PIPELINE["name"])
    assert api.get(AT, headers=owner).status_code == 404


@pytest.mark.parametrize(
    "claimed", ["ada#{id}", "key:ada#{id}", "ada (key {id})", "system:serviceaccount:x:y"]
)
def test_no_token_of_a_cluster_names_what_looks_like_somebody_elses(
    world: FakeWorld, tmp_path: Path, claimed: str
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    key, sent = store.keys.create("ada", Grant(Role.OPERATOR), now=NOW)
    api = ApiClient(
        replace(world.services(), authenticators=(KeyIdentities(store.keys, VirtualClock()), People()))
    )
    names = [
        api.get("/v1/me", headers=bearer(each)).json()["name"]
        for each in (sent, token("ops", sub=claimed.format(id=key.key_id)))
    ]
    assert names[0] == f"key:ada#{key.key_id}"
    assert names[1] == f"kubernetes:{claimed.format(id=key.key_id)}"
    store.close()


@pytest.mark.parametrize(
    "name", ["key:ada#0123456789ab", "oidc:issuer.example#ada", "KUBERNETES:ada", " key :x"]
)
def test_nobody_says_of_themselves_that_somebody_vouches_for_them(world: FakeWorld, name: str) -> None:
    api, base = ApiClient(world.services()), f"{PIPELINES}/ocr"
    for answer in (
        api.post(f"{base}/pause", {"by": name}),
        api("DELETE", f"{base}/freezes", params={"by": name}),
        api.post(PIPELINES, PIPELINE, params={"by": name}),
    ):
        assert answer.status_code == 422
        assert [each["pointer"] for each in answer.json()["errors"]] == ["/by"]
    assert (world.controls, api.get(AT).status_code) == ({}, 404)
    assert api.post(f"{base}/pause", {"by": "ada: on call"}).json()["paused_by"] == "ada: on call"


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as fake:
        yield fake


@pytest.fixture
def api(kube: FakeKube, world: FakeWorld, tmp_path: Path) -> Iterator[ApiClient]:
    """A service that asks the cluster."""
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    people = KubeIdentities(client, VirtualClock(), SELDON_DEPLOYMENT, SELDON.places_of)
    yield ApiClient(replace(world.services(), authenticators=(people,)))
    client.close()


def changes(api: ApiClient, headers: dict[str, str]) -> dict[str, int]:
    """The status of each way to change a pipeline."""
    tag = {"If-Match": api.get(AT, headers=headers).headers.get("etag", '"x"')}

    def sent(method: str, path: str, body: Any) -> int:
        return api(method, path, json=body, headers={**headers, **tag}).status_code

    return {
        "create": sent("POST", PIPELINES, at("default", "another", "another")),
        "update": sent("PUT", AT, at("default")),
        "profile": sent("PUT", f"{AT}/profiles/{PROFILE['stage']}", PROFILE),
        "delete": sent("DELETE", AT, None),
    }


@pytest.mark.parametrize("verb", ["get", "create", "update", "delete"])
def test_each_change_asks_the_cluster_for_its_own_verb(api: ApiClient, kube: FakeKube, verb: str) -> None:
    reviewer = kube.api.reviewer
    reviewer.tokens = {"all": User("root"), "one": User("ada")}
    reviewer.let("root", "", "get", "create", "update", "delete")
    assert api.post(PIPELINES, at("default"), headers=bearer("all")).status_code == 201
    reviewer.let("ada", "default", "get", verb)
    statuses = changes(api, bearer("one"))
    # A change that is let in may be too late for its tag: the one before it was let in as well.
    allowed = {name for name, status in statuses.items() if status != 403}
    assert allowed == {"get": set(), "update": {"update", "profile"}}.get(verb, {verb})


def test_an_update_of_one_object_is_none_of_another(api: ApiClient, kube: FakeKube) -> None:
    """A role by `resourceNames`: the pipeline may not be made to run another SeldonDeployment."""
    reviewer = kube.api.reviewer
    reviewer.tokens = {"all": User("root"), "one": User("ada")}
    reviewer.let("root", "", "get", "create", "update", "delete")
    tag = {"If-Match": api.post(PIPELINES, at("default"), headers=bearer("all")).headers["etag"]}
    reviewer.let("ada", "default", "get")
    reviewer.let("ada", "default", "update", name="mine")
    sent = {**bearer("one"), **tag}
    theirs = at("default", runs="theirs")
    assert api("PUT", AT, json=theirs, headers=sent).status_code == 403
    assert api("PUT", AT, json={**at("default"), "description": "x"}, headers=sent).status_code == 200


@pytest.mark.parametrize("group", ["watch-here", "watch", "act-there"])
def test_images_are_defined_by_owners_of_the_namespace_they_run_in(world: FakeWorld, group: str) -> None:
    """A pipeline's file says which images, environment and model addresses its SeldonDeployment gets."""
    api = ApiClient(replace(world.services(), authenticators=(People(),)))
    owner = bearer(token("act-here"))
    runs = {**at("default"), "stages": [{"name": "describe", "variants": [_runs("evil/image")]}]}
    refused = api.post(PIPELINES, runs, headers=bearer(token(group)))
    assert refused.status_code == 403
    given = api.post(PIPELINES, at("default"), headers=owner)
    tag = {"If-Match": given.headers["etag"]}
    answer = api("PUT", AT, json=runs, headers={**bearer(token(group)), **tag})
    assert answer.status_code in (403, 404)
    assert api("PUT", AT, json=runs, headers={**owner, **tag}).status_code == 200


def _runs(image: str) -> dict[str, Any]:
    return {"name": "small", "seldon": {"image": image}}


def test_commands_of_a_file_are_never_run_for_who_calls_the_api(world: FakeWorld) -> None:
    """On this machine a pipeline that was given can be planned, and starts nothing."""
    from ipa.bootstrap.targets import target_named
    from ipa.files import pipeline_from_mapping

    given = pipeline_from_mapping(at("default"))
    for target in ("local", "simulated"):
        assert "runs the pipelines of files only" in target_named(target).unfit(given)


def test_a_former_pipeline_s_plans_are_gone_for_every_namespace(world: FakeWorld) -> None:
    two = two_namespaces()
    services = two.services
    # The record of the pipeline is another one now.
    later = replace(over(services, record_of=lambda _: "ocr~000000000001"), authenticators=(People(),))
    for group in ("act-here", "ops"):
        answer = ApiClient(later).get("/v1/plans/plan-ocr", headers=bearer(token(group)))
        assert answer.status_code == 404, group
