"""Experiments, which outlive the service: their state, their run until they end, and their report."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "ipa_experiments",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("experiment_id", sa.String(64), nullable=False, unique=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("report", sa.LargeBinary, nullable=True),
    )
