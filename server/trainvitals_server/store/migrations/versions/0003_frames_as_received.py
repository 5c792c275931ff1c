"""The log keeps frames as received.

The steps and times of a row were in a separate format; the frame's part of the batch's header
replaces them. Rows that are not sealed yet are converted.
"""

import struct

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ROWS = 500
"""Rows that are converted at a time."""


def upgrade() -> None:
    """Replace each row's steps and times by a frame header of wire version 1."""
    # Both engines rename in place. Alembic would copy SQLite's table with all values.
    op.execute("ALTER TABLE ingest_log RENAME COLUMN axis TO header")
    log = sa.table(
        "ingest_log",
        sa.column("pk", sa.BigInteger),
        sa.column("track_pk", sa.BigInteger),
        sa.column("n", sa.BigInteger),
        sa.column("header", sa.LargeBinary),
    )
    track = sa.table("track", *map(sa.column, ("pk", "stream", "version", "places", "statistics")))
    connection = op.get_bind()
    wanted = (
        sa.select(log.c.pk, log.c.n, log.c.header, *list(track.c)[1:])
        .join(track, track.c.pk == log.c.track_pk)
        .order_by(log.c.pk)
        .limit(ROWS)
    )
    after = -1
    while rows := connection.execute(wanted.where(log.c.pk > after)).all():
        for row in rows:
            numbers = struct.unpack(f"<{row.n}q{row.n}d", row.header)
            header = {
                "type": "frame",
                "stream": row.stream,
                "layout": row.version,
                "steps": numbers[: row.n],
                "times": numbers[row.n :],
                "places": row.places,
                "statistics": row.statistics,
            }
            connection.execute(
                sa.update(log)
                .where(log.c.pk == row.pk)
                .values(header=msgspec.msgpack.encode(header))
            )
        after = rows[-1].pk
