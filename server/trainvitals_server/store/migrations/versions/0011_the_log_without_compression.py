"""Postgres stores the values of the log as they are.

It tried to compress each frame with pglz, the largest single cost of the server. The rows stay in
the log until they are sealed with a better compression.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Set the storage of new rows; stored rows are read as before."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE ingest_log ALTER COLUMN "values" SET STORAGE EXTERNAL')
