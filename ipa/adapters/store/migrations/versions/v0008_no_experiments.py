"""No experiments: `ipa compare` and `ipa experiment` run them, and keep their results in files."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Drop the table."""
    op.drop_table("ipa_experiments")
