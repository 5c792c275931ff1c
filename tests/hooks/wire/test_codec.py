"""Batches travel bit for bit, and nothing that is not a batch gets past `decode`."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainvitals.wire import (
    STATISTICS,
    Batch,
    Dropped,
    Event,
    Frame,
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    RunEnd,
    RunStart,
    Stat,
    Stream,
    WireError,
    WireVersionError,
    decode,
    encode,
)
from trainvitals.wire.codec import Limits

PLACES = (Place("conv.weight", kind="weight", shape=(8, 1, 3, 3), depth=0), Place("conv.bias"))


def frame(step: int, values: np.ndarray, stream: Stream = Stream.SCALAR) -> Frame:
    return Frame(stream, 0, np.array([step]), np.array([1.5 * step]), values[None])


def batch_of(*records: object, **identity: object) -> Batch:
    fields = {"run": "r", "project": "p", "source": b"s" * 16, "seq": 0, "sent_at": 1.0, "rank": 0}
    return Batch(**{**fields, **identity}, records=records)  # type: ignore[arg-type]


def scalar_batch(**identity: object) -> Batch:
    return batch_of(frame(0, np.ones((2, 1), np.float32)), **identity)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    )
)
def test_values_come_back_bit_for_bit_nan_and_infinities_too(values):
    steps = np.arange(len(values), dtype=np.int64)
    sent = Frame(Stream.WEIGHT, 3, steps, steps * 0.1, values)
    [got] = decode(encode(batch_of(sent))).records
    assert got.values.tobytes() == values.tobytes()
    assert got.values.shape == values.shape
    assert (got.steps.tolist(), got.times.tolist()) == (steps.tolist(), (steps * 0.1).tolist())
    assert (got.stream, got.layout) == (Stream.WEIGHT, 3)


def test_every_kind_of_record_comes_back_as_it_was():
    records = (
        RunStart(1.0, name="a run", config={"lr": 0.1, "layers": [1, 2]}, tags=("x",), pid=7),
        Layout(Stream.WEIGHT, 0, STATISTICS[Stream.WEIGHT], PLACES),
        Event(5, 2.0, "checkpoint", "saved", {"path": "x"}),
        NotWatched({"emb.weight": "sparse gradients are not measured"}),
        Heartbeat(3.0, 6),
        Dropped(1, 9, "weight", "queue_full", 9),
        RunEnd(4.0, 9, "failed", produced=20, dropped=9, error="ValueError: no"),
    )
    assert decode(encode(batch_of(*records))).records == records


def test_steps_captured_one_by_one_travel_as_one_block_for_each_stream():
    records = []
    for step in range(16):
        records.append(frame(step, np.full((2, 1), step, np.float32), Stream.SCALAR))
        records.append(frame(step, np.full((2, 9), step, np.float32), Stream.GRADIENT))
    got = decode(encode(batch_of(*records))).records
    assert [(r.stream, r.values.shape) for r in got] == [
        (Stream.SCALAR, (16, 2, 1)),
        (Stream.GRADIENT, (16, 2, 9)),
    ]
    assert got[0].values[:, 0, 0].tolist() == list(range(16))


def test_steps_that_go_back_and_frames_of_other_shapes_stay_apart():
    shapes = [(5, 2), (6, 2), (5, 2), (6, 3)]
    records = [frame(step, np.ones((places, 1), np.float32)) for step, places in shapes]
    got = decode(encode(batch_of(*records))).records
    assert [(r.steps.tolist(), r.values.shape[1]) for r in got] == [([5, 6], 2), ([5], 2), ([6], 3)]


def test_frames_before_and_after_a_new_layout_stay_apart():
    layout = Layout(Stream.SCALAR, 1, (Stat.VALUE,), PLACES[:1])
    records = (
        frame(0, np.ones((2, 1), np.float32)),
        layout,
        Frame(Stream.SCALAR, 1, np.array([1]), np.array([1.0]), np.ones((1, 1, 1), np.float32)),
    )
    kinds = [type(r).__name__ for r in decode(encode(batch_of(*records))).records]
    assert kinds == ["Frame", "Layout", "Frame"]


def test_a_body_of_another_version_says_which_versions_are_read():
    body = bytearray(encode(scalar_batch()))
    body[3] = 99
    with pytest.raises(WireVersionError, match="version 99; this side reads 1 to 1"):
        decode(bytes(body))


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_body_is_refused_or_is_still_a_whole_batch(data):
    body = bytearray(encode(batch_of(Layout(Stream.WEIGHT, 0, (Stat.MEAN,), PLACES))))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    reason = None
    try:
        batch = decode(bytes(body))
    except WireError as error:
        reason = error.reason
    assert reason in {"malformed", "wire_version", "too_large"} or batch.records


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_as_malformed(body):
    with pytest.raises(WireError):
        decode(body)


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_valid_prefix_are_refused(junk):
    with pytest.raises(WireError):
        decode(struct.pack("<3sBI", b"TVB", 1, len(junk)) + junk)


def test_a_deeply_nested_header_is_refused_and_not_a_stack_overflow():
    junk = b"\x91" * 200_000
    with pytest.raises(WireError):
        decode(struct.pack("<3sBI", b"TVB", 1, len(junk)) + junk)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(values_max=1), "values"),
        (Limits(places_max=1), "places"),
        (Limits(records_max=0), "records"),
        (Limits(header_bytes_max=10), "header bytes"),
        (Limits(name_bytes_max=0), "bytes in the name of a run"),
    ],
)
def test_each_limit_is_checked_and_named(limits, what):
    with pytest.raises(WireError, match=what) as refused:
        decode(encode(scalar_batch()), limits)
    assert refused.value.reason == "too_large"


@pytest.mark.parametrize(
    "identity",
    [
        {"run": ""},
        {"project": ""},
        {"run": "a\x00b"},
        {"source": b"short"},
        {"seq": -1},
        {"rank": -1},
        {"sent_at": float("nan")},
    ],
)
def test_a_batch_without_a_proper_identity_is_refused(identity):
    with pytest.raises(WireError):
        decode(encode(scalar_batch(**identity)))


@pytest.mark.parametrize("steps", [[3, 2], [1, 1], [-1, 0]])
def test_the_steps_of_a_frame_must_increase_from_zero(steps):
    bad = Frame(
        Stream.SCALAR, 0, np.array(steps), np.array([0.0, 1.0]), np.ones((2, 1, 1), np.float32)
    )
    with pytest.raises(WireError):
        decode(encode(batch_of(bad)))


def test_a_header_cannot_claim_more_values_than_the_body_carries():
    body = encode(scalar_batch())
    with pytest.raises(WireError, match="the body carries 4"):
        decode(body[:-4])


def test_a_layout_that_names_a_place_twice_is_refused():
    twice = Layout(Stream.WEIGHT, 0, (Stat.MEAN,), (PLACES[0], PLACES[0]))
    with pytest.raises(WireError, match="twice"):
        decode(encode(batch_of(twice)))


def test_an_unknown_record_kind_is_refused():
    body = encode(batch_of(Heartbeat(1.0, 1)))
    other = body.replace(b"heartbeat", b"heartbeet")
    with pytest.raises(WireError):
        decode(other)


def test_the_golden_batch_of_version_1_is_still_read(request):
    """Written by the first release; never rewritten: old senders outlive upgrades."""
    golden = (request.path.parent / "golden_batch_v1.bin").read_bytes()
    batch = decode(golden)
    assert (batch.run, batch.project, batch.seq, batch.rank) == ("golden", "wire", 3, 1)
    start, layout, got, end = batch.records
    assert start.config == {"learning_rate": 0.1}
    assert [place.name for place in layout.places] == ["conv.weight", "conv.bias"]
    assert got.steps.tolist() == [0, 1]
    assert np.isnan(got.values[0, 0, 0])
    assert got.values[1, 1, 7] == np.inf
    assert msgspec.structs.asdict(end)["state"] == "finished"
