"""Rows that hold their decision compressed, sealed segments with their checkpoints, and hourly series.

Nothing that is there is read or changed here: rows of older versions stay as they are until they are sealed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

GUARD = "the record is only ever added to"
# A row that a segment holds; a segment that another covers; one that goes on, or is joined with the next.
SEALED = (
    "EXISTS (SELECT 1 FROM ipa_segments s WHERE s.pipeline = OLD.pipeline "
    "AND s.first <= OLD.number AND s.last >= OLD.number)"
)
COVERED = (
    "EXISTS (SELECT 1 FROM ipa_segments s WHERE s.pipeline = OLD.pipeline "
    "AND s.first < OLD.first AND s.last >= OLD.last)"
)
GOES_ON = (
    "NEW.pipeline = OLD.pipeline AND NEW.first = OLD.first AND NEW.previous = OLD.previous "
    "AND NEW.last >= OLD.last AND NEW.held <= OLD.held + (NEW.last - OLD.last) "
    "AND (NEW.signature <> OLD.signature OR NEW.key_id = '')"
)


def upgrade() -> None:
    """Add columns and tables, and let sealed rows be removed."""
    for name, kind in (
        ("tick", sa.BigInteger),
        ("action", sa.String(16)),
        ("frame", sa.BigInteger),
        ("packed", sa.LargeBinary),
    ):
        op.add_column("ipa_entries", sa.Column(name, kind, nullable=True))
    op.create_table(
        "ipa_segments",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("last", "first_seq", "last_seq")),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("first_s", "last_s")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("first_tick", "last_tick", "decisions", "held", "changes", "kept")
        ),
        *(
            sa.Column(name, sa.String(64), nullable=False)
            for name in ("previous", "head", "entries", "content")
        ),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("signature", sa.String(88), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("block", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_ipa_segments_last", "ipa_segments", ["pipeline", "last"])
    op.create_index("ix_ipa_segments_last_seq", "ipa_segments", ["last_seq"])
    op.create_index("ix_ipa_segments_age", "ipa_segments", ["held", "last_s", "size_bytes"])
    op.create_table(
        "ipa_series",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("start_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("ix_ipa_series_start_s", "ipa_series", ["start_s"])
    for statement in _guards(op.get_bind().dialect.name):
        op.execute(statement)


def _guards(dialect: str) -> list[str]:
    if dialect == "sqlite":
        refused = {
            "ipa_entries_no_delete": f"DELETE ON ipa_entries WHEN NOT {SEALED}",
            "ipa_segments_no_delete": f"DELETE ON ipa_segments WHEN NOT {COVERED}",
            "ipa_segments_no_update": f"UPDATE ON ipa_segments WHEN NOT ({GOES_ON})",
        }
        return [
            "DROP TRIGGER ipa_entries_no_delete",
            *(
                f"CREATE TRIGGER {name} BEFORE {what} BEGIN SELECT RAISE(ABORT, '{GUARD}'); END"
                for name, what in refused.items()
            ),
        ]
    return [
        "CREATE OR REPLACE FUNCTION ipa_entries_guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {SEALED} THEN RETURN OLD; END IF; END IF; "
        f"RAISE EXCEPTION '{GUARD}'; END $$",
        "CREATE OR REPLACE FUNCTION ipa_segments_guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {COVERED} THEN RETURN OLD; END IF; "
        f"ELSIF {GOES_ON} THEN RETURN NEW; END IF; "
        f"RAISE EXCEPTION '{GUARD}'; END $$",
        "CREATE TRIGGER ipa_segments_guard BEFORE UPDATE OR DELETE ON ipa_segments "
        "FOR EACH ROW EXECUTE FUNCTION ipa_segments_guard()",
    ]
