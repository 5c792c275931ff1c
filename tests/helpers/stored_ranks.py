"""The records of ranks that train under torchrun, in a real database, and what TV953 finds."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainvitals.api.schema import Finding
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rules.rank_divergence import RankDivergence
from trainvitals.wire import decode
from trainvitals_server.store import Store
from trainvitals_server.store.histories import Histories

RANKS = 2


@contextmanager
def stored_ranks(program: str, kinds: Sequence[str], folder: Path) -> Iterator[Store]:
    """Run a program with one run of each kind; yield a store with its records."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    done = subprocess.run(
        [*command, program, str(folder), *kinds],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store.open(f"sqlite:///{folder / 'trainvitals.db'}", clock=lambda: 1_700_000_100.0)
    for path in sorted(folder.glob("*.bin")):
        body = path.read_bytes()
        store.ingest(decode(body), body)
    yield store
    store.close()


def history(store: Store, kind: str) -> History:
    """Return the history of the run of this kind, with those of its other ranks."""
    with store.database.read() as connection:
        return Histories().get(connection, store.run(kind).pk)


def findings(store: Store, kind: str) -> list[Finding]:
    """Return what TV953 finds in the run of this kind."""
    return list(RankDivergence().check(history(store, kind)))
