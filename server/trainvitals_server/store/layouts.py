"""Decoded layouts, kept between the batches of a source.

A frame refers to a layout that its source announced before. A layout of 20,000 places has 6 MiB;
reading and decoding it for each batch would delay all other batches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import msgspec
import sqlalchemy as sa

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
        self._places_max = places_max
        self._kept: OrderedDict[tuple[int, bytes], Layout] = OrderedDict()
        self._places = 0
        self._lock = threading.Lock()

    def get(self, connection: sa.Connection, track_pk: int, source: bytes) -> Layout:
        """Return the layout of a track of `source`.

        The key contains the source's random bytes: SQLite may use a deleted track's key again.
        """
        key = (track_pk, source)
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return known
        layout = decode_layout(connection.execute(LAYOUT, {"pk": track_pk}).scalar_one())
        with self._lock:
            if key not in self._kept:
                self._kept[key] = layout
                self._places += len(layout.places)
            while self._places > self._places_max and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._places -= len(oldest.places)
        return layout

    def forget(self, source: bytes) -> None:
        """Forget the layouts of a source: its batch was refused, so their tracks may not exist."""
        with self._lock:
            for key in [key for key in self._kept if key[1] == source]:
                self._places -= len(self._kept.pop(key).places)
