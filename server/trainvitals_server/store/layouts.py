"""Decoded layouts, kept between the batches of a source.

A frame refers to a layout that its source announced before. A layout of 20,000 places has 6 MiB;
reading and decoding it for each batch would delay all other batches.
"""

from __future__ import annotations

import threading

import msgspec
import sqlalchemy as sa
from cachetools import LRUCache

from trainvitals.wire import Layout
from trainvitals_server.store.statements import LAYOUT

PLACES_KEPT = 200_000
"""Total number of places of the kept layouts; about 100 bytes of memory for each."""

_decoder = msgspec.msgpack.Decoder(Layout)


def decode_layout(blob: bytes) -> Layout:
    """Return the layout in a track's row."""
    return _decoder.decode(blob)


class Layouts:
    """The layouts of the tracks that were used last. Safe for concurrent use."""

    def __init__(self, places_max: int = PLACES_KEPT) -> None:
        self._kept: LRUCache[tuple[int, bytes], Layout] = LRUCache(
            places_max, lambda layout: max(1, len(layout.places))
        )
        self._lock = threading.Lock()

    def get(self, connection: sa.Connection, track_pk: int, source: bytes) -> Layout:
        """Return the layout of a track of `source`.

        The key contains the source's random bytes: SQLite may use a deleted track's key again.
        """
        key = (track_pk, source)
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                return known
        layout = decode_layout(connection.execute(LAYOUT, {"pk": track_pk}).scalar_one())
        with self._lock:
            if len(layout.places) <= self._kept.maxsize:
                self._kept[key] = layout
        return layout

    def forget(self, source: bytes) -> None:
        """Forget the layouts of a source: its batch was refused, so their tracks may not exist."""
        with self._lock:
            for key in [key for key in self._kept if key[1] == source]:
                del self._kept[key]
