"""The first schema: decisions, controls, profiles."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "ipa_decisions",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("decision_id", sa.String(253), nullable=False, unique=True),
        sa.Column("pipeline", sa.String(253), nullable=False),
        sa.Column("tick", sa.Integer, nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_index("ix_ipa_decisions_pipeline_seq", "ipa_decisions", ["pipeline", "seq"])
    op.create_index("ix_ipa_decisions_pipeline_action_seq", "ipa_decisions", ["pipeline", "action", "seq"])
    op.create_table(
        "ipa_controls",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "ipa_profiles",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("pipeline", sa.String(253), nullable=False),
        sa.Column("stage", sa.String(253), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("pipeline", "stage", "revision", name="uq_ipa_profiles_revision"),
    )
