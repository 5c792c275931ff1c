"""The tracks of sources and their decoded layouts, kept between the batches of a source.

A frame refers to a layout that its source announced before. A layout of 20,000 places has 6 MiB;
reading and decoding it for each batch would delay all other batches.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa
from cachetools import LRUCache

from trainvitals.wire import Layout
from trainvitals_server.store.statements import LAYOUT, TRACKS

PLACES_KEPT = 200_000
"""Total number of places of the kept layouts; about 100 bytes of memory for each."""

SOURCES_KEPT = 4096
"""Number of sources whose tracks are kept."""
TrackKey = tuple[str, int]
"""Stream and version of a layout."""

_decoder = msgspec.msgpack.Decoder(Layout)


def decode_layout(blob: bytes) -> Layout:
    """Return the layout in a track's row."""
    return _decoder.decode(blob)


class LayoutCache:
    """The layouts of the tracks that were used last. Safe for concurrent use."""

    def __init__(self, places_max: int = PLACES_KEPT) -> None:
        self._kept: LRUCache[tuple[int, bytes], Layout] = LRUCache(
            places_max, lambda layout: max(1, len(layout.places))
        )
        self._tracks: LRUCache[tuple[int, bytes], Mapping[TrackKey, int]] = LRUCache(SOURCES_KEPT)
        self._lock = threading.Lock()

    def tracks(
        self, connection: sa.Connection, source_pk: int, source: bytes, wanted: set[TrackKey]
    ) -> dict[TrackKey, int]:
        """Return the keys of those of the `wanted` tracks that the source has.

        A track that is not in memory is read from the database: another collector may have stored
        it.
        """
        with self._lock:
            known = self._tracks.get((source_pk, source), {})
        if not known.keys() >= wanted:
            rows = TRACKS.all(connection, {"source_pk": source_pk})
            known = {(row.stream, row.version): row.pk for row in rows}
            with self._lock:
                self._tracks[source_pk, source] = known
        return {key: known[key] for key in wanted if key in known}

    def get(self, connection: sa.Connection, track_pk: int, source: bytes) -> Layout:
        """Return the layout of a track of `source`.

        The key contains the source's random bytes: SQLite may use a deleted track's key again.
        """
        key = (track_pk, source)
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                return known
        layout = decode_layout(LAYOUT.one(connection, {"pk": track_pk}).layout)
        with self._lock:
            if len(layout.places) <= self._kept.maxsize:
                self._kept[key] = layout
        return layout

    def forget(self, source: bytes) -> None:
        """Forget the tracks of a source: its batch was refused, so they may not exist."""
        with self._lock:
            for owner in [owner for owner in self._tracks if owner[1] == source]:
                del self._tracks[owner]
            for key in [key for key in self._kept if key[1] == source]:
                del self._kept[key]
