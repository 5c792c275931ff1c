"""A batch is stored whole, once, or not at all: on SQLite and on Postgres."""

import threading

import numpy as np
import pytest

from helpers.batches import SOURCE, amounts, batch, frame, ingest, scalar_frame, scalars, start
from trainvitals.wire import Dropped, Event, RunEnd, Stat, Stream
from trainvitals_server.store import Conflict, QueueFull, RequestRefused, Store, seal
from trainvitals_server.store.seal import Compactor

LAYOUT = scalars("loss")


def losses(store: Store, run: str = "r") -> list[float]:
    summary = store.run(run)
    assert summary is not None
    found = store.curves(summary.pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=2000)
    return found.spans.newest[:, 0].tolist()


def test_a_repeat_succeeds_and_changes_nothing(store):
    sent = batch(start(), LAYOUT, scalar_frame([0, 1], [3.0, 2.0]))
    assert ingest(store, sent).stored
    before = store.run("r")
    assert not ingest(store, sent).stored
    assert store.run("r") == before
    assert losses(store) == [3.0, 2.0]


def test_the_same_number_with_another_body_is_a_conflict(store):
    ingest(store, batch(LAYOUT, scalar_frame([0], [3.0])))
    with pytest.raises(Conflict, match="checksum") as refused:
        ingest(store, batch(LAYOUT, scalar_frame([0], [4.0])))
    assert refused.value.reason == "conflict"
    assert losses(store) == [3.0]


def test_a_repeat_after_sealing_does_not_come_back(store):
    sent = batch(LAYOUT, scalar_frame(range(100), [1.0] * 100))
    ingest(store, sent)
    assert Compactor(store.database).run_once(everything=True) == 1
    assert not ingest(store, sent).stored
    assert len(losses(store)) == 100


def test_a_repeat_is_known_when_its_key_was_dropped(store, monkeypatch):
    monkeypatch.setattr(seal, "KEYS_PRUNED_MIN", 50)
    monkeypatch.setattr(seal, "KEYS_KEPT", 20)
    sent = [batch(LAYOUT, scalar_frame([0], [0.0]))]
    sent += [batch(scalar_frame([i], [float(i)]), seq=i) for i in range(1, 100)]
    for each in sent:
        ingest(store, each)
    Compactor(store.database).run_once()
    assert amounts(store).batches < len(sent), "no key was dropped: the test is blind"
    for each in sent[:60]:
        assert not ingest(store, each).stored
    for seq in (0, 3, 59):
        with pytest.raises(Conflict, match="checksum"):
            ingest(store, batch(scalar_frame([seq], [-1.0]), seq=seq))
    assert losses(store) == [float(i) for i in range(100)]


def test_a_batch_that_was_missing_is_stored_when_it_comes_late(store):
    ingest(store, batch(LAYOUT, scalar_frame([0], [0.0])))
    ingest(store, batch(scalar_frame([2], [2.0]), seq=2))
    Compactor(store.database).run_once(everything=True)
    assert ingest(store, batch(scalar_frame([1], [1.0]), seq=1)).stored
    assert losses(store) == [0.0, 1.0, 2.0]


def test_many_senders_of_the_same_batch_store_it_once(store):
    sent = batch(start(), LAYOUT, scalar_frame([0], [1.0]), Event(0, 1.0, "checkpoint"))
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ingest(store, sent).stored))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    assert len(store.detail(store.run("r")).events) == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (scalar_frame([1], [1.0], version=7), "unknown_layout"),
        (scalar_frame([1], [1.0], [2.0]), "shape_mismatch"),
        (frame(Stream.WEIGHT, [1], np.zeros((1, 1, 1))), "unknown_layout"),
        (scalars("loss", "other"), "shape_mismatch"),
        (Event(-2, 1.0, "x"), "malformed"),
        (Event(2**60, 1.0, "x"), "malformed"),
        (Event(0, float("nan"), "x"), "malformed"),
        (RunEnd(1.0, 5, "exploded"), "malformed"),
        (RunEnd(1.0, 5, "finished", produced=2**63), "malformed"),
        (Dropped(0, 1, "weight", "queue_full", -5), "malformed"),
        (start(total_steps=2**63), "malformed"),
    ],
)
def test_a_batch_with_one_bad_record_is_refused_whole(store, record, reason):
    ingest(store, batch(LAYOUT, scalar_frame([0], [0.0])))
    good = (scalar_frame([1], [1.0]), Event(1, 1.0, "kept?"))
    with pytest.raises(RequestRefused) as refused:
        ingest(store, batch(*good, record, seq=1))
    assert refused.value.reason == reason
    assert losses(store) == [0.0]
    assert store.detail(store.run("r")).events == []
    assert ingest(store, batch(*good, seq=1)).stored, "its number must be free again"


