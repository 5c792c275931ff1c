"""The bytes of a track, and the number of its rows that retention has thinned."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns; count the bytes of what is stored."""
    for name in ("sealed_bytes", "span_bytes", "thinned_rows"):
        op.add_column("track", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE track SET sealed_bytes = (SELECT coalesce(sum(length(blob)), 0) FROM chunk "
        "WHERE chunk.track_pk = track.pk AND chunk.tier = 0), span_bytes = (SELECT "
        "coalesce(sum(length(blob)), 0) FROM chunk "
        "WHERE chunk.track_pk = track.pk AND chunk.tier > 0)"
    )
