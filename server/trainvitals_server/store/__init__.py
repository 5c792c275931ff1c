"""Store batches as rows and chunks, and read them as runs, series and histories.

Comes in: decoded batches (`Store.ingest`), findings (`Store.save_findings`).
Goes out: run summaries, series, histories.
Promise:  a batch that `ingest` acknowledges is committed, and synced unless the durability is
          fast; a batch that is sent repeatedly is stored once; no table has one row per scalar.
          SQLite and Postgres behave alike.
Start at `store.Store`; `models` has the tables.
"""

from trainvitals_server.store.store import Store
from trainvitals_server.store.types import (
    Ack,
    Conflict,
    QueueFull,
    RequestRefused,
    StoredRun,
    Totals,
)

__all__ = [
    "Ack",
    "Conflict",
    "QueueFull",
    "RequestRefused",
    "Store",
    "StoredRun",
    "Totals",
]
