"""The log keeps a frame as received; the sealer and the rules read it as the decoder does."""

import numpy as np
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import amounts, batch, frame, ingest, scalar_frame, scalars, start
from trainvitals.wire import Heartbeat, Layout, Place, Stat, Stream, decode, encode
from trainvitals.wire.codec import frame_slices, read_frame
from trainvitals_server.store import Store
from trainvitals_server.store.models import LogFrame
from trainvitals_server.store.seal import Compactor, rows_of
from trainvitals_server.store.track_rows import Rows

STATISTICS = (Stat.MEAN, Stat.STD, Stat.MIN)


def weights(places: int) -> Layout:
    return Layout(Stream.WEIGHT, 0, STATISTICS, tuple(Place(f"w{i}") for i in range(places)))


def weight_frame(steps, places: int, seed: int = 0):
    values = np.random.default_rng(seed).standard_normal((len(steps), places, len(STATISTICS)))
    return frame(Stream.WEIGHT, steps, values)


def bits(read) -> tuple:
    """Everything in a frame, to the last bit."""
    arrays = (read.steps, read.times, read.values)
    return (read.stream, read.layout, *((a.shape, a.tobytes()) for a in arrays))


def seal(store: Store) -> None:
    assert Compactor(store.database).run_once(everything=True) == 1
    assert amounts(store).log_rows == 0


def reopened(store: Store, database_url: str) -> Store:
    """Return the store as a collector that has just started sees it."""
    store.close()
    return Store.open(database_url)


def test_a_log_row_is_two_slices_of_the_body(store):
    sent = batch(
        start(),
        weights(4),
        weight_frame(range(20), 4),
        Heartbeat(1.0, 20),
        scalars("loss"),
        scalar_frame([3, 2**40], [np.nan, -np.inf]),
    )
    ingest(store, sent)
    wanted = sa.select(LogFrame.header, LogFrame.values).order_by(LogFrame.part)
    with store.database.read() as connection:
        rows = connection.execute(wanted).all()
    body = encode(sent)
    assert body.endswith(rows[0].values + rows[1].values)
    assert all(header in body for header, _ in rows)
    assert [bits(read_frame(*row)) for row in rows] == [
        bits(sent.records[2]),
        bits(sent.records[5]),
    ]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), max_size=5))
def test_the_slices_of_a_body_are_read_as_the_body_is(shapes):
    records = [start()]
    for steps, places in shapes:
        # A record between them, so that the frames are not merged.
        records += [Heartbeat(1.0, 0), weight_frame(range(steps), places)]
    body = encode(batch(*records))
    decoded = decode(body)
    read = {at: read_frame(*slices) for at, slices in frame_slices(body, decoded).items()}
    assert list(read) == list(range(2, len(records), 2))
    assert all(bits(read[at]) == bits(decoded.records[at]) for at in read)


def test_a_stream_without_places_is_stored_sealed_and_diagnosed(store, database_url):
    ingest(store, batch(start(), weights(0), weight_frame(range(3), 0)))
    pk = store.run("r").pk
    assert store.history(pk).steps(Stream.WEIGHT).tolist() == [0, 1, 2]
    seal(store)
    again = reopened(store, database_url)
    assert again.history(pk).steps(Stream.WEIGHT).tolist() == [0, 1, 2]
    again.close()


@settings(max_examples=50)
@given(st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6))
def test_a_segment_has_ascending_steps_and_the_last_frame_of_each(step_sets):
    frames = [weight_frame(sorted(steps), 5, seed) for seed, steps in enumerate(step_sets)]
    steps, times, values = rows_of(frames)
    last = {
        step: (f.times[i], f.values[i]) for f in frames for i, step in enumerate(f.steps.tolist())
    }
    assert steps.tolist() == sorted(last)
    assert times.tolist() == [last[step][0] for step in steps.tolist()]
    for i, step in enumerate(steps.tolist()):
        assert values[i].tolist() == last[step][1].reshape(-1).tolist()
    joined = Rows.joined(frames, (5, len(STATISTICS)))
    assert joined.values.reshape(values.shape).tolist() == values.tolist()


def test_a_history_is_the_same_from_the_log_and_from_segments(store, database_url):
    sent = [batch(start(), weights(7), weight_frame(range(16), 7))]
    sent += [batch(weight_frame(range(16 * i, 16 * i + 16), 7, i), seq=i) for i in range(1, 5)]
    values = np.concatenate([each.records[-1].values for each in sent])

    def check(opened: Store) -> None:
        history = opened.history(opened.run("r").pk)
        assert history.steps(Stream.WEIGHT).tolist() == list(range(80))
        for i, statistic in enumerate(STATISTICS):
            got = history.values(Stream.WEIGHT, statistic)
            assert got.tobytes() == values[:, :, i].tobytes()

    for each in sent[:3]:
        ingest(store, each)
    store.history(store.run("r").pk)
    for each in sent[3:]:
        ingest(store, each)
    check(store)  # extended
    store = reopened(store, database_url)
    check(store)  # rebuilt from the log
    seal(store)
    store = reopened(store, database_url)
    check(store)  # rebuilt from a segment
    store.close()
