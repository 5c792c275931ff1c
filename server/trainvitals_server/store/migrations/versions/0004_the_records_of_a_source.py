"""The number of stored records of each source.

It is NULL for sources that sent batches before: their records were not counted.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    op.add_column("source", sa.Column("records", sa.BigInteger(), nullable=True))
