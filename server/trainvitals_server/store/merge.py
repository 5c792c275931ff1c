"""Merge the spans of consecutive segments, so that a reader needs few chunks of a long run.

A segment is sealed with its rows and its spans of tier 1. When 16 consecutive segments have spans
of a tier, their chunks are replaced by one chunk, and their spans are folded 16 to 1 to the next
tier. So tier t is in chunks of about 1,024 spans, and each row is merged once for each tier.

Segments are merged in blocks that start at a multiple of 16 (256, 4,096). Segments whose steps
overlap, after a batch that arrived late, stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa

from trainvitals_server.store import statements
from trainvitals_server.store.chunks import AXIS_GROUP, span_chunks
from trainvitals_server.store.database import Database
from trainvitals_server.store.models import Chunk, Track
from trainvitals_server.store.tiers import TIER_FACTOR, TIERS
from trainvitals_server.store.track_rows import TrackShape
from trainvitals_server.store.zoom import merged_spans


@dataclass(frozen=True)
class _Block:
    """Consecutive segments whose chunks of one tier are merged."""

    tier: int
    segment: int
    segments: int


def merge_due(database: Database, track: TrackShape) -> None:
    """Merge all complete blocks of a track, finest tier first."""
    for tier in TIERS:
        for block in _complete(database, track, tier):
            _merge(database, track, block)


def _complete(database: Database, track: TrackShape, tier: int) -> list[_Block]:
    each = TIER_FACTOR ** (tier - 1)
    wanted = (
        sa.select(Chunk.segment, Chunk.lo, Chunk.hi)
        .where(
            Chunk.track_pk == track.pk,
            Chunk.tier == tier,
            Chunk.group == AXIS_GROUP,
            Chunk.segments == each,
        )
        .order_by(Chunk.segment)
    )
    with database.read() as connection:
        rows = connection.execute(wanted).all()
    blocks: dict[int, list[Any]] = {}
    for row in rows:
        blocks.setdefault(row.segment // (each * TIER_FACTOR), []).append(row)
    return [
        _Block(tier, number * each * TIER_FACTOR, each * TIER_FACTOR)
        for number, parts in blocks.items()
        if len(parts) == TIER_FACTOR and all(a.hi < b.lo for a, b in pairwise(parts))
    ]


def _merge(database: Database, track: TrackShape, block: _Block) -> None:
    stop = block.segment + block.segments
    with database.read() as connection:
        spans = merged_spans(
            connection, track, np.arange(track.series), block.tier, (block.segment, stop)
        )
    chunks = span_chunks(spans, block.tier)
    if block.tier < TIERS[-1]:
        chunks += span_chunks(spans.every(TIER_FACTOR), block.tier + 1)
    common = {"track_pk": track.pk, "segment": block.segment, "segments": block.segments}
    rows = [{**common, **chunk} for chunk in chunks]
    # An older version stored tier 2 for each segment; the merged spans replace those as well.
    replaced = (
        Chunk.track_pk == track.pk,
        Chunk.tier.in_([block.tier, block.tier + 1]),
        Chunk.segment >= block.segment,
        Chunk.segment < stop,
        Chunk.segments < block.segments,
    )
    added = sum(len(row["blob"]) for row in rows)

    def write(connection: sa.Connection) -> None:
        old = sa.select(sa.func.sum(sa.func.length(Chunk.blob))).where(*replaced)
        change = added - int(connection.scalar(old) or 0)
        connection.execute(sa.delete(Chunk).where(*replaced))
        statements.NEW_CHUNKS.run(connection, *rows)
        owner = sa.update(Track).where(Track.pk == track.pk)
        connection.execute(owner.values(span_bytes=Track.span_bytes + change))

    database.write(write)
