"""A store that an earlier version wrote: sealed, thinned and hot rows of format 1, with its public key."""

from __future__ import annotations

import hashlib
import lzma
import sqlite3
from contextlib import closing, suppress
from datetime import date
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import inspect

from ipa.adapters.signing import Keyring
from ipa.adapters.store import Store, copies, keeper, open_store, rows, segments
from ipa.adapters.store.old_blocks import FORMAT_1
from ipa.adapters.store.rows import FORMAT, unpack
from ipa.adapters.store.schema import SegmentRow
from ipa.adapters.store.state import DECISION, PLAN, PROFILE
from ipa.control.audit.record import Recorded, head_of, verify_lines
from ipa.control.audit.replay import inputs_in
from ipa.control.canonical import digest
from ipa.control.saved_plans import StoredAnswer
from ipa.control.store_admin import DAY_S, Retention
from ipa.model.decision import Action
from ipa.model.errors import ConfigurationError
from ipa.model.profile import StageProfile
from ipa.settings import Settings
from tests.contract.store_harness import a_decision, plain_engine
from tests.contract.test_store_contract import a_kept_plan

FOLDER = Path(__file__).parents[2] / "fixtures" / "stores"
# As the earlier version read them.
EXPORT = "226059612fa1adf966cf0ec4cdfb90c4527858c6c0096823605c5020905c421e"
DECISIONS = "2522a0579c47abedd2a06ba64669d1fb98d4877011246a09d6d09778e1814839"
# Forecasts have had it since.
YOUNGER = '"rates_rps":[],'
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
    restored_url = f"sqlite:///{tmp_path}/store.sqlite3"
    restored = copies.restore(Settings(store_url=restored_url), backup, lambda _what, _share: None)
    assert (restored.contents.entries, restored.contents.decisions) == (HEAD.number, 60)
    return restored_url


def blocks(store: Store) -> list[bytes]:
    with store._engine.connect() as connection:
        sealed = segments.read_segments(connection, order=SegmentRow.first, blocks=True)
        return [each.block for each in sealed]


def lines(store: Store) -> list[str]:
    return [*(it.line() for it in store.checkpoints(0)), *(it.line() for it in store.entries(0, 10_000))]


def sha256(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def run(url: str, *statements: str) -> None:
    engine = plain_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def older(tmp_path: Path) -> str:
    """The earlier store as its service left it."""
    path = tmp_path / "older.sqlite3"
    path.write_bytes(old_store())
    return f"sqlite:///{path}"


def test_its_state_is_taken_over(older: str) -> None:
    profile = StageProfile("ocr", "detect", (), "2 cores", date(2026, 11, 24), "ipa profile")
    plan = a_kept_plan(1)
    run(
        older,
        "INSERT INTO ipa_controls VALUES ('video', '{\"paused\":true}')",
        "INSERT INTO ipa_keys VALUES ('abc', 'd', 'ada', 'owner', 'vision', '2026-01-01', NULL, NULL)",
        f"INSERT INTO ipa_plans VALUES (1, 'p1', 'ocr', '{PLAN.text(plan)}')",
        f"INSERT INTO ipa_answers VALUES ('{digest('k')}', 'm', 'h', 4e9, 200, '[]', 'ocr')",
        "INSERT INTO ipa_pipelines VALUES ('shop', '', '{\"a\":1}'), ('web@pushed', '', '{\"b\":2}')",
        "INSERT INTO ipa_records VALUES ('shop~1', 'shop', 'old', '', 'ended'), "
        "('shop~2', 'shop', 'new', '', NULL)",
        "INSERT INTO ipa_profiles VALUES (1, 'ocr', 'detect', 1, '', 'an older revision'), "
        f"(2, 'ocr', 'detect', 2, '', '{PROFILE.text(profile)}')",
        # As a pass that was interrupted leaves them.
        "INSERT INTO ipa_entries SELECT 900 + number, pipeline, 3, kind, 'twice', body, digest, tick, "
        "action, frame, packed FROM ipa_entries LIMIT 1",
    )
    store = open_store(older)
    assert store.control("video").paused
    [key] = store.keys.all()
    assert (key.name, key.grant.namespace, key.expires_at) == ("ada", "vision", None)
    assert store.plans.plan("p1") == plan
    assert store.answers.claim("k", "m", "they", 4e9).answer == StoredAnswer(200, "[]")
    assert store.given.all() == {"shop": {"a": 1}}
    assert store.records.of("shop") == "shop~2" and store.records.resume("shop", "new") == "shop~2"
    assert store.profiles("ocr") == {"detect": profile}
    [name] = store.recorded()
    assert store.verify(name, HEAD, full=True).decisions == 60
    store.close()


def test_its_schema_becomes_that_of_a_new_store(older: str, tmp_path: Path) -> None:
    def schema(url: str) -> dict[str, object]:
        open_store(url).close()
        engine = plain_engine(url)
        with engine.connect() as connection:
            triggers = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
            schema_parts: dict[str, object] = {"triggers": set(triggers.scalars())}
        inspected = inspect(engine)
        for table in inspected.get_table_names():
            columns = {it["name"]: (str(it["type"]), it["nullable"]) for it in inspected.get_columns(table)}
            schema_parts[table] = columns, {it["name"] for it in inspected.get_indexes(table)}
        engine.dispose()
        return schema_parts

    assert schema(older) == schema(f"sqlite:///{tmp_path}/new.sqlite3")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE ipa_schema_version SET version_num = '0007'", "schema 0007; the oldest .* is 0008"),
        (
            "INSERT INTO ipa_entries VALUES (999, 'x', 1, 'control', '', '{}', '', NULL, NULL, NULL, NULL)",
            "1 entries that an older version wrote and has not sealed",
        ),
    ],
)
def test_one_that_is_too_old_is_refused_and_left_alone(older: str, statement: str, message: str) -> None:
    run(older, statement)

    def dump() -> list[str]:
        with closing(sqlite3.connect(older.removeprefix("sqlite:///"))) as connection:
            return [*connection.iterdump()]

    before = dump()
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_store(older)
    assert "ipa 0.1" in caught.value.hint
    assert dump() == before


