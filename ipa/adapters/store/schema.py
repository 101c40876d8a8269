"""The tables of the store, and the migrations of older stores to them.

Bodies are canonical JSON text, so that their digests hold on every database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    insert,
    inspect,
    select,
    table,
    text,
)  # fmt: skip
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ipa.model.errors import ConfigurationError

# Names of pipelines, stages and people; as long as a Kubernetes name (253).
NAME = String(253)
DIGEST = String(64)
# SQLite makes a column the rowid only if its type is INTEGER.
LONG = BigInteger().with_variant(Integer, "sqlite")


class StoreTable(DeclarativeBase):
    """The base class of the tables; all have the prefix ipa_, since a PostgreSQL database may be shared."""


class EntryRow(StoreTable):
    """A hot row: one of the newest entries of the record (`ipa.control.audit.record`), with its decision.

    Triggers refuse to change a row, and to remove one that no segment holds. `packed` are the texts of entry
    and decision, compressed by `ipa.adapters.store.rows`.
    """

    __tablename__ = "ipa_entries"
    __table_args__ = (
        UniqueConstraint("pipeline", "number", name="uq_ipa_entries_number"),
        Index("ix_ipa_entries_decision", "decision_id"),
    )

    # Assigned under a lock: the numbers of a database sequence may commit in another order.
    seq: Mapped[int] = mapped_column(LONG, primary_key=True, autoincrement=False)
    pipeline: Mapped[str] = mapped_column(NAME)
    number: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    decision_id: Mapped[str] = mapped_column(NAME)
    digest: Mapped[str] = mapped_column(DIGEST)
    tick: Mapped[int | None] = mapped_column(BigInteger)
    action: Mapped[str | None] = mapped_column(String(16))
    frame: Mapped[int] = mapped_column(BigInteger, nullable=True)
    packed: Mapped[bytes] = mapped_column(LargeBinary, nullable=True)


class SegmentRow(StoreTable):
    """A sealed run of a pipeline's entries: the kept rows in one block, and a checkpoint.

    The checkpoint (`ipa.control.audit.record`) is signed. Triggers refuse to remove a segment, and to
    change one except by removing rows of it.
    """

    __tablename__ = "ipa_segments"
    __table_args__ = (
        Index("ix_ipa_segments_last", "pipeline", "last"),
        Index("ix_ipa_segments_last_seq", "last_seq"),
        # Finds the next segment to thin, and the total size, without reading blocks.
        Index("ix_ipa_segments_age", "held", "last_s", "size_bytes"),
    )

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    first_s: Mapped[float] = mapped_column(Double)
    last_s: Mapped[float] = mapped_column(Double)
    # The ticks of the kept decisions; 0 if there are none.
    first_tick: Mapped[int] = mapped_column(BigInteger)
    last_tick: Mapped[int] = mapped_column(BigInteger)
    # The decisions at sealing; the kept holds, changes and entries of all kinds.
    decisions: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger)
    changes: Mapped[int] = mapped_column(BigInteger)
    kept: Mapped[int] = mapped_column(BigInteger)
    # The digests of the entry before the first, of the last entry, of the kept entries, and of the block.
    previous: Mapped[str] = mapped_column(DIGEST)
    head: Mapped[str] = mapped_column(DIGEST)
    entries: Mapped[str] = mapped_column(DIGEST)
    content: Mapped[str] = mapped_column(DIGEST)
    key_id: Mapped[str] = mapped_column(String(16))
    signature: Mapped[str] = mapped_column(String(88))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    block: Mapped[bytes] = mapped_column(LargeBinary)


class HeadRow(StoreTable):
    """The newest entry of each pipeline, stored apart, so that a truncated end is detected."""

    __tablename__ = "ipa_heads"

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(DIGEST)


class StateKind(StrEnum):
    """The kinds of values of the service's state."""

    ANSWER = "answer"
    CONTROL = "control"
    KEY = "key"
    PIPELINE = "pipeline"
    PLAN = "plan"
    PROFILE = "profile"
    RECORD = "record"


