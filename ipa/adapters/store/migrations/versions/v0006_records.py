"""Which record a pipeline writes: one of its own for each pipeline that has had a name."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table, and say of answers which record they belong to."""
    op.create_table(
        "ipa_records",
        sa.Column("record", sa.String(253), primary_key=True),
        sa.Column("pipeline", sa.String(253), nullable=False, index=True),
        sa.Column("namespace", sa.String(253), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("ended_at", sa.String(40), nullable=True),
    )
    op.create_index("ix_ipa_plans_pipeline", "ipa_plans", ["pipeline"])
    op.add_column("ipa_answers", sa.Column("record", sa.String(253), nullable=False, server_default=""))
