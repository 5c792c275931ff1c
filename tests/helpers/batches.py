"""Batches as a trainer sends them, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from trainvitals.api.schema import Diagnosis, Finding, Verdict
from trainvitals.diagnosis.causes import headline_of
from trainvitals.wire import (
    Batch,
    Frame,
    Layout,
    Place,
    Record,
    RunStart,
    Stat,
    Stream,
    decode,
    encode,
)
from trainvitals_server.store import Ack, Store
from trainvitals_server.store.models import BatchKey, Chunk, Run, Track
from trainvitals_server.store.removal import GONE

SOURCE = b"0123456789abcdef"
STARTED_AT = 1_700_000_000.0


def batch(
    *records: Record,
    seq: int = 0,
    run: str = "r",
    project: str = "p",
    source: bytes = SOURCE,
    rank: int = 0,
    counted: int | None = None,
) -> Batch:
    return Batch(run, project, source, seq, STARTED_AT, rank, tuple(records), counted)


def start(**fields: object) -> RunStart:
    return RunStart(**{"started_at": STARTED_AT, **fields})  # type: ignore[arg-type]


def scalars(*names: str, version: int = 0) -> Layout:
    return Layout(Stream.SCALAR, version, (Stat.VALUE,), tuple(map(Place, names)))


def scalar_frame(steps: Sequence[int], *columns: Sequence[float], version: int = 0) -> Frame:
    """One column of values for each scalar of the layout."""
    values = np.array(columns, np.float32).T[:, :, None]
    return frame(Stream.SCALAR, steps, values, version=version)


def frame(stream: Stream, steps: Sequence[int], values: np.ndarray, *, version: int = 0) -> Frame:
    numbered = np.array(steps, np.int64)
    return Frame(stream, version, numbered, STARTED_AT + 0.1 * numbered, values.astype("<f4"))


def ingest(store: Store, sent: Batch) -> Ack:
    body = encode(sent)
    return store.ingest(decode(body), body)


def diagnosis(findings: Sequence[Finding], *, health: float, step: int) -> Diagnosis:
    """Return what a round saves of a run with these findings."""
    headline = headline_of(findings)
    verdict = Verdict(headline.severity.value) if headline else Verdict.HEALTHY
    return Diagnosis(
        step=step, verdict=verdict, headline=headline, findings=tuple(findings), health=health
    )


class Amounts(NamedTuple):
    """Numbers of stored rows."""

    runs: int
    batches: int
    log_rows: int
    """Steps that wait to be sealed."""
    chunks: int


def amounts(store: Store) -> Amounts:
    """Return how much a store holds."""
    wanted = (
        sa.select(sa.func.count()).select_from(Run).where(Run.state.not_in(GONE)),
        sa.select(sa.func.count()).select_from(BatchKey),
        sa.select(sa.func.sum(Track.log_rows)),
        sa.select(sa.func.count()).select_from(Chunk),
    )
    with store.database.read() as connection:
        return Amounts(*(int(connection.scalar(each) or 0) for each in wanted))