def test_it_reads_as_before(url: str) -> None:
    store = open_store(url)
    assert {block[:1] for block in blocks(store)} == {FORMAT_1}
    [name] = store.recorded()
    assert sha256(lines(store)) == EXPORT
    decisions = store.decisions(name, limit=10_000)
    texts = [DECISION.text(each) for each in decisions]
    assert all(YOUNGER in text for text in texts if '"forecast":{' in text)
    assert sha256([text.replace(YOUNGER, "") for text in texts]) == DECISIONS
    for each in decisions:
        assert store.decision(each.decision_id) == each
        assert digest(each.inputs) == each.inputs_digest and inputs_in(each)
    for full in (False, True):
        verified = store.verify(name, HEAD, full=full)
        assert (verified.head, verified.decisions, verified.removed, verified.unchecked) == (HEAD, 60, 25, 0)
    store.close()


def test_its_damaged_blocks_are_value_errors(url: str) -> None:
    """Or other rows, whose digests tell."""
    store = open_store(url)
    draw = Random(1)
    for block in [block for block in map(bytearray, blocks(store)) for _ in range(20)]:
        bad = block[: draw.randint(1, len(block))]
        bad[draw.randrange(len(bad))] ^= draw.randint(1, 255)
        with suppress(ValueError):
            assert all(isinstance(row, Recorded) for row in unpack(bytes(bad)))
    store.close()


def test_its_record_goes_on_across_the_formats(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "GROUP", 4)
    monkeypatch.setattr(segments, "ROWS", 16)
    monkeypatch.setattr(keeper, "HOT", 4)
    monkeypatch.setattr(keeper, "BETWEEN_S", 0.0)
    store = open_store(url)
    [name] = store.recorded()
    before = store.decisions(name, limit=10_000)
    for tick in range(before[0].tick + 1, before[0].tick + 40):
        store.record(a_decision(tick, pipeline=name))
    now = store._now()
    everything = Retention(decisions_s=DAY_S * 10**5)
    store.prune(now, everything)
    assert {block[:1] for block in blocks(store)} == {FORMAT, FORMAT_1}
    assert store.decisions(name, limit=10_000)[39:] == before
    exported = lines(store)
    verified = verify_lines(exported, {name: HEAD}, store.keyring.verifies)
    assert verified[name] == store.verify(name, HEAD, full=True)
    # What is thinned is written in the newer format; what was thinned before stays as it is.
    store.prune(now, Retention(decisions_s=60.0))
    assert {block[:1] for block in blocks(store) if block} == {FORMAT, FORMAT_1}
    assert {it.line() for it in store.entries(0, 10_000)} < set(exported)
    changes = [each for each in before if each.action is Action.APPLY]
    assert [each for each in store.decisions(name, limit=10_000) if each in before] == changes != []
    assert store.verify(name, HEAD, full=True).decisions == 60 + 39
    store.close()
