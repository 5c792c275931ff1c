"""Numbers come back bit for bit, from the log and sealed, at every zoom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.batches import amounts, batch, frame, ingest, scalar_frame, scalars, start
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.store.compression import CorruptBlock, pack, unpack
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.series import UnknownSeries
from trainvitals_server.store.tiers import Spans
from trainvitals_server.store.timeline import EVERY_STEP, timeline
from trainvitals_server.store.track_rows import read_rows

STATISTICS = (Stat.MEAN, Stat.STD, Stat.MIN)
PLACES = tuple(Place(f"layer.{i}", depth=i) for i in range(30))
WEIGHTS = Layout(Stream.WEIGHT, 0, STATISTICS, PLACES)
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)

any_floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(width=32),
)


def numbers(rows: int, seed: int = 0) -> np.ndarray:
    """Random numbers with every odd one among them, shape (rows, places, statistics)."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, len(PLACES), len(STATISTICS))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0
    values.flat[: len(ODD)] = ODD
    return values


def stored(store, stream=Stream.WEIGHT):
    """Everything stored of a stream: (steps, values as sent)."""
    with store.database.read() as connection:
        [track] = timeline(connection, store.run("r").pk, stream)
        rows = read_rows(connection, track.shape, np.arange(track.shape.series))
    shape = (-1, track.shape.statistics, track.shape.places)
    return rows.steps, rows.values.reshape(shape).transpose(0, 2, 1)


@pytest.mark.parametrize("sealed", [False, True], ids=["in the log", "sealed"])
def test_every_number_comes_back_bit_for_bit(store, sealed):
    values = numbers(50)
    ingest(store, batch(WEIGHTS, frame(Stream.WEIGHT, range(50), values)))
    if sealed:
        assert Compactor(store.database).run_once(everything=True) == 1
        assert amounts(store).log_rows == 0
    steps, got = stored(store)
    assert steps.tolist() == list(range(50))
    assert np.ascontiguousarray(got).tobytes() == values.tobytes()


@given(any_floats)
def test_packing_loses_no_bit(block):
    blob, crc = pack(block)
    assert unpack(blob, crc, dtype="<f4", shape=block.shape).tobytes() == block.tobytes()


def test_a_block_that_changed_on_the_disk_is_not_shown():
    blob, crc = pack(np.ones((3, 4), np.float32))
    flipped = bytes([blob[0] ^ 1]) + blob[1:]
    with pytest.raises(CorruptBlock):
        unpack(flipped, crc, dtype="<f4", shape=(3, 4))


def test_whole_segments_are_sealed_and_the_rest_waits(store):
    for i in range(5):
        steps = range(250 * i, 250 * (i + 1))
        values = [np.sin(steps)]
        ingest(store, batch(scalars("loss"), scalar_frame(steps, *values), seq=i))
    compactor = Compactor(store.database)
    assert compactor.run_once() == 1
    assert compactor.run_once() == 0
    assert amounts(store).log_rows == 0, "the frame that completes a segment is in it whole"
    ingest(store, batch(scalar_frame([1250], [1.0]), seq=5))
    assert compactor.run_once() == 0
    assert amounts(store).log_rows == 1
    steps, _ = stored(store, Stream.SCALAR)
    assert steps.tolist() == list(range(1251))


