"""The store stays within its budgets: spikes, ends, findings and kept runs survive."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from trainvitals.wire import RunEnd, Stat, Stream
from trainvitals_server.store import Store
from trainvitals_server.store.models import Chunk, FindingRow, Run, Source, Track
from trainvitals_server.store.removal import Removal
from trainvitals_server.store.retention import (
    AROUND_FINDING,
    NEWEST_SEGMENTS,
    RETENTION_CLAIM,
    Retention,
    RetentionLimits,
    Segment,
    largest_share,
    thinnable,
    used_bytes,
)
from trainvitals_server.store.seal import SEGMENT_ROWS, Compactor

SEGMENTS = 24
ROWS = SEGMENTS * SEGMENT_ROWS
SPIKE = 5 * SEGMENT_ROWS + 321


def fill(
    store: Store, run: str = "r", *, rows: int = ROWS, tags=(), ended: bool = False, rank: int = 0
):
    """Store and seal one curve with a spike; return it."""
    values = np.random.default_rng(0).standard_normal(rows).astype(np.float32)
    values[min(SPIKE, rows // 2)] = 1e6
    source = f"{run}/{rank}".encode().ljust(16, b".")
    head = [msgspec.structs.replace(start(), tags=tags), scalars("loss")]
    for i, at in enumerate(range(0, rows, SEGMENT_ROWS)):
        steps = range(at, min(at + SEGMENT_ROWS, rows))
        sent = [*(head if i == 0 else []), scalar_frame(steps, values[at : steps.stop])]
        ingest(store, batch(*sent, seq=i, run=run, source=source, rank=rank))
    if ended:
        end = RunEnd(time=1.0, step=rows - 1, state="finished")
        ingest(store, batch(end, seq=10_000, run=run, source=source))
    compactor = Compactor(store.database)
    while compactor.run_once(everything=True):
        pass
    return values


def retain(store: Store, now: float = 0.0, **limits) -> int:
    done = Retention(store.database, RetentionLimits(**limits), lambda: now).run_once()
    Removal(store.database).run_once()
    return done


def spans(store: Store, *, lo=0, hi=2**40, points=500, run: str = "r"):
    pk = store.run(run).pk
    return store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], lo=lo, hi=hi, points=points).spans


def value(store: Store, column):
    with store.database.read() as connection:
        return connection.scalar(sa.select(column))


def row_segments(store: Store) -> set[int]:
    """Return the segments that have their rows."""
    wanted = sa.select(Chunk.segment).where(Chunk.tier == 0, Chunk.group == 0)
    with store.database.read() as connection:
        return set(connection.scalars(wanted))


def test_the_oldest_rows_are_thinned_until_the_stream_fits(store):
    fill(store)
    before = value(store, Track.sealed_bytes)
    assert retain(store, stream_bytes=before // 2) > 0
    kept = row_segments(store)
    assert 0 in kept, "the first segment has the initial state"
    assert {*range(SEGMENTS - NEWEST_SEGMENTS, SEGMENTS)} <= kept
    middle = sorted(kept - {0})
    assert all(b - a == 1 for a, b in pairwise(middle)), "the oldest were thinned first"
    assert before * 0.4 < value(store, Track.sealed_bytes) <= before // 2
    assert value(store, Track.thinned_rows) == (SEGMENTS - len(kept)) * SEGMENT_ROWS
    assert retain(store, stream_bytes=before // 2) == 0


def test_the_largest_streams_of_a_run_are_thinned_until_the_run_fits(store):
    fill(store, "large")
    with store.database.read() as connection:
        large = used_bytes(connection)
    for rank in range(3):
        fill(store, "many", rows=(6 + 6 * rank) * SEGMENT_ROWS, rank=rank)
    assert retain(store, run_bytes=large) > 0
    rows = sa.select(Source.rank, Track.sealed_bytes, Track.thinned_rows)
    joined = rows.join(Track, Track.source_pk == Source.pk).join(Run, Run.pk == Source.run_pk)
    with store.database.read() as connection:
        assert used_bytes(connection) <= 2 * large
        found = connection.execute(joined.where(Run.id == "many").order_by(Source.rank)).all()
        untouched = connection.execute(joined.where(Run.id == "large")).one()
    assert [thinned > 0 for _, _, thinned in found] == [False, True, True]
    assert untouched.thinned_rows == 0
    assert retain(store, run_bytes=large) == 0


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(-10, 5000))
def test_the_largest_share_is_the_largest_that_fits(sizes, total):
    share = largest_share(sizes, total)
    if sum(sizes) <= total:
        assert share == max(sizes, default=0)
    elif total >= 0:
        assert sum(min(size, share) for size in sizes) <= total
        assert sum(min(size, share + 1) for size in sizes) > total
    else:
        assert share == 0


def test_the_bytes_of_a_track_are_those_of_its_chunks(store):
    fill(store)
    retain(store, stream_bytes=value(store, Track.sealed_bytes) // 3)
    size = sa.func.sum(sa.func.length(Chunk.blob))
    axis = sa.and_(Chunk.tier == 0, Chunk.group == -1)
    with store.database.read() as connection:
        rows = connection.scalar(sa.select(size).where(Chunk.tier == 0))
        axes = connection.scalar(sa.select(size).where(axis))
        tiers = connection.scalar(sa.select(size).where(Chunk.tier > 0))
        sealed, span = connection.execute(sa.select(Track.sealed_bytes, Track.span_bytes)).one()
        assert used_bytes(connection) == sealed + span
    assert span == tiers
    assert rows - axes <= sealed <= rows


@pytest.mark.parametrize("points", [1, 7, 100, 500, 2000])
@pytest.mark.parametrize("window", [2**40, 9000, 700, 40])
def test_a_thinned_spike_is_seen_at_every_zoom(thinned, points, window):
    store, values = thinned
    lo, hi = max(0, SPIKE - window // 2), SPIKE + window // 2
    found = spans(store, lo=lo, hi=hi, points=points)
    [at] = np.flatnonzero(found.maximum[:, 0] == 1e6)
    assert found.first[at] <= SPIKE <= found.last[at]
    # A span at the edge may begin up to 15 rows before the range.
    expected = min(hi, len(values)) - lo
    assert expected <= found.rows.sum() <= expected + 30


def test_ranges_that_were_not_thinned_have_every_step(thinned):
    store, values = thinned
    for lo in (0, ROWS - 1024):
        found = spans(store, lo=lo, hi=lo + 1000, points=2000)
        assert found.newest[:, 0].tolist() == values[lo : lo + 1000].tolist()


def test_a_thinned_run_is_still_diagnosed_and_exported_as_far_as_it_is_stored(thinned):
    store, values = thinned
    pk = store.run("r").pk
    history = Store(store.database).history(pk)  # as after a restart
    steps = history.scalar("loss").steps
    assert steps[0] == 0
    assert steps[-1] == ROWS - 1
    got, at = [], 0
    while (found := store.frames(pk, Stream.SCALAR, at)) is not None:
        got += found[1].steps.tolist()
        assert found[1].values[:, 0, 0].tolist() == values[found[1].steps].tolist()
        at = got[-1] + 1
    thinned_rows = store.detail(store.run("r")).completeness.thinned
    assert len(got) == ROWS - thinned_rows == (NEWEST_SEGMENTS + 1) * SEGMENT_ROWS


@pytest.fixture(scope="module")
def thinned(tmp_path_factory):
    """A store whose run has no rows but of the first and the newest segments."""
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('thinned') / 'x.db'}")
    values = fill(store)
    assert retain(store, stream_bytes=1) == SEGMENTS - NEWEST_SEGMENTS - 1
    yield store, values
    store.close()


def test_segments_around_a_finding_keep_their_rows(store):
    fill(store)
    finding = {"code": "TV101", "place": "", "episode": 0, "position": 0, "severity": "error"}
    more = {"state": "open", "opened_at": 0.0, "finding": b"", "run_pk": store.run("r").pk}
    row = {**finding, **more, "since_step": 7 * SEGMENT_ROWS + 5}
    store.database.write(lambda connection: connection.execute(sa.insert(FindingRow), [row]))
    retain(store, stream_bytes=1)
    assert {6, 7} <= row_segments(store)
    assert 5 not in row_segments(store)
    assert 8 not in row_segments(store)


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 45_000), max_size=5),
    st.integers(0, 6),
)
def test_what_may_be_thinned_never_has_a_finding_or_an_end(count, findings, newest):
    segments = [Segment(i, 1000 * i, 1000 * i + 999) for i in range(count)]
    chosen = thinnable(segments, findings, newest=newest)
    numbers = [segment.number for segment in chosen]
    assert numbers == sorted(set(numbers))
    assert 0 not in numbers
    assert not set(numbers) & set(range(count - newest, count))
    for segment in chosen:
        for step in findings:
            assert not segment.lo - AROUND_FINDING <= step <= segment.hi + AROUND_FINDING


def test_over_the_total_the_oldest_ended_runs_are_thinned_then_removed(store):
    times = iter(range(1, 10**6))
    store._clock = lambda: float(next(times))
    for run, ended in (("old", True), ("new", True), ("live", False)):
        fill(store, run, rows=8 * SEGMENT_ROWS, ended=ended)
    with store.database.read() as connection:
        total = used_bytes(connection)
    assert retain(store, total_bytes=total) == 0
    retain(store, total_bytes=int(total * 0.8))
    assert value(store, sa.func.max(Track.thinned_rows)) == 7 * SEGMENT_ROWS
    assert all(store.run(run) is not None for run in ("old", "new", "live"))
    retain(store, total_bytes=int(total * 0.4))
    retain(store, total_bytes=int(total * 0.4))
    assert store.run("old") is None
    retain(store, total_bytes=1)
    retain(store, total_bytes=1)
    assert store.run("new") is None
    assert store.run("live") is not None, "a run that has not ended is never removed"


def test_ended_runs_are_removed_after_the_days_unless_they_are_tagged_keep(store):
    store._clock = lambda: 1000.0
    fill(store, "done", rows=2000, ended=True)
    fill(store, "kept", rows=2000, ended=True, tags=("keep",))
    fill(store, "live", rows=2000)
    day = 86_400
    assert retain(store, now=1000.0 + 6.9 * day, ended_days=7) == 0
    assert retain(store, now=1000.0 + 7.1 * day, ended_days=7) == 1
    assert store.run("done") is None
    assert store.run("kept") is not None
    assert store.run("live") is not None
    with store.database.read() as connection:
        states = set(connection.scalars(sa.select(Run.state)))
    assert states == {"deleted", "finished", "running"}


@pytest.mark.needs_postgres
def test_one_collector_at_a_time_applies_the_limits(postgres):
    with postgres.database() as url:
        mine, other = Store.open(url), Store.open(url)
        fill(mine, ended=True)
        limits = {"stream_bytes": 1, "total_bytes": 1, "ended_days": 1e-9}
        with other.database.claim(RETENTION_CLAIM) as claimed:
            assert claimed
            assert retain(mine, now=2e9, **limits) == 0
        assert retain(mine, now=2e9, **limits) > 0
        mine.close()
        other.close()
