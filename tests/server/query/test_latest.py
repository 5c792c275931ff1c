"""The newest value of every series, read without chunks while new rows are in the log."""

import numpy as np
import pytest
import sqlalchemy as sa

from helpers.batches import batch, frame, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.api.client import Client
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.store.seal import Compactor

LAYOUT = Layout(Stream.WEIGHT, 0, (Stat.L2, Stat.STD), (Place("a"), Place("b"), Place("c")))
NAN, INF = np.nan, np.inf


def latest(collector, stream="weight", *, binary=False):
    client = Client(collector.url, collector.token, binary=binary)
    [found] = [each for each in client.latest("r").streams if each.stream == stream]
    return found


def send(collector, *records, seq):
    assert collector.send(batch(*records, seq=seq)).status_code == 200


@pytest.fixture
def collector(tmp_path, database_url):
    # Without rounds of diagnosis, which read chunks as well.
    with running_collector(tmp_path, database_url, round_interval_s=1e6) as running:
        yield running


@pytest.fixture
def chunk_reads(collector):
    """Statements that read chunks from now on."""
    found = []
    engine = getattr(collector.store.database, "_reader_engine", None)
    engine = engine or collector.store.database._engine

    def note(_, __, statement, *___):
        if "chunk.blob" in statement:
            found.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(engine, "before_cursor_execute", note)


def test_each_series_has_its_newest_value_and_the_step_of_it(collector):
    rows = np.array(
        [
            [[1, 2], [3, NAN], [NAN, NAN]],
            [[4, NAN], [INF, NAN], [NAN, NAN]],
        ]
    )
    send(collector, start(), LAYOUT, frame(Stream.WEIGHT, [5, 7], rows), seq=0)
    for binary in (False, True):
        found = latest(collector, binary=binary)
        assert (found.places, found.statistics) == (["a", "b", "c"], ["l2", "std"])
        assert found.values == [[4, 2], [None, None], [None, None]]
        assert found.steps == [[7, 5], [7, -1], [-1, -1]]


def test_a_later_batch_changes_only_what_it_measured_and_reads_no_chunk(collector, chunk_reads):
    send(collector, start(), LAYOUT, frame(Stream.WEIGHT, [0], np.ones((1, 3, 2))), seq=0)
    Compactor(collector.store.database).run_once(everything=True)
    assert latest(collector).values == [[1, 1]] * 3
    assert chunk_reads
    chunk_reads.clear()
    rows = np.array([[[2, NAN], [NAN, 3], [NAN, NAN]]])
    send(collector, frame(Stream.WEIGHT, [1], rows), seq=1)
    for _ in range(2):
        assert latest(collector).values == [[2, 1], [1, 3], [1, 1]]
    assert not chunk_reads


def test_rows_that_were_sealed_between_two_requests_are_seen(collector):
    send(collector, start(), LAYOUT, frame(Stream.WEIGHT, [0], np.ones((1, 3, 2))), seq=0)
    latest(collector)
    send(collector, frame(Stream.WEIGHT, [1], np.full((1, 3, 2), 2.0)), seq=1)
    Compactor(collector.store.database).run_once(everything=True)
    assert latest(collector).values == [[2, 2]] * 3


def test_a_batch_that_arrives_late_does_not_replace_newer_values(collector):
    send(collector, start(), LAYOUT, frame(Stream.WEIGHT, [9], np.full((1, 3, 2), 9.0)), seq=0)
    latest(collector)
    send(collector, frame(Stream.WEIGHT, [4], np.full((1, 3, 2), 4.0)), seq=1)
    assert latest(collector).steps == [[9, 9]] * 3


def test_every_stream_and_only_the_newest_layout_is_listed(collector):
    send(collector, start(), LAYOUT, frame(Stream.WEIGHT, [0], np.ones((1, 3, 2))), seq=0)
    wider = Layout(Stream.WEIGHT, 1, (Stat.L2,), (Place("a"), Place("d")))
    send(collector, wider, frame(Stream.WEIGHT, [1], np.ones((1, 2, 1)), version=1), seq=1)
    send(collector, scalars("loss"), scalar_frame([1], [0.5]), seq=2)
    for binary in (False, True):
        assert latest(collector, binary=binary).places == ["a", "d"]
        assert latest(collector, "scalar", binary=binary).values == [[0.5]]


def test_a_run_without_rows_has_no_values(collector):
    send(collector, start(), seq=0)
    for binary in (False, True):
        assert Client(collector.url, collector.token, binary=binary).latest("r").streams == []
