"""The fields of a run that users change: notes, archived, name, tags; and the bin."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    for column in (
        sa.Column("notes", sa.LargeBinary(), nullable=True),
        sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("edited", sa.String(), nullable=False, server_default=""),
        sa.Column("binned_id", sa.String(), nullable=True),
        sa.Column("binned_state", sa.String(), nullable=True),
        sa.Column("deleted_at", sa.Double(), nullable=True),
    ):
        op.add_column("run", column)