def test_a_refused_first_batch_leaves_no_run_behind(store):
    with pytest.raises(RequestRefused):
        ingest(store, batch(start(), scalar_frame([0], [0.0])))
    assert store.run("r") is None
    assert amounts(store).runs == 0


def test_two_projects_may_use_one_run_name(store):
    ingest(store, batch(start(), scalars("loss"), scalar_frame([0], [1.0])))
    other = {"project": "other", "source": b"x" * 16}
    ingest(store, batch(start(), scalars("loss"), scalar_frame([0], [2.0]), **other))
    ingest(store, batch(scalar_frame([1], [3.0]), seq=1, **other))
    ingest(store, batch(scalar_frame([1], [4.0]), seq=1))
    assert store.run("r").run.project == "p"
    assert store.run("r").run.loss == 4.0
    assert store.run("other::r").run.project == "other"
    assert store.run("other::r").run.loss == 3.0
    assert store.run("other::r").run.name == "r"
    store.delete(store.run("r").pk)
    ingest(store, batch(scalar_frame([2], [5.0]), seq=2, **other))
    assert store.run("other::r").run.loss == 5.0
    assert store.run("r") is None


def test_a_run_of_another_project_is_never_written_to(store):
    ingest(store, batch(start()))
    ingest(store, batch(start(), run="other::r", source=b"y" * 16))
    with pytest.raises(Conflict) as refused:
        ingest(store, batch(start(), project="other", source=b"x" * 16))
    assert refused.value.reason == "run_in_other_project"


def test_a_source_belongs_to_one_run(store):
    ingest(store, batch(start()))
    with pytest.raises(Conflict, match=SOURCE.hex()):
        ingest(store, batch(start(), run="other", seq=1))
    assert store.run("other") is None


def test_text_that_a_database_cannot_hold_is_kept_readable(store):
    ingest(
        store,
        batch(
            start(name="a\x00b", host="h\x00", tags=("t\x00",), config={"k\x00": "\x00"}),
            Dropped(0, 5, "weight", "why\x00", 3),
            Event(0, 1.0, "kind\x00", "text\x00"),
        ),
    )
    summary = store.run("r")
    assert summary.run.name == "a\ufffdb"
    assert store.detail(summary).config == {"k\x00": "\x00"}
    assert store.totals().dropped == {"why\ufffd": 3}


def test_what_waits_for_the_disk_is_bounded(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'x.db'}", queue_bytes_max=1000)
    entered, leave = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        entered.set()
        leave.wait(30)

    waiting = [threading.Thread(target=store.database.write, args=(slow,))]
    waiting[0].start()
    entered.wait(30)
    waiting.append(
        threading.Thread(target=store.database.write, args=(lambda _: None,), kwargs={"size": 900})
    )
    waiting[1].start()
    while store.database.waiting_bytes == 0:
        pass
    with pytest.raises(QueueFull) as full:
        ingest(store, batch(start(), LAYOUT, scalar_frame(range(100), [1.0] * 100)))
    assert full.value.reason == "queue_full"
    leave.set()
    for thread in waiting:
        thread.join()
    assert ingest(store, batch(start())).stored
    store.close()
