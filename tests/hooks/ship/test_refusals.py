"""A refused batch is divided: only the record that cannot be stored is left out."""

import time

import numpy as np
import pytest

from helpers.batches import amounts
from helpers.collector import running_collector
from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper, sender
from trainvitals.ship.segments import Spooled
from trainvitals.ship.split import halves, records_of
from trainvitals.wire import (
    Batch,
    Dropped,
    Event,
    Frame,
    Layout,
    Place,
    RunStart,
    Stat,
    Stream,
    encode,
)


def frame(step: int, stream: Stream = Stream.SCALAR, places: int = 1, layout: int = 0) -> Frame:
    values = np.full((1, places, 1), step, np.float32)
    return Frame(stream, layout, np.array([step]), np.array([float(step)]), values)


def shipper_to(url: str, folder, **options) -> Shipper:
    shipper = Shipper(
        **{"url": url, "token": "t", "run": "r", "project": "p", "spool_dir": folder, **options}
    )
    shipper.put(RunStart(0.0, name="r"))
    shipper.put(Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),)))
    return shipper


def wait_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def is_balanced(shipper: Shipper) -> bool:
    s = shipper.status
    return s.produced == s.acknowledged + s.waiting + s.dropped + shipper._buffer.dropped


def test_one_record_that_cannot_be_stored_is_left_out_alone(tmp_path):
    with tiny_collector() as collector:
        collector.is_poison = lambda record: isinstance(record, Event) and record.step == 17
        shipper = shipper_to(collector.url, tmp_path)
        for step in range(40):
            shipper.put(frame(step))
            shipper.put(Event(step, 0.0, "note"))
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
    assert sorted(collector.steps()) == list(range(40))
    assert {e.step for e in collector.records(Event)} == set(range(40)) - {17}
    assert len(list(tmp_path.glob("*/rejected/*.batch"))) == 1
    [told] = collector.records(Dropped)
    assert (told.reason, told.records, told.first_step) == ("rejected", 1, 17)
    assert shipper.status.dropped == 1
    assert is_balanced(shipper)


def test_one_step_of_many_that_travel_together_is_left_out_alone(tmp_path):
    with tiny_collector() as collector:
        collector.is_poison = lambda record: isinstance(record, Frame) and 5 in record.steps
        shipper = shipper_to(collector.url, tmp_path)
        for step in range(16):
            shipper.put(frame(step))
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
    assert sorted(collector.steps()) == [step for step in range(16) if step != 5]
    assert is_balanced(shipper)


def test_a_refused_batch_on_disk_is_divided_there(tmp_path):
    with tiny_collector("503") as collector:
        collector.is_poison = lambda record: isinstance(record, Event)
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: shipper.status.state == "away")
        for step in range(10):
            shipper.put(frame(step))
        shipper.put(Event(3, 0.0, "note"))
        shipper.put(frame(10))
        collector.behave = "well"
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
    assert sorted(collector.steps()) == list(range(11))
    assert shipper.status.dropped == 1
    assert is_balanced(shipper)


def test_a_key_that_stands_for_another_batch_is_counted_and_ends_nothing(tmp_path):
    with tiny_collector("conflict") as collector:
        shipper = shipper_to(collector.url, tmp_path)
        shipper.put(frame(0))
        wait_until(lambda: shipper.status.dropped == 3)
        collector.behave = "well"
        shipper.put(frame(1))
        wait_until(lambda: shipper.status.acknowledged == 1)
        shipper.close()
    assert collector.steps() == [1]
    assert collector.records(Layout), "later frames need the layouts that were lost"
    assert sum(told.records for told in collector.records(Dropped)) == 3
    assert is_balanced(shipper)


def test_a_layout_that_the_collector_has_forgotten_is_sent_again_with_its_frames(tmp_path):
    with tiny_collector() as collector:
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: shipper.status.acknowledged == 2)
        well = collector.answer

        def answer(handler, batch):
            has_layout = any(isinstance(record, Layout) for record in batch.records)
            collector.behave = "well" if has_layout else "unknown_layout"
            well(handler, batch)

        collector.answer = answer
        shipper.put(frame(0))
        wait_until(lambda: shipper.status.waiting == 0)
        shipper.close()
    assert collector.steps() == [0]
    assert shipper.status.dropped == 0


def test_the_frames_of_a_layout_that_cannot_be_stored_are_counted_and_sent_no_more(tmp_path):
    with tiny_collector() as collector:
        collector.is_poison = lambda r: isinstance(r, Layout) and r.stream is Stream.WEIGHT
        shipper = shipper_to(collector.url, tmp_path)
        shipper.put(Layout(Stream.WEIGHT, 0, (Stat.L2,), (Place("w"),)))
        wait_until(lambda: shipper.status.dropped == 1)
        requests = collector.requests
        for step in range(10):
            shipper.put(frame(step, Stream.WEIGHT))
            shipper.put(frame(step))
        wait_until(lambda: shipper.status.waiting == 0)
        shipper.close()
    assert collector.requests < requests + 5
    assert {f.stream for f in collector.records(Frame)} == {Stream.SCALAR}
    assert shipper.status.dropped == 11
    assert is_balanced(shipper)