class StateRow(StoreTable):
    """A value of the service's state, by its kind (`ipa.adapters.store.state`) and its name.

    `owner` groups the values of a kind, mostly by record; `at_s` is the time by which a kind is pruned.
    """

    __tablename__ = "ipa_state"
    __table_args__ = (
        Index("ix_ipa_state_owner", "kind", "owner"),
        Index("ix_ipa_state_at", "kind", "at_s"),
    )

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    owner: Mapped[str] = mapped_column(NAME)
    at_s: Mapped[float] = mapped_column(Double)
    body: Mapped[str] = mapped_column(Text)


def upsert(connection: Connection, table: type[StoreTable], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows, each in place of an existing row with its primary key."""
    connection.execute(_upsert_statement(table), rows)


@cache
def _upsert_statement(table: type[StoreTable]) -> TextClause:
    """The statement as text: SQLAlchemy would compile it anew each time, which takes half a millisecond."""
    names = [each.name for each in table.__table__.columns]
    keys = [each.name for each in table.__table__.primary_key]
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    # Only names of our own tables and columns.
    return text(
        f"INSERT INTO {table.__tablename__} ({', '.join(names)}) VALUES (:{', :'.join(names)}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed}"
    )


GUARD = "the record is only ever added to"
# A row that a segment holds; a segment that stays the same run of the chain, with fewer rows.
SEALED = (
    "EXISTS (SELECT 1 FROM ipa_segments s WHERE s.pipeline = OLD.pipeline "
    "AND s.first <= OLD.number AND s.last >= OLD.number)"
)
THINNED = (
    " AND ".join(f"NEW.{name} = OLD.{name}" for name in ("pipeline", "first", "last", "previous", "head"))
    + " AND NEW.held <= OLD.held AND (NEW.signature <> OLD.signature OR NEW.key_id = '')"
)
SQLITE_GUARDS = {
    "ipa_entries_no_update": "UPDATE ON ipa_entries",
    "ipa_entries_no_delete": f"DELETE ON ipa_entries WHEN NOT {SEALED}",
    "ipa_segments_no_delete": "DELETE ON ipa_segments",
    "ipa_segments_no_update": f"UPDATE ON ipa_segments WHEN NOT ({THINNED})",
}
# What PostgreSQL's guard of a table lets pass.
POSTGRESQL_GUARDS = {
    "ipa_entries": f"IF TG_OP = 'DELETE' THEN IF {SEALED} THEN RETURN OLD; END IF; END IF;",
    "ipa_segments": f"IF TG_OP = 'UPDATE' THEN IF {THINNED} THEN RETURN NEW; END IF; END IF;",
}


def remove_guards(connection: Connection) -> None:
    """Drop the triggers of the record."""
    if connection.dialect.name == "sqlite":
        statements = [f"DROP TRIGGER IF EXISTS {name}" for name in SQLITE_GUARDS]
    else:
        statements = [f"DROP TRIGGER IF EXISTS {table}_guard ON {table}" for table in POSTGRESQL_GUARDS]
    _run(connection, statements)


def put_guards(connection: Connection) -> None:
    """Create the triggers of the record."""
    statements: list[str] = []
    if connection.dialect.name == "sqlite":
        for name, what in SQLITE_GUARDS.items():
            statements.append(
                f"CREATE TRIGGER {name} BEFORE {what} BEGIN SELECT RAISE(ABORT, '{GUARD}'); END"
            )
    else:
        for table, passes in POSTGRESQL_GUARDS.items():
            statements += (
                f"CREATE OR REPLACE FUNCTION {table}_guard() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {passes} RAISE EXCEPTION '{GUARD}'; END $$",
                f"CREATE TRIGGER {table}_guard BEFORE UPDATE OR DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION {table}_guard()",
            )
    _run(connection, statements)


def _run(connection: Connection, statements: list[Any]) -> None:
    for statement in statements:
        connection.execute(text(statement))


VERSION = Table("ipa_schema_version", MetaData(), Column("version_num", String(32), primary_key=True))
OLDER = "Start the last version of ipa 0.1 on it once, a day after its last decision; then this one."


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of the store's schema; None if it has none."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))


def check_revision(shown: str, revision: str | None) -> None:
    """ConfigurationError if a newer version wrote the schema, or one too old to be upgraded."""
    if revision is None or revision == NEWEST or revision in STEPS:
        return
    if revision < min(STEPS):
        raise ConfigurationError(
            f"the store {shown} has schema {revision}; the oldest that can be upgraded is {min(STEPS)}",
            hint=OLDER,
        )
    raise ConfigurationError(
        f"the store {shown} has schema {revision!r}, which is newer than this version of ipa",
        hint="Install the version of ipa that wrote it, or name another store with IPA_STORE_URL.",
    )


def upgrade(connection: Connection, revision: str | None) -> None:
    """Bring the schema to the newest revision, within the transaction."""
    if revision is None:
        StoreTable.metadata.create_all(connection)
        put_guards(connection)
        VERSION.create(connection)
        connection.execute(insert(VERSION).values(version_num=NEWEST))
        return
    for step in [step for start, step in STEPS.items() if start >= revision]:
        step(connection)
    connection.execute(VERSION.update().values(version_num=NEWEST))


# The tables of state of schema 0008: their kinds, and the columns of name, owner and body. Without a body it
# is made of the other columns.
MOVED: dict[str, tuple[StateKind, str, str | None, str | None]] = {
    "ipa_controls": (StateKind.CONTROL, "pipeline", "pipeline", "body"),
    "ipa_keys": (StateKind.KEY, "key_id", None, None),
    "ipa_plans": (StateKind.PLAN, "plan_id", "pipeline", "body"),
    "ipa_answers": (StateKind.ANSWER, "key", "record", None),
    "ipa_pipelines": (StateKind.PIPELINE, "pipeline", None, "body"),
    "ipa_records": (StateKind.RECORD, "record", "pipeline", None),
    "ipa_profiles": (StateKind.PROFILE, "stage", "pipeline", "body"),
}
OLDER_PROFILES = (
    "DELETE FROM ipa_profiles WHERE revision < (SELECT max(p.revision) FROM ipa_profiles p "
    "WHERE p.pipeline = ipa_profiles.pipeline AND p.stage = ipa_profiles.stage)"
)
# Ends the names of former rows: what earlier versions took over the API in place of a file.
PUSHED = "@pushed"


def _to_0009(connection: Connection) -> None:
    """Move the rows of seven tables into `ipa_state`, and drop tables that nothing reads any more."""
    unsealed = connection.scalar(text("SELECT count(*) FROM ipa_entries WHERE frame IS NULL"))
    if unsealed:
        raise ConfigurationError(
            f"the store has {unsealed} entries that an older version wrote and has not sealed", hint=OLDER
        )
    remove_guards(connection)
    # A pass that was interrupted left them.
    connection.execute(
        text(
            "DELETE FROM ipa_entries WHERE number <= (SELECT coalesce(max(s.last), 0) FROM ipa_segments s "
            "WHERE s.pipeline = ipa_entries.pipeline)"
        )
    )
    connection.execute(text("ALTER TABLE ipa_entries DROP COLUMN body"))
    StateRow.metadata.tables["ipa_state"].create(connection)
    connection.execute(text(OLDER_PROFILES))
    for name in MOVED:
        query = select(text("*")).select_from(table(name))
        with connection.execute(query, execution_options={"yield_per": 500}) as rows:
            for batch in rows.mappings().partitions():
                moved = [_moved(name, dict(row)) for row in batch]
                current = [row for row in moved if not str(row["name"]).endswith(PUSHED)]
                if current:
                    connection.execute(insert(StateRow), current)
    for name in (*MOVED, "ipa_cursors", "ipa_decisions", "ipa_series"):
        connection.execute(text(f"DROP TABLE {name}"))
    put_guards(connection)


def _moved(former: str, row: dict[str, object]) -> dict[str, object]:
    """The row of `ipa_state` that replaces this row of a former table."""
    kind, name_column, owner_column, body_column = MOVED[former]
    name, owner = str(row[name_column]), str(row[owner_column]) if owner_column else ""
    at_s = row.pop("at_s", 0.0)
    if body_column is None:
        body = json.dumps({key: each for key, each in row.items() if key not in (name_column, owner_column)})
    else:
        body = str(row[body_column])
    if kind is StateKind.PROFILE:
        name = f"{owner}/{name}"
    elif kind is StateKind.PLAN:
        at_s = datetime.fromisoformat(json.loads(body)["at"]).timestamp()
    return {"kind": kind.value, "name": name, "owner": owner, "at_s": at_s, "body": body}


# The steps to the newest revision, oldest first, by the revision from which each starts.
STEPS: dict[str, Callable[[Connection], None]] = {"0008": _to_0009}
NEWEST = "0009"
