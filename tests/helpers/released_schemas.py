"""Databases that collectors of older versions wrote, one for each revision of the schema.

`load(url, revision)` puts one into an empty database of either engine; `BATCHES` is what it holds.
To add the newest revision before the next migration: start its collector on an empty folder, and

    PYTHONPATH=tests python -m helpers.released_schemas URL HOME

sends the batches and writes HOME/trainvitals.db, which has the sealed rows, as SQL to the output.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import command

from helpers import plain_http
from helpers.batches import batch, frame, scalar_frame, scalars, start
from trainvitals.wire import CONTENT_TYPE, Dropped, Layout, Place, RunEnd, Stat, Stream, encode
from trainvitals_server.store.migrate import configuration, parsed

FOLDER = Path(__file__).parents[1] / "server/store/released_schemas"
REVISIONS = tuple(sorted(path.stem for path in FOLDER.glob("*.sql")))
STEPS = 1100
"""More than a segment, so that some rows are sealed and some are not."""
PLACES = ("first.weight", "last.weight")
SEAL_S = 12.0


def losses() -> np.ndarray:
    """Return the loss of each step; the last 30 are infinite, which a rule reports."""
    values = np.float32(4) / (1 + np.arange(STEPS, dtype=np.float32) // 64)
    values[-30:] = np.inf
    return values


def weights() -> np.ndarray:
    """Return the RMS of the weights, shape (steps, places, 1)."""
    return np.repeat([[2.0, 3.0]], STEPS, axis=0).astype(np.float32)[:, :, None]


def _sent() -> list[bytes]:
    layouts = scalars("loss"), Layout(Stream.WEIGHT, 0, (Stat.RMS,), tuple(map(Place, PLACES)))
    parts = [range(at, min(at + 100, STEPS)) for at in range(0, STEPS, 100)]
    ended = [
        batch(
            *((start(host="host", pid=1), *layouts) if seq == 0 else ()),
            scalar_frame(part, losses()[part].tolist()),
            frame(Stream.WEIGHT, part, weights()[part]),
            seq=seq,
            run="ended",
        )
        for seq, part in enumerate(parts)
    ]
    last = len(ended)
    end = RunEnd(STEPS, STEPS - 1, "finished", last_seq=last, produced=3 + 2 * last, dropped=0)
    ended.append(batch(end, seq=last, run="ended"))
    # The batch with seq 1 of rank 1 is missing.
    running = [
        batch(*records, seq=seq, run="running", source=bytes([rank + 1]) * 16, rank=rank)
        for rank, seq, records in (
            (0, 0, (start(), scalars("loss"), scalar_frame([0, 1], [2.0, 1.0]))),
            (1, 0, (start(), scalars("loss"), scalar_frame([0], [2.0]))),
            (1, 2, (scalar_frame([2], [0.5]), Dropped(1, 1, "scalar", "spool_full", 3))),
        )
    ]
    return [encode(each) for each in (*ended, *running)]


BATCHES = _sent()


def load(url: str, revision: str) -> None:
    """Put the database of a revision into the empty database at `url`."""
    script = (FOLDER / f"{revision}.sql").read_text()
    parts = parsed(url)
    if parts.get_backend_name() == "sqlite":
        with sqlite3.connect(parts.database or "") as connection:
            connection.executescript(script)
        connection.close()
        return
    source = sqlite3.connect(":memory:")
    source.executescript(script)
    source.row_factory = sqlite3.Row
    engine = sa.create_engine(parts, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        config = configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                _copy(source, connection, table)
    source.close()


def _copy(source: sqlite3.Connection, connection: sa.Connection, table: sa.Table) -> None:
    booleans = {column.name for column in table.columns if isinstance(column.type, sa.Boolean)}
    rows = [
        {name: bool(row[name]) if name in booleans else row[name] for name in row.keys()}  # noqa: SIM118
        for row in source.execute(f'SELECT * FROM "{table.name}"')
    ]
    if not rows:
        return
    connection.execute(sa.insert(table), rows)
    for key in table.primary_key:
        wanted = {"table": table.name, "column": key.name, "last": rows[-1][key.name]}
        if connection.scalar(
            sa.text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": table.name, "column": key.name},
        ):
            connection.execute(
                sa.text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"), wanted
            )


def main(url: str, home: Path) -> None:
    """Send the batches to a collector, wait until it has sealed them, and print its database."""
    headers: dict[str, Any] = {"Content-Type": CONTENT_TYPE}
    headers["Authorization"] = f"Bearer {(home / 'token').read_text().strip()}"
    for body in BATCHES:
        answer = plain_http.post(f"{url}/api/v1/ingest", content=body, headers=headers)
        answer.raise_for_status()
    time.sleep(SEAL_S)
    connection = sqlite3.connect(f"file:{home / 'trainvitals.db'}?mode=ro", uri=True)
    print("\n".join(connection.iterdump()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
