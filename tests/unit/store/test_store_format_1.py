"""A store that an earlier version wrote: sealed, thinned and hot rows of format 1, with its public key."""

from __future__ import annotations

import hashlib
import lzma
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from ipa.adapters.store import Store, copies, hot, keeper, open_store, segments
from ipa.adapters.store.codec import DECISION
from ipa.adapters.store.packing import FORMAT, FORMAT_1, Row, unpack
from ipa.adapters.store.signing import Keyring
from ipa.control.audit.checkpoints import verify_lines
from ipa.control.audit.record import head_of
from ipa.control.audit.replay import inputs_in
from ipa.control.canonical import digest
from ipa.control.store_admin import DAY_S, Retention
from ipa.model.decision import Action
from tests.contract.store_harness import a_decision

FOLDER = Path(__file__).parents[2] / "fixtures" / "stores"
# As the earlier version read them.
EXPORT = "226059612fa1adf966cf0ec4cdfb90c4527858c6c0096823605c5020905c421e"
DECISIONS = "2522a0579c47abedd2a06ba64669d1fb98d4877011246a09d6d09778e1814839"
HEAD = head_of("73:94c02aa466ae03e586abb3a6e3b7e17d8e15e8273c1f1385662e89dbd4b8ccfe")


def old_store() -> bytes:
    return lzma.decompress((FOLDER / "schema-0008.sqlite3.xz").read_bytes())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The earlier store as a backup, restored."""
    backup = tmp_path / "backup.sqlite3"
    backup.write_bytes(old_store())
    key = tmp_path / "store.sqlite3.key"
    Keyring(key, may_make=True).sign("")
    key.write_bytes(key.read_bytes() + (FOLDER / "schema-0008.public.pem").read_bytes())
    found = f"sqlite:///{tmp_path}/store.sqlite3"
    restored = copies.restore(found, backup, lambda _what, _share: None)
    assert (restored.contents.entries, restored.contents.decisions) == (HEAD.number, 60)
    return found


def blocks(store: Store) -> list[bytes]:
    with store._engine.connect() as connection:
        return [bytes(row.block) for row in connection.execute(segments.with_blocks())]


def lines(store: Store) -> list[str]:
    return [*(it.line() for it in store.checkpoints(0)), *(it.line() for it in store.entries(0, 10_000))]


def sha256(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def test_it_reads_as_before(url: str) -> None:
    store = open_store(url)
    assert {block[:1] for block in blocks(store)} == {FORMAT_1}
    [name] = store.recorded()
    assert sha256(lines(store)) == EXPORT
    decisions = store.decisions(name, limit=10_000)
    assert sha256([DECISION.text(each) for each in decisions]) == DECISIONS
    for each in decisions:
        assert store.decision(each.decision_id) == each
        assert digest(each.inputs) == each.inputs_digest and inputs_in(each)
    for full in (False, True):
        found = store.verify(name, HEAD, full=full)
        assert (found.head, found.decisions, found.removed, found.unchecked) == (HEAD, 60, 25, 0)
    store.close()


def test_its_damaged_blocks_are_value_errors(url: str) -> None:
    """Or other rows, whose digests tell."""
    store = open_store(url)
    draw = Random(1)
    for block in [block for block in map(bytearray, blocks(store)) for _ in range(20)]:
        bad = block[: draw.randint(1, len(block))]
        bad[draw.randrange(len(bad))] ^= draw.randint(1, 255)
        with suppress(ValueError):
            assert all(isinstance(row, Row) for row in unpack(bytes(bad)))
    store.close()


def test_its_record_goes_on_across_the_formats(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "GROUP", 4)
    monkeypatch.setattr(segments, "ROWS", 16)
    monkeypatch.setattr(keeper, "HOT", 4)
    monkeypatch.setattr(keeper, "BETWEEN_S", 0.0)
    store = open_store(url)
    [name] = store.recorded()
    before = store.decisions(name, limit=10_000)
    for tick in range(before[0].tick + 1, before[0].tick + 40):
        store.record(a_decision(tick, pipeline=name))
    now = store._now()
    everything = Retention(decisions_s=DAY_S * 10**5, series_s=DAY_S * 10**5)
    store.prune(now, everything)
    assert {block[:1] for block in blocks(store)} == {FORMAT, FORMAT_1}
    assert store.decisions(name, limit=10_000)[39:] == before
    exported = lines(store)
    verified = verify_lines(exported, {name: HEAD}, store.keyring.verifies)
    assert verified[name] == store.verify(name, HEAD, full=True)
    # Thinned, old and new rows are in one block of the newer format.
    store.prune(now, Retention(decisions_s=60.0))
    assert {block[:1] for block in blocks(store) if block} == {FORMAT}
    assert [it for it in lines(store) if it in set(exported)] == [
        it.line() for it in store.entries(0, 10_000)
    ]
    kept = [each for each in before if each.action is Action.APPLY]
    assert [each for each in store.decisions(name, limit=10_000) if each in before] == kept != []
    assert store.verify(name, HEAD, full=True).decisions == 60 + 39
    store.close()
