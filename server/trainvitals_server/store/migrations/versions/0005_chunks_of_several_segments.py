"""Chunks of spans can have several segments. Chunks of older versions have one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; neither engine copies the table."""
    op.add_column(
        "chunk", sa.Column("segments", sa.BigInteger(), nullable=False, server_default="1")
    )
