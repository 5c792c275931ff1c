"""Run expensive reads one after the other, so that they delay neither ingest nor other reads.

Comes in: a function that reads. Goes out: its result, or a problem (503 `busy`).
Promise:  at most `running` of them run at once, in threads of their own; at most `waiting`
          wait, each for at most `patience_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from trainvitals_server.problems import Problem

T = TypeVar("T")


class HeavyReads:
    """The queue of expensive reads. Use it from one event loop."""

    def __init__(self, running: int = 2, waiting: int = 16, patience_s: float = 20.0) -> None:
        self._threads = ThreadPoolExecutor(running, thread_name_prefix="trainvitals-heavy")
        self._slots = asyncio.Semaphore(running)
        self._waiting_max = waiting
        self._patience_s = patience_s
        self._waiting = 0

    async def run(self, read: Callable[[], T]) -> T:
        """Return what `read` returns.

        Raises:
            Problem: busy when too many reads wait, or when this one waited too long.
        """
        if self._waiting >= self._waiting_max:
            raise self._busy(f"{self._waiting} expensive reads wait already.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise self._busy("Other expensive reads are still running.") from error
        finally:
            self._waiting -= 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, read)
        # Released when the thread is done, also if the client leaves: a thread cannot be stopped.
        work.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(work)

    def close(self) -> None:
        """Start no further reads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _busy(self, why: str) -> Problem:
        return Problem("busy", f"{why} Ask again in 5 s.", headers={"Retry-After": "5"})
