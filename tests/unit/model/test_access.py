"""Roles, grants, and what settings make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.identity.jwks import KEEP_S, STALE_S, Jwks
from ipa.adapters.identity.oidc import OidcIdentities, grant_of, issuer_of
from ipa.bootstrap.identity import check_listening, hosts_of
from ipa.model.access import EVERYWHERE, OPERATIONS, Grant, Holder, Operation, Role, allows, name_fault
from ipa.model.errors import ConfigurationError, UnavailableError, UsageError
from ipa.settings import Settings
from tests.fakes.clock import VirtualClock
from tests.fakes.people import AUDIENCE, ISSUER, jwk, token


def test_each_role_may_what_those_before_it_may_and_more() -> None:
    may = [{it for it in Operation if allows(role, it)} for role in (Role.VIEWER, Role.OWNER, Role.OPERATOR)]
    assert may[0] < may[1] < may[2] == set(Operation)
    assert may[0] == {it for it in Operation if not it.writes}
    assert set(OPERATIONS) == set(Operation)


def test_a_grant_holds_in_its_namespace_alone() -> None:
    ada = Holder("ada", (Grant(Role.OWNER, "vision"), Grant(Role.VIEWER)))
    assert ada.may(Operation.APPLY, "vision") and not ada.may(Operation.APPLY, "default")
    assert ada.may(Operation.READ, "default") and ada.may(Operation.READ, EVERYWHERE)
    assert not ada.may(Operation.APPLY, EVERYWHERE)


def test_an_operator_is_one_everywhere() -> None:
    with pytest.raises(ValueError, match="every namespace"):
        Grant(Role.OPERATOR, "vision")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[31m", "a" * 254, None, 7])
def test_names_that_no_record_takes(name: object) -> None:
    assert name_fault(name)


@pytest.mark.parametrize("name", ["ada", "system:serviceaccount:ci:deployer", "ada@example.com", "Ada Löv"])
def test_names_that_records_take(name: str) -> None:
    assert name_fault(name) == ""


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("operator", Grant(Role.OPERATOR)),
        ("operator:*", Grant(Role.OPERATOR)),
        ("owner:vision", Grant(Role.OWNER, "vision")),
        ("viewer:*", Grant(Role.VIEWER)),
    ],
)
def test_grants_in_words(text: str, grant: Grant) -> None:
    assert grant_of(text) == grant


def test_all_that_is_wrong_with_an_issuer_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        issuer_of("", "", "sub", "groups", "a=admin,b=owner,=viewer:*,viewer:*,c=operator:vision")
    assert [problem.message for problem in caught.value.problems] == [
        "IPA_OIDC_ISSUER is needed",
        "IPA_OIDC_AUDIENCE is needed",
        "IPA_OIDC_ROLES: 'a=admin': 'admin' is none of viewer, owner, operator",
        "IPA_OIDC_ROLES: 'b=owner': name its namespace, for example owner:default, or owner:* for all",
        "IPA_OIDC_ROLES: '=viewer:*': no value of the claim",
        "IPA_OIDC_ROLES: 'viewer:*': no value of the claim",
        "IPA_OIDC_ROLES: 'c=operator:vision': an operator is one of every namespace",
    ]


def identities(clock: VirtualClock, answer: Any) -> OidcIdentities:
    issuer = issuer_of(ISSUER, AUDIENCE, "sub", "groups", "a b=viewer:*,x=owner:vision,y=operator")
    return OidcIdentities(issuer, Jwks("https://issuer.example/jwks", clock, httpx.MockTransport(answer)))


def published(*names: str, **other: Any) -> httpx.Response:
    return httpx.Response(200, json={"keys": [{**jwk(name), **other} for name in names]})


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        (["x"], (Grant(Role.OWNER, "vision"),)),
        (["x", "y", "unknown"], (Grant(Role.OWNER, "vision"), Grant(Role.OPERATOR))),
        ("unknown x", (Grant(Role.OWNER, "vision"),)),
        ([], ()),
        ({"x": 1}, ()),
        ([["x"], {"y": 1}, 7], ()),
        (7, ()),
    ],
)
def test_claims_are_roles_by_the_settings_alone(groups: Any, wanted: tuple[Grant, ...]) -> None:
    clock = VirtualClock()
    found = identities(clock, lambda request: published("issuer")).identify(token(groups=groups), fresh=False)
    assert found == Holder("oidc:issuer.example#ada", wanted)


def test_a_new_key_of_the_issuer_is_found_and_an_old_one_forgotten() -> None:
    clock, known, asked = VirtualClock(), ["issuer"], list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return published(*known)

    people = identities(clock, answer)
    assert people.identify(token("x"), fresh=False)
    clock.wait(60.0)
    known[:] = ["next"]
    assert people.identify(token("x", key="next"), fresh=False)
    assert people.identify(token("x"), fresh=False) is None
    assert len(asked) == 2
    clock.wait(KEEP_S - 1.0)
    assert people.identify(token("x", key="next"), fresh=False) and len(asked) == 2
    clock.wait(2.0)
    assert people.identify(token("x", key="next"), fresh=False) and len(asked) == 3


@pytest.mark.parametrize(
    "broken",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"Location": "http://169.254.169.254/"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"keys": {}}),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b" " * (1 << 21)),
    ],
    ids=["500", "redirect", "html", "list", "no list", "deep", "long"],
)
def test_an_issuer_that_does_not_answer_is_believed_for_an_hour(broken: httpx.Response) -> None:
    clock, answers = VirtualClock(), [published("issuer")]
    people = identities(clock, lambda request: answers[0])
    assert people.identify(token("x"), fresh=False)
    answers[0] = broken
    clock.wait(STALE_S - 1.0)
    assert people.identify(token("x"), fresh=False)
    clock.wait(60.0)
    with pytest.raises(UnavailableError):
        people.identify(token("x"), fresh=False)


def test_keys_that_sign_and_check_alike_are_no_keys() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "issuer", "alg": "HS256"}
    answers = httpx.Response(200, json={"keys": [secret, "x", {}, {"kty": "RSA"}, jwk("next")]})
    keys = Jwks("https://issuer.example/jwks", VirtualClock(), httpx.MockTransport(lambda request: answers))
    assert keys.key("issuer") is None and keys.key("next") is not None
    for_encryption = Jwks(
        "https://issuer.example/jwks",
        VirtualClock(),
        httpx.MockTransport(lambda request: published("issuer", use="enc")),
    )
    assert for_encryption.key("issuer") is None


def test_a_file_of_keys_is_read_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", VirtualClock()
    path.write_text(json.dumps({"keys": [jwk("issuer")]}))
    keys = Jwks(str(path), clock)
    assert keys.key(None) is not None and keys.key("next") is None
    path.write_text(json.dumps({"keys": [jwk("issuer"), jwk("next")]}))
    clock.wait(60.0)
    assert keys.key("next") is not None and keys.key(None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "ipa.example"])
def test_it_listens_to_others_only_where_it_is_known_who_asks(host: str) -> None:
    settings = Settings(host=host)
    with pytest.raises(UsageError, match=r"without authentication .* does not listen(.|\n)*IPA_AUTH=keys"):
        check_listening(settings)
    check_listening(replace(settings, auth="keys"))
    for nearby in ("127.0.0.1", "localhost", "::1"):
        check_listening(Settings(host=nearby))


def test_by_which_names_it_is_called() -> None:
    nearby = ("127.0.0.1", "localhost", "::1")
    assert hosts_of(Settings()) == nearby
    assert hosts_of(Settings(hosts="ipa.example, ipa")) == (*nearby, "ipa.example", "ipa")
    assert hosts_of(Settings(host="0.0.0.0", auth="keys")) == ()
    assert hosts_of(Settings(host="0.0.0.0", auth="keys", hosts="ipa")) == (*nearby, "ipa")


def test_a_way_to_know_who_asks_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="names token, which is none of keys, oidc, kubernetes"):
        Settings.from_env({"IPA_AUTH": "keys,token"})
