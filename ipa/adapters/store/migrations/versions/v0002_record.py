"""One record of all that was decided and done: entries, chained for each pipeline, and their heads.

The decisions there are become its first entries, after one that says what their older chain of digests, which
is done with, ended at, and whether it was whole.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# What a decision is stays as it was then, whatever this package makes of it later; so nothing is imported.
FACTS = ("action", "tick", "mode", "observed_rate_rps", "observed_latency_s")
LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
GUARD = "the record is only ever added to"


def upgrade() -> None:
    """Create the tables, fill them from the decisions, and let nothing but additions be made to entries."""
    op.create_table(
        "ipa_entries",
        sa.Column("seq", LONG, primary_key=True, autoincrement=False),
        sa.Column("pipeline", sa.String(253), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("decision_id", sa.String(253), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.UniqueConstraint("pipeline", "number", name="uq_ipa_entries_number"),
    )
    op.create_index("ix_ipa_entries_decision", "ipa_entries", ["decision_id"])
    op.create_table(
        "ipa_heads",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "ipa_cursors",
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    connection = op.get_bind()
    _Adoption(connection).run()
    with op.batch_alter_table("ipa_decisions") as table:
        table.drop_column("digest")
    for statement in _guards(connection.dialect.name):
        op.execute(statement)


def _guards(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER ipa_entries_no_{verb.lower()} BEFORE {verb} ON ipa_entries "
            f"BEGIN SELECT RAISE(ABORT, '{GUARD}'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        "CREATE OR REPLACE FUNCTION ipa_entries_guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{GUARD}'; END $$",
        "CREATE TRIGGER ipa_entries_guard BEFORE UPDATE OR DELETE ON ipa_entries "
        "FOR EACH ROW EXECUTE FUNCTION ipa_entries_guard()",
    ]


class _Adoption:
    """Goes along the decisions in the order in which they were recorded."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._seq = 0
        self._heads: dict[str, tuple[int, str]] = {}
        self._rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Write an entry for each decision."""
        for pipeline, (count, old, damaged) in self._old_chains().items():
            facts = {"decisions": count, "digest": old, "damaged": damaged}
            now = datetime.now(UTC).isoformat()
            self._add({"pipeline": pipeline, "kind": "adopted", "what": "adopted", "at": now, "facts": facts})
        query = sa.text("SELECT body, decision_id, at FROM ipa_decisions ORDER BY seq")
        for body, decision_id, at in self._read(query):
            self._decision(body, decision_id, at)
        self._flush()
        for pipeline, (number, digest) in self._heads.items():
            self._connection.execute(
                sa.text("INSERT INTO ipa_heads (pipeline, number, digest) VALUES (:p, :n, :d)"),
                {"p": pipeline, "n": number, "d": digest},
            )

    def _read(self, query: sa.TextClause) -> Iterator[Any]:
        yield from self._connection.execute(query, execution_options={"yield_per": 500})

    def _old_chains(self) -> dict[str, tuple[int, str, str | None]]:
        """By pipeline how many decisions there are, the last digest, and the first that was changed."""
        found: dict[str, tuple[int, str, str | None]] = {}
        query = sa.text("SELECT pipeline, decision_id, body, digest FROM ipa_decisions ORDER BY seq")
        for pipeline, decision_id, body, digest in self._read(query):
            count, before, damaged = found.get(pipeline, (0, "", None))
            computed = hashlib.sha256(before.encode() + b"\0" + body.encode() + b"\0").hexdigest()
            if damaged is None and computed != digest:
                damaged = decision_id
            found[pipeline] = (count + 1, digest, damaged)
        return found

    def _decision(self, body: str, decision_id: str, at: str) -> None:
        decision = json.loads(body)
        is_change = decision["action"] == "apply"
        forecast, plan = decision.get("forecast") or {}, decision.get("plan") or {}
        facts = {name: decision.get(name) for name in FACTS} | {
            "forecast_upper_rps": forecast.get("upper_rps"),
            "pas": plan.get("pas"),
            "cores": sum(each["cores"] * each["replicas"] for each in decision["configs"]) or None,
        }
        self._add(
            {
                "pipeline": decision["pipeline"],
                "kind": "decision",
                "what": decision["reason"],
                "at": at,
                "why": decision["detail"],
                "from": decision["previous"] if is_change else None,
                "to": decision["configs"] if is_change else None,
                "decision_id": decision_id,
                "facts": facts,
                "content": hashlib.sha256(body.encode()).hexdigest(),
            }
        )

    def _add(self, said: dict[str, Any]) -> None:
        pipeline = said["pipeline"]
        number, previous = self._heads.get(pipeline, (0, ""))
        self._seq += 1
        place = {"seq": self._seq, "number": number + 1, "previous": previous}
        entry = {"by": "ipa", "why": "", "from": None, "to": None, "decision_id": "", "content": ""}
        entry |= said | place
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._heads[pipeline] = (number + 1, digest)
        self._rows.append(
            {
                "s": self._seq,
                "p": pipeline,
                "n": number + 1,
                "k": entry["kind"],
                "i": entry["decision_id"],
                "b": text,
                "d": digest,
            }
        )
        if len(self._rows) >= 500:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._connection.execute(
                sa.text(
                    "INSERT INTO ipa_entries (seq, pipeline, number, kind, decision_id, body, digest) "
                    "VALUES (:s, :p, :n, :k, :i, :b, :d)"
                ),
                self._rows,
            )
        self._rows = []
