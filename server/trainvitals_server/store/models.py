"""The tables. One schema for SQLite and Postgres; `migrations` builds it, a test compares.

run ─< attempt ─< source ─< batch (the keys of what was acknowledged)
                         ─< track (one stream under one layout) ─< ingest_log, chunk
run ─< finding, event, dropped

Never a row per scalar: numbers live in `ingest_log` as received and in `chunk` once sealed.
Structures and free text of users are msgpack blobs: a NUL or a NaN in them is no trouble there,
and would be in Postgres' text and JSON.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite gives out row numbers only for a column of type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """All tables. Names of constraints are fixed, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        float: Double,
        str: String,
        bytes: LargeBinary,
    }


class Run(Base):
    """One training run: identity, what it said of itself, and the newest of everything."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "started_at", "pk"), Index(None, "project"))

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    project: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[float]
    last_report_at: Mapped[float]
    """By the collector's clock: what "lost contact" is measured from."""
    ended_at: Mapped[float | None]
    step: Mapped[int]
    step_at: Mapped[float | None]
    """When `step` was, by the trainer's clock."""
    total_steps: Mapped[int | None]
    loss: Mapped[float | None]
    step_rate: Mapped[float | None]
    overhead: Mapped[float | None]
    host: Mapped[str]
    health: Mapped[float | None]
    """None before the first round."""
    diagnosed_step: Mapped[int | None]
    """Up to where the last round looked."""
    error_count: Mapped[int]
    warning_count: Mapped[int]
    info_count: Mapped[int]
    headline: Mapped[bytes | None]
    verdict: Mapped[str]
    """Of the last round: a `Verdict`."""
    blind: Mapped[bytes]
    """Of the last round: rule → why it could not run."""
    error: Mapped[bytes]
    """Why the run failed, UTF-8; empty for a run that did not."""
    tags: Mapped[bytes]
    search: Mapped[str]
    """Id, project, name, host and tags in lower case: what the run list's search looks in."""
    sparkline: Mapped[bytes]
    scalars: Mapped[bytes]
    """The newest value of each scalar: {name: [step, value]}."""
    about: Mapped[bytes]
    """The newest RunStart, as it came."""
    not_watched: Mapped[bytes]
    revision: Mapped[int]
    """One more with each stored batch."""
    rounded: Mapped[int]
    """The revision that the last round looked at."""
    changes: Mapped[int]
    """One more with any change of this row."""


class Attempt(Base):
    """One start of a run; a restart is another. Numbered by `started_at`."""

    __tablename__ = "attempt"
    __table_args__ = (Index(None, "run_pk"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    started_at: Mapped[float]


class Source(Base):
    """One process of an attempt."""

    __tablename__ = "source"
    __table_args__ = (Index(None, "attempt_pk"), Index(None, "run_pk"))

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[bytes] = mapped_column(unique=True)
    """The 16 random bytes of its batches."""
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    attempt_pk: Mapped[int] = mapped_column(ForeignKey("attempt.pk", ondelete="CASCADE"))
    rank: Mapped[int]
    host: Mapped[str]
    pid: Mapped[int]
    first_seen_at: Mapped[float]
    last_seq: Mapped[int]
    """The highest seen."""
    batches: Mapped[int]
    """How many are stored: last_seq + 1 when none is missing."""
    sealed_to: Mapped[int]
    """Every seq below was stored and its key dropped from `batch`: the second guard against a
    duplicate, without which a late repeat of a forgotten batch would count again."""
    ended: Mapped[bool]
    produced: Mapped[int]
    dropped: Mapped[int]


class BatchKey(Base):
    """That a batch was stored. Inserted in the transaction of its records."""

    __tablename__ = "batch"

    source_pk: Mapped[int] = mapped_column(
        ForeignKey("source.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    crc: Mapped[int]


class Track(Base):
    """One stream of one source under one layout: fixed rows and columns."""

    __tablename__ = "track"
    __table_args__ = (UniqueConstraint("source_pk", "stream", "version"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    source_pk: Mapped[int] = mapped_column(ForeignKey("source.pk", ondelete="CASCADE"))
    stream: Mapped[str]
    version: Mapped[int]
    layout: Mapped[bytes]
    """The Layout record."""
    places: Mapped[int]
    statistics: Mapped[int]
    rows: Mapped[int]
    """Steps stored in all."""
    log_rows: Mapped[int]
    """Of these, how many still lie in the log."""
    segments: Mapped[int]


class LogFrame(Base):
    """A frame as received: waiting to be sealed."""

    __tablename__ = "ingest_log"
    # Autoincrement: a key is never given out twice, so that a reader knows what is new.
    __table_args__ = (
        UniqueConstraint("track_pk", "seq", "part"),
        {"sqlite_autoincrement": True},
    )

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    track_pk: Mapped[int] = mapped_column(ForeignKey("track.pk", ondelete="CASCADE"))
    seq: Mapped[int]
    part: Mapped[int]
    """Position of the frame in its batch."""
    lo: Mapped[int]
    hi: Mapped[int]
    """First and last step."""
    n: Mapped[int]
    axis: Mapped[bytes]
    """Steps (int64), then times (float64), little-endian."""
    values: Mapped[bytes]
    """float32, little-endian, (n, places, statistics)."""


class Chunk(Base):
    """A sealed block: some neighbouring series over the rows of one segment, compressed."""

    __tablename__ = "chunk"

    track_pk: Mapped[int] = mapped_column(
        ForeignKey("track.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    tier: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """0: every row; 1: 16 rows in one; 2: 256 rows in one."""
    group: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Which series: 32 to a group, numbered statistic-major; −1 is the axis."""
    segment: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lo: Mapped[int]
    hi: Mapped[int]
    n: Mapped[int]
    codec: Mapped[int]
    crc: Mapped[int]
    blob: Mapped[bytes]


class FindingRow(Base):
    """A finding: one for each (run, code, place, episode)."""

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("run_pk", "code", "place", "episode"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    code: Mapped[str]
    place: Mapped[str]
    episode: Mapped[int]
    """Counts the times this was found here, from 0."""
    position: Mapped[int]
    """In the diagnosis' ranking."""
    severity: Mapped[str]
    state: Mapped[str]
    since_step: Mapped[int]
    opened_at: Mapped[float]
    """By the collector's clock, when first seen."""
    finding: Mapped[bytes]


class EventRow(Base):
    """Something that happened at a step."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "run_pk"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    source_pk: Mapped[int] = mapped_column(ForeignKey("source.pk", ondelete="CASCADE"))
    event: Mapped[bytes]


class DroppedRow(Base):
    """An interval of records that the trainer could not keep."""

    __tablename__ = "dropped"
    __table_args__ = (Index(None, "run_pk"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    source_pk: Mapped[int] = mapped_column(ForeignKey("source.pk", ondelete="CASCADE"))
    reason: Mapped[str]
    records: Mapped[int]
    dropped: Mapped[bytes]


class Token(Base):
    """A key to the collector. The secret itself is not here: its SHA-256 is."""

    __tablename__ = "token"

    id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    project: Mapped[str | None]
    """The only project it opens; None for all."""
    sha256: Mapped[bytes]
    label: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
