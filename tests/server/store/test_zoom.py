"""A long run is read at every zoom from a bounded number of chunks, and loses no step."""

from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from trainvitals.wire import Stat, Stream
from trainvitals_server.store import Store
from trainvitals_server.store.chunks import (
    COUNTED_SPANS,
    SPANS,
    span_chunks,
    spans_axis,
    spans_fields,
)
from trainvitals_server.store.models import Chunk
from trainvitals_server.store.seal import SEGMENT_ROWS, Compactor
from trainvitals_server.store.tiers import TIER_FACTOR, Spans

ROWS = 300 * SEGMENT_ROWS + 700
SPIKE = 123_457


def seal(store: Store) -> None:
    compactor = Compactor(store.database)
    while compactor.run_once():
        pass


def spans_of(store: Store, lo: int, hi: int, points: int) -> Spans:
    pk = store.run("r").pk
    return store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], lo=lo, hi=hi, points=points).spans


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A store with one curve of 307,900 steps, and the curve."""
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('long') / 'x.db'}")
    values = np.random.default_rng(0).standard_normal(ROWS).astype(np.float32)
    values[SPIKE] = 1e6
    values[200_000:200_100] = np.nan
    values[250_000] = np.inf
    for i, at in enumerate(range(0, ROWS, 1024)):
        steps = range(at, min(at + 1024, ROWS))
        head = [start(), scalars("loss")] if i == 0 else []
        ingest(store, batch(*head, scalar_frame(steps, values[at : steps.stop]), seq=i))
        if i % 16 == 0:
            seal(store)  # as it happens while the run goes on
    seal(store)
    yield store, values
    store.close()


def test_segments_are_merged_so_that_a_tier_has_few_chunks(long_run):
    store, _ = long_run
    counted = (
        sa.select(Chunk.tier, Chunk.segments, sa.func.count())
        .where(Chunk.group == 0)
        .group_by(Chunk.tier, Chunk.segments)
    )
    with store.database.read() as connection:
        chunks = {(tier, size): n for tier, size, n in connection.execute(counted)}
    # 300 segments: 18 whole blocks of 16 and 12 more; one block of 256 and 2 of 16 more.
    assert chunks == {(0, 1): 300, (1, 16): 18, (1, 1): 12, (2, 256): 1, (2, 16): 2, (3, 256): 1}


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, ROWS - 1), st.integers(1, ROWS)).map(lambda t: (t[0], t[0] + t[1])),
    st.integers(1, 3000),
)
def test_every_range_has_each_of_its_rows_once_and_no_other(long_run, bounds, points):
    store, values = long_run
    lo, hi = bounds
    wanted = values[lo:hi]
    finite = wanted[np.isfinite(wanted)]
    spans = spans_of(store, lo, hi, points)
    assert 0 < len(spans) <= points
    assert spans.rows.sum() == len(wanted)
    assert spans.count.sum() == len(finite)
    assert spans.infinite.sum() == np.isinf(wanted).sum()
    assert spans.first[0] == lo
    assert spans.last[-1] == min(hi, ROWS) - 1
    if len(finite):
        assert np.nanmin(spans.minimum) == finite.min()
        assert np.nanmax(spans.maximum) == finite.max()
        mean = np.nansum(spans.mean * spans.count) / spans.count.sum()
        assert mean == pytest.approx(finite.mean(dtype=np.float64), rel=1e-5, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, SPIKE), st.integers(1, ROWS - SPIKE), st.integers(1, 2000))
def test_a_spike_of_one_step_is_seen_in_every_window_around_it(long_run, before, after, points):
    store, _ = long_run
    spans = spans_of(store, SPIKE - before, SPIKE + after, points)
    [at] = np.flatnonzero(spans.maximum[:, 0] == 1e6)
    assert spans.first[at] <= SPIKE <= spans.last[at]


def test_segments_that_overlap_are_not_merged_and_all_rows_are_read(store):
    values = np.arange(40 * SEGMENT_ROWS, dtype=np.float32)
    order = [0, 2, 1, *range(3, 40)]  # the second batch arrives after the third was sealed
    for seq, block in enumerate(order):
        steps = range(block * 1024 - (block == 2) * 10, (block + 1) * 1024)
        head = [start(), scalars("loss")] if seq == 0 else []
        ingest(store, batch(*head, scalar_frame(steps, values[steps.start : steps.stop]), seq=seq))
        seal(store)
    spans = spans_of(store, 0, 2**40, 100)
    assert np.nanmin(spans.minimum) == 0
    assert np.nanmax(spans.maximum) == values[-1]
    assert spans.rows.sum() == len(values) + 10


@given(st.integers(0, 60), st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 0.5]))
def test_rows_fold_fast_as_they_fold_one_by_one(rows, odd):
    values = np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)
    values[rows // 2 :: 7, 2] = odd
    values[:, 3] = odd
    steps = np.arange(rows) * 3
    fast = Spans.folded_rows(steps, values, TIER_FACTOR)
    slow = Spans.of_rows(steps, values).every(TIER_FACTOR)
    for name in ("first", "last", "rows"):
        assert getattr(fast, name).tolist() == getattr(slow, name).tolist()
    np.testing.assert_array_equal(fast.fields[[0, 2, 3, 4, 5]], slow.fields[[0, 2, 3, 4, 5]])
    np.testing.assert_allclose(fast.mean, slow.mean, rtol=1e-6)


@pytest.mark.parametrize("odd", [None, np.nan, np.inf], ids=str)
def test_a_chunk_of_spans_has_counts_only_where_a_value_is_not_finite(odd):
    values = np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32)
    if odd is not None:
        values[7, 32] = odd
    spans = Spans.folded_rows(np.arange(40), values, TIER_FACTOR)
    axis, first, second = span_chunks(spans, 1)
    assert first["codec"] == SPANS
    assert second["codec"] == (SPANS if odd is None else COUNTED_SPANS)
    read = spans_axis(axis["blob"], axis["crc"], 3, axis["codec"], 33)
    for group, chunk in enumerate((first, second)):
        wide = (32, 1)[group]
        blob = (chunk["blob"], chunk["crc"], 3, chunk["codec"])
        fields = spans_fields(*blob, wide, read.rows)
        read.fields[:, :, group * 32 : group * 32 + wide] = fields.transpose(0, 2, 1)
    stored = replace(spans, fields=spans.fields.astype(np.float32).astype(np.float64))
    assert read.rows.tolist() == [16, 16, 8]
    np.testing.assert_array_equal(read.fields, stored.fields)
