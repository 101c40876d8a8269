"""Plans under ids, answers under the keys of their requests, and pipelines that were given over the API."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "ipa_plans",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("plan_id", sa.String(64), nullable=False, unique=True),
        sa.Column("pipeline", sa.String(253), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "ipa_answers",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("mark", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("body", sa.Text, nullable=True),
    )
    op.create_index("ix_ipa_answers_at_s", "ipa_answers", ["at_s"])
    op.create_table(
        "ipa_pipelines",
        sa.Column("pipeline", sa.String(253), primary_key=True),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
