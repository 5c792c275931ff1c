"""The tables: one schema for SQLite and Postgres.

`migrations` creates it; a test compares the two.

run ─< attempt ─< source ─< batch (the keys of the acknowledged batches)
                         ─< track (one stream under one layout) ─< ingest_log, chunk
run ─< finding, event, dropped, notification

No table has one row per scalar: `ingest_log` stores values as received, `chunk` stores them after
they are sealed. Structures and free text from users are stored as msgpack blobs, because
Postgres' text and JSON types reject NUL and NaN.
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
from sqlalchemy import (
    false as sa_false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite generates primary keys only for a column of type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Base class of all tables. Constraint names are fixed, so migrations can refer to them."""

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
    """One training run: its identity, the metadata it reported, and its newest values."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "started_at", "pk"), Index(None, "project"))

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    project: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[float]
    last_report_at: Mapped[float]
    """Time on the collector's clock. The state `lost` is computed from it."""
    ended_at: Mapped[float | None]
    step: Mapped[int]
    step_at: Mapped[float | None]
    """Time of `step` on the trainer's clock."""
    total_steps: Mapped[int | None]
    loss: Mapped[float | None]
    step_rate: Mapped[float | None]
    overhead: Mapped[float | None]
    host: Mapped[str]
    health: Mapped[float | None]
    """None before the first diagnosis round."""
    diagnosed_step: Mapped[int | None]
    """The newest step that the last round read."""
    error_count: Mapped[int]
    warning_count: Mapped[int]
    info_count: Mapped[int]
    headline: Mapped[bytes | None]
    verdict: Mapped[str]
    """A `Verdict`, from the last round."""
    blind: Mapped[bytes]
    """Rule → the reason why it could not run, from the last round."""
    error: Mapped[bytes]
    """Why the run failed, as UTF-8; empty when it did not fail."""
    tags: Mapped[bytes]
    search: Mapped[str]
    """Id, project, name, host and tags in lower case. The run list searches this text."""
    sparkline: Mapped[bytes]
    scalars: Mapped[bytes]
    """The newest value of each scalar: {name: [step, value]}."""
    about: Mapped[bytes]
    """The newest RunStart record, as received."""
    not_watched: Mapped[bytes]
    revision: Mapped[int]
    """Incremented by each stored batch."""
    rounded: Mapped[int]
    """The revision that the last round read."""
    changes: Mapped[int]
    """Incremented by each change of this row."""
    notes: Mapped[bytes | None]
    """Written by users, as UTF-8: text columns of Postgres reject NUL."""
    archived: Mapped[bool] = mapped_column(server_default=sa_false())
    """Whether a user archived the run."""
    edited: Mapped[str] = mapped_column(server_default="")
    """Which of name and tags a user has set, separated by spaces: the run's process no longer
    changes them."""
    binned_id: Mapped[str | None]
    """The id before the run was put into the bin; its column `id` then has a random one."""
    binned_state: Mapped[str | None]
    """The state before."""
    deleted_at: Mapped[float | None]
    """When it was moved to the bin, on the collector's clock."""


class Attempt(Base):
    """One start of a run; a restart is a new attempt. Attempts are ordered by `started_at`."""

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
    """The 16 random bytes that identify the source in its batches."""
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    attempt_pk: Mapped[int] = mapped_column(ForeignKey("attempt.pk", ondelete="CASCADE"))
    rank: Mapped[int]
    host: Mapped[str]
    pid: Mapped[int]
    first_seen_at: Mapped[float]
    last_seq: Mapped[int]
    """The highest sequence number received."""
    batches: Mapped[int]
    """Number of stored batches: last_seq + 1 when none is missing."""
    sealed_to: Mapped[int]
    """All batches with a lower seq are stored, and their keys were moved from `batch` to
    `pruned_keys`. Without this limit, a late repeat of a batch would be stored twice."""
    ended: Mapped[bool]
    records: Mapped[int | None]
    """Number of stored records, as `produced` counts them; NULL when a batch did not state it."""
    produced: Mapped[int]
    """From its RunEnd record, as `dropped`; 0 before."""
    dropped: Mapped[int]