def filled(store, *, rows: int, spike_at: int) -> np.ndarray:
    """Store a curve with one spike, sealed but for its end; return it."""
    values = np.random.default_rng(1).standard_normal(rows).astype(np.float32)
    values[spike_at] = 1e6
    values[rows // 2] = np.inf
    values[rows // 3] = np.nan
    for i, at in enumerate(range(0, rows, 500)):
        steps = range(at, min(rows, at + 500))
        layout = [scalars("loss")] if i == 0 else []
        ingest(store, batch(*layout, scalar_frame(steps, values[at : at + 500]), seq=i))
    compactor = Compactor(store.database)
    while compactor.run_once():
        pass
    totals = amounts(store)
    assert 0 < totals.log_rows < 1024
    assert totals.chunks > 0
    return values


def loss(store, *, points: int, lo: int = 0, hi: int = EVERY_STEP) -> Spans:
    found = store.curves(
        store.run("r").pk, Stream.SCALAR, Stat.VALUE, ["loss"], lo=lo, hi=hi, points=points
    )
    return found.spans


def test_a_spike_of_one_step_is_seen_at_every_zoom(store):
    values = filled(store, rows=9500, spike_at=4321)
    finite = values[np.isfinite(values)]
    for points in (1, 3, 10, 33, 100, 1000, 2000):
        spans = loss(store, points=points)
        assert 0 < len(spans) <= points
        assert np.nanmax(spans.maximum) == np.float32(1e6)
        assert np.nanmin(spans.minimum) == finite.min()
        assert spans.count.sum() == len(finite)
        assert spans.infinite.sum() == 1
        mean = np.nansum(spans.mean * spans.count) / spans.count.sum()
        assert mean == pytest.approx(finite.mean(dtype=np.float64), rel=1e-6)
        assert spans.newest[-1, 0] == values[-1]
        [at] = np.flatnonzero(spans.maximum[:, 0] == 1e6)
        assert spans.first[at] <= 4321 <= spans.last[at]


@pytest.mark.parametrize("lo", [0, 1, 17, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("hi", [5001, 8191, 8192, 9500, 20_000])
def test_a_range_holds_its_own_rows_and_no_others(filled_once, lo, hi):
    store, values = filled_once
    wanted = values[lo:hi]
    finite = wanted[np.isfinite(wanted)]
    for points in (1, 20, 2000):
        spans = loss(store, points=points, lo=lo, hi=hi)
        assert spans.count.sum() == len(finite)
        assert np.nanmin(spans.minimum) == finite.min()
        assert spans.first[0] >= lo
        assert spans.last[-1] < hi


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory):
    from trainvitals_server.store import Store

    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('filled') / 'x.db'}")
    yield store, filled(store, rows=9500, spike_at=4321)
    store.close()


def test_a_heat_map_has_all_places_by_depth(store):
    shuffled = (Place("b", depth=1), Place("unknown"), Place("a", depth=0))
    layout = Layout(Stream.GRADIENT, 0, (Stat.L2,), shuffled)
    values = np.array([[[2.0], [9.0], [1.0]]] * 4)
    ingest(store, batch(layout, frame(Stream.GRADIENT, range(4), values)))
    found = store.curves(store.run("r").pk, Stream.GRADIENT, Stat.L2, None, points=2)
    assert found.places == ("a", "b", "unknown")
    assert found.spans.mean.tolist() == [[1.0, 2.0, 9.0]] * 2


def test_a_place_that_was_added_later_is_absent_before(store):
    first = batch(scalars("loss"), scalar_frame([0, 1], [3.0, 2.0]))
    second = batch(
        scalars("accuracy", "loss", version=1),
        scalar_frame([2, 3], [0.5, 0.6], [1.0, 0.5], version=1),
        seq=1,
    )
    ingest(store, first)
    ingest(store, second)
    found = store.curves(
        store.run("r").pk, Stream.SCALAR, Stat.VALUE, ["loss", "accuracy"], points=10
    )
    assert found.spans.newest[:, 0].tolist() == [3.0, 2.0, 1.0, 0.5]
    assert found.spans.count[:, 1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("stream", "statistic", "places"),
    [
        (Stream.WEIGHT, Stat.MEAN, None),
        (Stream.SCALAR, Stat.MEAN, ["loss"]),
        (Stream.SCALAR, Stat.VALUE, ["loss", "nobody"]),
    ],
)
def test_what_was_never_measured_is_said_to_be_unknown(store, stream, statistic, places):
    ingest(store, batch(start(), scalars("loss"), scalar_frame([0], [1.0])))
    with pytest.raises(UnknownSeries):
        store.curves(store.run("r").pk, stream, statistic, places, points=10)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(2)), elements=st.floats(width=32)),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_folding_in_two_goes_equals_folding_in_one(values, first, second):
    rows = Spans.of_rows(np.arange(len(values)), values)
    twice, once = rows.every(first).every(second), rows.every(first * second)
    for field in ("first", "last", "minimum", "maximum", "newest", "count", "infinite"):
        np.testing.assert_array_equal(getattr(twice, field), getattr(once, field))
    np.testing.assert_allclose(twice.mean, once.mean, rtol=1e-6, atol=1e-30)
