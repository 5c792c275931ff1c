"""What the ranks of a simulation produce, and what must be stored of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
import sqlalchemy as sa

from trainvitals.ship import Shipper
from trainvitals.ship.sender import BUSY_S
from trainvitals.ship.shipper import INTERVAL_S
from trainvitals.wire import Frame, Layout, Place, Record, RunStart, Stat, Stream
from trainvitals_server.store import Store
from trainvitals_server.store.chunks import AXIS_GROUP
from trainvitals_server.store.models import Chunk, LogFrame, Source, Track
from trainvitals_server.store.track_rows import TrackShape, read_rows

LAYOUTS = (
    Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"), Place("accuracy"))),
    Layout(Stream.WEIGHT, 0, (Stat.MEAN, Stat.STD), (Place("a"), Place("b"), Place("c"))),
)
MEMORY_S = INTERVAL_S + 2 * BUSY_S
"""A record that is older than this is on disk, or was sent."""

KEY, TRACK = sa.bindparam("key"), sa.bindparam("track")
SOURCE = sa.select(Source.pk, Source.records).where(Source.key == KEY)
TRACKS = sa.select(Track.pk, Track.stream).join(Source).where(Source.key == KEY)
LOGGED = sa.select(sa.func.sum(LogFrame.n)).where(LogFrame.track_pk == TRACK)
SEALED = sa.select(sa.func.sum(Chunk.n)).where(
    Chunk.track_pk == TRACK, Chunk.tier == 0, Chunk.group == AXIS_GROUP
)


@dataclass
class Life:
    """One training process, from its start to its end."""

    rank: int
    is_tight: bool
    """Whether its spool is too small for an outage."""
    shipper: Shipper | None = None
    records: list[tuple[float, Record]] = field(default_factory=list)
    """(time, record) of everything that it handed over."""
    killed_at: float | None = None
    is_closed: bool = False
    is_last: bool = False
    """Whether it was killed and is not started again."""

    def put(self, now: float, *records: Record) -> None:
        assert self.shipper is not None
        for record in records:
            self.records.append((now, record))
            self.shipper.put(record)

    def next_step(self) -> int:
        steps = [int(r.steps[-1]) for _, r in self.records if isinstance(r, Frame)]
        return max(steps, default=-1) + 1

    def dropped(self) -> int:
        """Return the records that the process has counted as dropped."""
        if self.shipper is None:
            return 0
        return self.shipper._sender._packer.dropped + self.shipper._buffer.dropped

    def in_memory(self) -> int:
        """Return how many records a kill may lose."""
        if self.shipper is None or self.killed_at is None:
            return 0
        recent = sum(at >= self.killed_at - MEMORY_S for at, _ in self.records)
        # What does not fit into a full spool stays in memory until it is sent.
        stuck = sum(batch.records for batch in self.shipper._sender._hot) if self.is_tight else 0
        return recent + stuck


def introduction(now: float, streams: int) -> tuple[Record, ...]:
    """Return what comes before the first step."""
    return (RunStart(now, name="r"), *LAYOUTS[:streams])


def frames_of_step(step: int, now: float, random: Random, streams: int) -> tuple[Frame, ...]:
    """Return one frame of each stream, with random values."""
    return tuple(
        Frame(
            layout.stream,
            layout.version,
            np.array([step]),
            np.array([now]),
            any_floats(random, len(layout.places), len(layout.statistics)),
        )
        for layout in LAYOUTS[:streams]
    )


def any_floats(random: Random, places: int, statistics: int) -> np.ndarray:
    values = [random.gauss(0, 10 ** random.uniform(-30, 30)) for _ in range(places * statistics)]
    return np.array(values, np.float32).reshape(1, places, statistics)


def stored_records(life: Life, store: Store) -> int:
    """Return how many records of a process the collector has counted."""
    with store.database.read() as connection:
        key = life.shipper.source if life.shipper is not None else b""
        source = connection.execute(SOURCE, {"key": key}).first()
    return 0 if source is None else int(source.records)


def problems_of(life: Life, store: Store) -> list[str]:
    """Return what of a process is lost, doubled or not counted."""
    if life.shipper is None:
        return []
    of = f"rank {life.rank}, source {life.shipper.source.hex()[:6]}"
    key = {"key": life.shipper.source}
    with store.database.read() as connection:
        tracks = connection.execute(TRACKS, key).all()
        found = []
        for pk, stream in tracks:
            found += [
                f"{of}, {stream}: {p}" for p in problems_of_rows(life, connection, pk, stream)
            ]
    if life.shipper.status.errors:
        found.append(f"{of}: {life.shipper.status.errors} exceptions in delivery")
    produced, dropped = len(life.records), life.dropped()
    stored = stored_records(life, store)
    unaccounted = produced - stored - dropped
    if not 0 <= unaccounted <= life.in_memory():
        found.append(
            f"{of}: {produced} produced, {stored} stored, {dropped} dropped, at most "
            f"{life.in_memory()} lost with the memory of the process"
        )
    return found


def problems_of_rows(life: Life, connection: sa.Connection, pk: int, stream: str) -> list[str]:
    """Return what differs between the rows of a stream and the frames that were produced."""
    [layout] = [each for each in LAYOUTS if each.stream == stream]
    frames = {
        int(r.steps[0]): (at, r.values)
        for at, r in life.records
        if isinstance(r, Frame) and r.stream == stream
    }
    shape = TrackShape(pk, len(layout.places), len(layout.statistics))
    rows = read_rows(connection, shape, np.arange(shape.series))
    blocks = shape.block(rows.values)
    counted = {"track": pk}
    kept = sum(connection.scalar(rows_of, counted) or 0 for rows_of in (LOGGED, SEALED))
    found = []
    if kept != len(rows.steps):
        found.append(f"{kept} rows for {len(rows.steps)} steps")
    for step, block in zip(rows.steps.tolist(), blocks, strict=True):
        if step not in frames or np.ascontiguousarray(block).tobytes() != frames[step][1].tobytes():
            found.append(f"step {step} is not stored as it was sent")
    if not life.dropped():
        since = np.inf if life.killed_at is None else life.killed_at - MEMORY_S
        lost = [step for step, (at, _) in frames.items() if step not in rows.steps and at < since]
        if lost:
            found.append(f"steps {lost} are lost")
    return found
