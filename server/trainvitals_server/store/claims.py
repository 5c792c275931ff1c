"""The keys that threads of this process hold exclusively, for `Database.claim`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Claims:
    """The keys that this process has claimed."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def claim(self, key: int) -> Iterator[bool]:
        """Yield whether this caller holds `key`; it is released when the block ends."""
        with self._lock:
            free = key not in self._held
            self._held.add(key)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._held.discard(key)
