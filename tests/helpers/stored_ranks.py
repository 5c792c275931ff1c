"""The records of ranks that train as under torchrun, in a real database, and what TV953 finds."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.warm_ranks import run_ranks
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_ranks(program, str(folder), *kinds, ranks=RANKS, cwd=folder, env=environment)
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
