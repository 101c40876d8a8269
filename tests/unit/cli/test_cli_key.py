"""`ipa key`: keys are made, listed and ended; what they are called with is shown once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ipa.adapters.store import open_store
from ipa.cli.main import run

KEY = re.compile(r"ipa_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return tmp_path


def made(capfd: Captured, *options: str) -> tuple[str, str, str]:
    """A key, its id, and what is said of it beside."""
    assert run(["key", "create", *options]) == 0
    out, err = capfd.readouterr()
    match = KEY.fullmatch(out.strip())
    assert match is not None
    return match[0], match[1], err


def test_a_key_is_printed_once_and_alone(capfd: Captured) -> None:
    token, key_id, err = made(capfd, "--role", "owner", "--name", "ada")
    assert re.fullmatch(
        rf"key {key_id} of ada: owner of default, until \d{{4}}-.* UTC; it is not shown again\n", err
    )
    assert run(["key", "list"]) == 0
    out = capfd.readouterr().out
    assert key_id in out and "owner of default" in out and "valid" in out
    assert token not in out and token[17:] not in out


def test_a_revoked_key_is_listed_as_such(capfd: Captured) -> None:
    _, key_id, _ = made(capfd, "--role", "operator", "--expires", "never")
    assert run(["key", "revoke", key_id]) == 0
    assert "is revoked" in capfd.readouterr().out
    assert run(["key", "list", "-o", "json"]) == 0
    (key,) = json.loads(capfd.readouterr().out)
    assert (key["state"], key["role"], key["namespace"]) == ("revoked", "operator", "*")
    assert key["expires_at"] is None and key["revoked_at"]


def test_as_json_with_the_key(capfd: Captured) -> None:
    assert run(["key", "create", "--role", "viewer", "-n", "*", "--expires", "12h", "-o", "json"]) == 0
    printed = json.loads(capfd.readouterr().out)
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
def test_what_makes_no_sense(options: list[str], code: int, words: str, capfd: Captured) -> None:
    assert run(["key", *options]) == code
    assert words in capfd.readouterr().err