def test_halves_are_the_whole_and_have_keys_that_no_other_batch_has():
    records = (RunStart(0.0), *(frame(step) for step in range(9)), Event(3, 0.0, "note"))
    whole = Spooled(7, 11, encode(Batch("r", "p", b"s" * 16, 7, 0.0, 0, records)))
    todo, leaves = [whole], []
    while todo:
        part = todo.pop(0)
        parts = halves(part)
        leaves += [] if parts else [part]
        todo += parts
    assert len(leaves) == 11
    assert len({leaf.seq for leaf in leaves}) == 11
    assert {leaf.seq % 2**32 for leaf in leaves} == {7}
    assert sum(leaf.records for leaf in leaves) == 11
    assert sum(len(records_of(leaf)) for leaf in leaves) == 11


def test_a_spool_keeps_few_rejected_batches(tmp_path):
    with tiny_collector() as collector:
        collector.is_poison = lambda record: isinstance(record, Event)
        shipper = shipper_to(collector.url, tmp_path, spool_bytes_max=80_000)
        for step in range(60):
            shipper.put(Event(step, 0.0, "note", "x" * 1000))
        wait_until(lambda: shipper.status.dropped == 60)
        shipper.close()
    kept = [path.stat().st_size for path in tmp_path.glob("*/rejected/*")]
    assert 0 < sum(kept) <= 10_000


# Against a real collector.


def layouts_of(layers: int):
    """What a model of so many linear layers announces."""
    places = tuple(
        Place(
            f"transformer.blocks.{layer}.{part}",
            kind=part,
            shape=(64, 64) if part == "weight" else (64,),
            depth=layer,
            module=f"transformer.blocks.{layer}",
            module_kind="Linear",
            nonlinearity="relu",
        )
        for layer in range(layers)
        for part in ("weight", "bias")
    )
    return [
        Layout(stream, 0, (Stat.L2,), places)
        for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)
    ]


@pytest.mark.parametrize("layers", [2000, 5000, 10_000])
def test_a_model_of_thousands_of_layers_is_delivered(tmp_path, layers):
    # 5,000 layers have 30,000 series: more than the default.
    with running_collector(tmp_path / "home") as collector:
        url = f"http://127.0.0.1:{collector.settings.port}"
        shipper = shipper_to(url, tmp_path / "spool", token=collector.token)
        announced = layouts_of(layers)
        for layout in announced:
            shipper.put(layout)
        for step in range(3):
            for layout in announced:
                shipper.put(frame(step, layout.stream, len(layout.places)))
            shipper.put(frame(step))
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
        streams = {x.stream: len(x.places) for x in collector.store.layouts(1)}
    assert shipper.status.dropped == 0, shipper.status.last_error
    assert shipper.status.acknowledged == 2 + 3 + 12
    assert streams[Stream.UPDATE] == 2 * layers


def test_nothing_that_a_program_may_name_or_log_ends_delivery(tmp_path):
    with running_collector(tmp_path / "home") as collector:
        url = f"http://127.0.0.1:{collector.settings.port}"
        shipper = shipper_to(url, tmp_path / "spool", token=collector.token)
        names = ("a\ud800", "a\x00", "n" * 300, "n" * 301)
        shipper.put(Layout(Stream.SCALAR, 1, (Stat.VALUE,), tuple(map(Place, names))))
        shipper.put(frame(0, places=4, layout=1))
        shipper.put(Event(2**70, float("nan"), "\ud800", "\x00" * 10, {"n": 2**80}))
        shipper.put(RunStart(float("inf"), config={"seed": 2**128}, total_steps=2**70))
        shipper.put(frame(1, places=4, layout=1))
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
    assert shipper.status.acknowledged == 7
    assert shipper.status.dropped == 0, shipper.status.last_error


def test_a_frame_of_another_shape_is_left_out_and_the_rest_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "BUSY_S", 0.05)
    with running_collector(tmp_path / "home") as collector:
        url = f"http://127.0.0.1:{collector.settings.port}"
        shipper = shipper_to(url, tmp_path / "spool", token=collector.token)
        for step in range(20):
            shipper.put(frame(step, places=2 if step == 11 else 1))
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged)
        shipper.close()
        stored = amounts(collector.store).log_rows
    assert stored == 19
    assert shipper.status.dropped == 1
    assert is_balanced(shipper)
