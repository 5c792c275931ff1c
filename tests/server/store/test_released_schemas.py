"""A database of every released schema, with data, is read, sealed and written after its upgrade."""

import numpy as np
import pytest
from alembic.script import ScriptDirectory

from helpers.batches import amounts, batch, ingest, scalar_frame
from helpers.released_schemas import (
    BATCHES,
    PLACES,
    REVISIONS,
    STEPS,
    load,
    losses,
    weights,
)
from helpers.short_and_slow import parameters
from trainvitals.wire import Stat, Stream, decode
from trainvitals_server.store import Store
from trainvitals_server.store.migrate import configuration
from trainvitals_server.store.seal import Compactor

SOME = (REVISIONS[0], REVISIONS[-1])
EACH = parameters({revision: revision for revision in REVISIONS}, slow=set(REVISIONS) - set(SOME))


def test_each_revision_has_a_database():
    scripts = ScriptDirectory.from_config(configuration())
    assert sorted(REVISIONS) == sorted(script.revision for script in scripts.walk_revisions())


def assert_as_sent(store):
    """What was sent is read: curves, the history of the rules, and what was dropped."""
    pk = store.run("ended").pk
    loss = store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=10**6).spans
    np.testing.assert_array_equal(loss.first, np.arange(STEPS))
    finite = np.isfinite(losses())
    np.testing.assert_array_equal(loss.newest[finite, 0], losses()[finite])
    np.testing.assert_array_equal(loss.count[:, 0], finite)
    weight = store.curves(pk, Stream.WEIGHT, Stat.RMS, PLACES, points=10**6).spans
    np.testing.assert_array_equal(weight.newest, weights()[:, :, 0])
    coarse = store.curves(pk, Stream.WEIGHT, Stat.RMS, PLACES, points=4).spans
    assert coarse.count.sum() == STEPS * len(PLACES)
    assert store.history(pk).steps(Stream.WEIGHT).tolist()[-1] == STEPS - 1
    running = store.run("running")
    assert (running.run.step, running.run.state) == (1, "running")  # of rank 0
    assert store.detail(running).completeness.dropped == 3


@pytest.mark.parametrize("revision", EACH)
def test_it_is_read_sealed_and_written_after_the_upgrade(empty_database_url, revision):
    load(empty_database_url, revision)
    store = Store.open(empty_database_url)
    assert {store.run(name).run.id for name in ("ended", "running")} == {"ended", "running"}
    assert_as_sent(store)
    found = {finding.code for finding in store.findings(store.run("ended").pk)}
    # Revision 0002 drops findings: their evidence had another form. They are found again.
    assert found == (set() if revision == "0001" else {"TV901"})
    acks = [store.ingest(decode(body), body) for body in BATCHES]
    assert not any(ack.stored for ack in acks), "a repeat is stored twice"
    late = batch(scalar_frame([1], [1.5]), seq=1, run="running", source=bytes([2]) * 16, rank=1)
    assert ingest(store, late).stored
    while Compactor(store.database).run_once(everything=True):
        pass
    assert amounts(store).log_rows == 0
    assert_as_sent(store)
    store.close()
