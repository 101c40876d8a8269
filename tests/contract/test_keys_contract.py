"""The contract of every store of API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ipa.adapters.store import Store
from ipa.model.access import Grant, Role
from ipa.model.errors import NotFoundError
from tests.contract.store_harness import Reopen


def test_keys_are_found_by_what_they_are_called_with_and_outlive_the_service(
    store: Store, reopen: Reopen
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ends = now + timedelta(days=1)
    owner, token = store.keys.create("Ada Löv", Grant(Role.OWNER, "vision"), now=now, expires_at=ends)
    operator, other = store.keys.create("ops", Grant(Role.OPERATOR), now=now)
    assert token != other and owner.key_id != operator.key_id
    again = reopen().keys
    assert (again.find(token), again.find(other)) == (owner, operator)
    assert sorted(again.all(), key=lambda key: key.name) == [owner, operator]
    wrong = ("", "ipa_", token[:-1], f"{token}A", token.upper(), f"{token[:-1]}\0", other[:17] + token[17:])
    assert [again.find(each) for each in wrong] == [None] * len(wrong)
    states = [owner.state(at) for at in (now, ends - timedelta(seconds=1), ends)]
    assert states == ["valid", "valid", "expired"]
    revoked = again.revoke(owner.key_id, now=now)
    assert store.keys.find(token) == revoked and revoked.state(now) == "revoked"
    assert again.revoke(owner.key_id, now=ends) == revoked
    with pytest.raises(NotFoundError, match="there is no key 'nope'"):
        store.keys.revoke("nope", now=now)
