"""The shared vocabulary: what a training process measures and how it travels.

Comes in: records (frames of statistics, layouts, events) from the capture side.
Goes out: bytes, and from bytes the same records again, bit for bit.
Promise:  msgspec and numpy only; nothing in a body is trusted before it is checked.
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
