"""The wire format: the names of the measurements, the records, and their encoding.

Comes in: records (frames of statistics, layouts, events) from capture.
Goes out: bytes, and the same records decoded from them, bit for bit.
Promise:  imports only msgspec and numpy; every body is checked before it is used.
Start at `vocabulary` for the names, `records` for the shapes, `codec` for the bytes.
"""

from trainvitals.wire.codec import WireError, WireVersionError, decode, encode
from trainvitals.wire.records import (
    Batch,
    Dropped,
    Event,
    Frame,
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    Record,
    RunEnd,
    RunStart,
)
from trainvitals.wire.vocabulary import (
    CONTENT_TYPE,
    NEWEST_VERSION,
    OLDEST_VERSION,
    STATISTICS,
    EventKind,
    Scalar,
    Stat,
    Stream,
)

__all__ = [
    "CONTENT_TYPE",
    "NEWEST_VERSION",
    "OLDEST_VERSION",
    "STATISTICS",
    "Batch",
    "Dropped",
    "Event",
    "EventKind",
    "Frame",
    "Heartbeat",
    "Layout",
    "NotWatched",
    "Place",
    "Record",
    "RunEnd",
    "RunStart",
    "Scalar",
    "Stat",
    "Stream",
    "WireError",
    "WireVersionError",
    "decode",
    "encode",
]
