"""`ipa key`: keys are made, listed and ended; what they are called with is shown once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ipa.adapters.store import open_store
from tests.fakes.commands import Ipa

KEY = re.compile(r"ipa_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return tmp_path


def made(ipa: Ipa, *options: str) -> tuple[str, str, str]:
    """A key, its id, and what is said of it beside."""
    out, err = ipa("key", "create", *options)
    match = KEY.fullmatch(out.strip())
    assert match is not None
    return match[0], match[1], err


def test_a_key_is_printed_once_and_alone(ipa: Ipa) -> None:
    token, key_id, err = made(ipa, "--role", "owner", "--name", "ada")
    assert re.fullmatch(
        rf"key {key_id} of ada: owner of default, until \d{{4}}-.* UTC; it is not shown again\n", err
    )
    out = ipa("key", "list").out
    assert key_id in out and "owner of default" in out and "valid" in out
    assert token not in out and token[17:] not in out


def test_a_revoked_key_is_listed_as_such(ipa: Ipa) -> None:
    _, key_id, _ = made(ipa, "--role", "operator", "--expires", "never")
    assert "is revoked" in ipa("key", "revoke", key_id).out
    (key,) = json.loads(ipa("key", "list", "-o", "json").out)
    assert (key["state"], key["role"], key["namespace"]) == ("revoked", "operator", "*")
    assert key["expires_at"] is None and key["revoked_at"]


def test_as_json_with_the_key(ipa: Ipa) -> None:
    printed = json.loads(
        ipa("key", "create", "--role", "viewer", "-n", "*", "--expires", "12h", "-o", "json").out
    )
    store = open_store("sqlite:///runs/ipa.sqlite3")
    stored = store.keys.find(printed.pop("token"))
    store.close()
    assert stored is not None and stored.key_id == printed["key_id"] and printed["namespace"] == "*"
    assert stored.expires_at is not None
    assert (stored.expires_at - stored.created_at).total_seconds() == 12 * 3600


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["create", "--role", "admin"], 64, "admin"),
        (
            ["create", "--role", "operator", "-n", "vision"],
            64,
            "the role operator applies to every namespace",
        ),
        (["create", "--role", "owner", "--expires", "soon"], 64, "'soon' is not a time"),
        (["create", "--role", "owner", "--expires", "0d"], 64, "'0d' is not a time"),
        (["create", "--role", "owner", "--expires", "999999999d"], 64, "is not a time"),
        (["create", "--role", "owner", "--name", "a\nb"], 64, "characters that do not print"),
        (["revoke", "nope"], 1, "there is no key 'nope'"),
    ],
)
def test_what_makes_no_sense(options: list[str], code: int, words: str, ipa: Ipa) -> None:
    assert words in ipa("key", *options, code=code).err