class BatchKey(Base):
    """The key of a stored batch. It is inserted in the same transaction as the batch's records."""

    __tablename__ = "batch"

    source_pk: Mapped[int] = mapped_column(
        ForeignKey("source.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    crc: Mapped[int]


class PrunedKeys(Base):
    """The checksums of consecutive batches whose keys were deleted from `batch`."""

    __tablename__ = "pruned_keys"

    source_pk: Mapped[int] = mapped_column(
        ForeignKey("source.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    lo: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Sequence number of the first."""
    crcs: Mapped[bytes]
    """uint32 for each batch, little-endian."""


class Track(Base):
    """One stream of one source under one layout: places and statistics do not change."""

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
    """Number of stored steps."""
    log_rows: Mapped[int]
    """Number of these steps that are still in the log."""
    segments: Mapped[int]
    sealed_bytes: Mapped[int]
    """Compressed bytes of its chunks of tier 0."""
    span_bytes: Mapped[int]
    """Compressed bytes of its other chunks."""
    thinned_rows: Mapped[int]
    """Number of steps that are stored at tiers 1 to 3 only (`retention`)."""


class LogFrame(Base):
    """A frame as received, not sealed yet."""

    __tablename__ = "ingest_log"
    # Autoincrement: SQLite never reuses a key, so a higher key is always a newer row.
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
    header: Mapped[bytes]
    """The frame's part of the batch's header, as received: stream, layout, steps, times, shape.
    All rows have wire version 1: another version needs a column that tells them apart."""
    values: Mapped[bytes]
    """The frame's float32 block, as received: (n, places, statistics), little-endian."""


class Chunk(Base):
    """A compressed block of up to 32 consecutive series (`chunks`)."""

    __tablename__ = "chunk"

    track_pk: Mapped[int] = mapped_column(
        ForeignKey("track.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    tier: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """0: every row; t: one span per 16^t rows."""
    group: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Index of the group of 32 series, numbered statistic-major; −1 is the axis."""
    segment: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number of its first segment in the track."""
    segments: Mapped[int]
    """Number of its consecutive segments: 1 at tier 0; at tier t, 16^(t − 1), or 16^t after they
    were merged."""
    lo: Mapped[int]
    hi: Mapped[int]
    n: Mapped[int]
    codec: Mapped[int]
    crc: Mapped[int]
    blob: Mapped[bytes]


class FindingRow(Base):
    """A finding; (run, code, place, episode) is unique."""

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("run_pk", "code", "place", "episode"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    code: Mapped[str]
    place: Mapped[str]
    episode: Mapped[int]
    """Number of earlier findings of this rule at this place, from 0."""
    position: Mapped[int]
    """Position in the diagnosis' ranking, from 0."""
    severity: Mapped[str]
    state: Mapped[str]
    since_step: Mapped[int]
    opened_at: Mapped[float]
    """Time on the collector's clock when the finding was first saved."""
    finding: Mapped[bytes]


class EventRow(Base):
    """An event that the trainer reported at a step."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "run_pk"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    source_pk: Mapped[int] = mapped_column(ForeignKey("source.pk", ondelete="CASCADE"))
    event: Mapped[bytes]


class DroppedRow(Base):
    """An interval of steps in which the trainer dropped records."""

    __tablename__ = "dropped"
    __table_args__ = (Index(None, "run_pk"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    source_pk: Mapped[int] = mapped_column(ForeignKey("source.pk", ondelete="CASCADE"))
    reason: Mapped[str]
    records: Mapped[int]
    dropped: Mapped[bytes]


class NotificationRow(Base):
    """What was sent to one channel about one rule of one run."""

    __tablename__ = "notification"
    __table_args__ = (UniqueConstraint("run_pk", "rule", "channel"), Index(None, "channel"))

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("run.pk", ondelete="CASCADE"))
    rule: Mapped[str]
    """The rule's name, or run_lost or run_failed."""
    channel: Mapped[str]
    is_open: Mapped[bool]
    """Whether it held when this row was last changed."""
    pending: Mapped[str]
    """The message to deliver: opened | resolved; empty when there is none."""
    opened_at: Mapped[float]
    """When the newest message "opened" became due; the cooldown counts from it."""
    next_at: Mapped[float]
    """The earliest time of the next attempt; without a pending message, the time of the end."""
    claimed_until: Mapped[float]
    """Until this time, the collector that claimed the message delivers it."""
    attempts: Mapped[int]
    """Number of failed attempts."""
    message: Mapped[bytes]
    """The message "opened" as msgpack."""


class SilenceRow(Base):
    """Findings that raise no message until a time; added by a user while the collector runs."""

    __tablename__ = "silence"
    __table_args__ = (Index(None, "until"),)

    pk: Mapped[int] = mapped_column(Key, primary_key=True)
    patterns: Mapped[bytes]
    """`silences.Patterns` as msgpack."""
    reason: Mapped[str]
    created_at: Mapped[float]
    created_by: Mapped[str]
    """The id of the token that added it."""
    until: Mapped[float]
    ended_at: Mapped[float | None]
    """When a user ended it; None when no user did."""
    ended_by: Mapped[str | None]


class Token(Base):
    """An access token. Only the SHA-256 of its secret is stored."""

    __tablename__ = "token"

    id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    project: Mapped[str | None]
    """The only project that it gives access to; None for all projects."""
    sha256: Mapped[bytes]
    label: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
