"""Roles, grants, and what settings make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.bootstrap.identity import allowed_hosts, check_listening
from ipa.model.access import EVERYWHERE, OPERATIONS, Grant, Holder, Operation, Role, allows, name_fault
from ipa.model.errors import ConfigurationError, UsageError
from ipa.settings import Settings


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
    assert allowed_hosts(Settings()) == nearby
    assert allowed_hosts(Settings(hosts="ipa.example, ipa")) == (*nearby, "ipa.example", "ipa")
    assert allowed_hosts(Settings(host="0.0.0.0", auth="keys")) == ()
    assert allowed_hosts(Settings(host="0.0.0.0", auth="keys", hosts="ipa")) == (*nearby, "ipa")


def test_a_way_to_know_who_asks_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="names token, which is none of keys, kubernetes"):
        Settings.from_env({"IPA_AUTH": "keys,token"})
