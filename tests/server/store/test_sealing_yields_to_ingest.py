"""The thread that seals has a lower priority than those that receive and commit batches."""

import os
import sys
import threading
from pathlib import Path

import pytest

from trainvitals_server.store import Store
from trainvitals_server.store.seal import SEAL_NICENESS, Compactor, yield_to_ingest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority on Linux only")


def niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


class Observed(Compactor):
    """A compactor that records the niceness of its thread when it seals."""

    niceness: int
    has_run: threading.Event

    def run_once(self, *, everything: bool = False) -> int:
        self.niceness = niceness(threading.get_native_id())
        self.has_run.set()
        return super().run_once(everything=everything)


@LINUX
def test_the_sealing_thread_has_a_lower_priority_than_the_process(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    compactor = Observed(store.database, interval_s=0.01)
    compactor.has_run = threading.Event()
    before = niceness(os.getpid())
    compactor.start()
    assert compactor.has_run.wait(30)
    compactor.stop()
    store.close()
    assert compactor.niceness == min(19, before + SEAL_NICENESS)
    assert niceness(os.getpid()) == before


@LINUX
def test_a_thread_that_has_the_lowest_priority_already_keeps_it() -> None:
    found: list[int] = []

    def twice() -> None:
        yield_to_ingest()
        yield_to_ingest()
        found.append(niceness(threading.get_native_id()))

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    assert found == [min(19, niceness(os.getpid()) + 2 * SEAL_NICENESS)]
