"""The schema of the store by its revision: a new store is created at the newest, an older one is upgraded."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, table, text

from ipa.adapters.store.schema import StateKind, StateRow, StoreTable, put_guards, remove_guards
from ipa.model.errors import ConfigurationError

VERSION = Table("ipa_schema_version", MetaData(), Column("version_num", String(32), primary_key=True))
OLDER = "Start the last version of ipa 0.1 on it once, a day after its last decision; then this one."


def revision_of(connection: Connection) -> str | None:
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
# Former rows of the pipelines of files; such a name ended the name of the pipeline.
PUSHED = "@pushed"


def _to_0009(connection: Connection) -> None:
    """Move seven tables into `ipa_state`, and drop those that nothing reads any more."""
    unsealed = connection.scalar(text("SELECT count(*) FROM ipa_entries WHERE frame IS NULL"))
    if unsealed:
        raise ConfigurationError(
            f"the store has {unsealed} entries that an older version wrote and did not seal yet", hint=OLDER
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
                connection.execute(insert(StateRow), [_moved(name, dict(row)) for row in batch])
    for name in (*MOVED, "ipa_cursors", "ipa_decisions", "ipa_series"):
        connection.execute(text(f"DROP TABLE {name}"))
    put_guards(connection)


def _moved(former: str, row: dict[str, object]) -> dict[str, object]:
    """The row of `ipa_state` for a row of the table."""
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
    elif name.endswith(PUSHED):
        kind, name = StateKind.PUSHED, name.removesuffix(PUSHED)
    return {"kind": kind.value, "name": name, "owner": owner, "at_s": at_s, "body": body}


# The steps to the newest revision, oldest first, by the revision from which each starts.
STEPS: dict[str, Callable[[Connection], None]] = {"0008": _to_0009}
NEWEST = "0009"
