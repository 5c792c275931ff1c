"""Choose the frames that are written to a spool that fills up.

Comes in: frames, and the share of the spool's limit that is used, 0 to 1. Goes out: whether a frame
is written.
Promise:  frames of tensors are thinned to every 2nd, 4th and 8th and end first, then those of run
          scalars. All other records (events, layouts, the end) use the space that is left.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from trainvitals.wire import Frame, Stream

INTERVALS: Final = ((0.5, 1), (0.6, 2), (0.7, 4), (0.8, 8))
"""(used share, every): below this share, every n-th frame of a tensor stream is written."""
SCALARS_BELOW: Final = 0.95


class Thinning:
    """Counts the frames of each stream, so that all streams keep the same captures."""

    def __init__(self) -> None:
        self._seen: Counter[Stream] = Counter()

    def keeps(self, frame: Frame, used: float) -> bool:
        """Whether the frame is written when the share `used` of the limit is used."""
        if frame.stream is Stream.SCALAR:
            return used < SCALARS_BELOW
        seen = self._seen[frame.stream]
        self._seen[frame.stream] += 1
        every = next((every for below, every in INTERVALS if used < below), 0)
        return every > 0 and seen % every == 0
