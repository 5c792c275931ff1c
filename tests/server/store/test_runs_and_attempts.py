"""A run has the state of its newest attempt; older attempts are kept separately."""

import numpy as np
import pytest

from helpers.batches import (
    STARTED_AT,
    batch,
    diagnosis,
    frame,
    ingest,
    scalar_frame,
    scalars,
    start,
)
from trainvitals.api.schema import Counts, Evidence, Finding, Severity, State
from trainvitals.wire import (
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    RunEnd,
    Stat,
    Stream,
)
from trainvitals_server.store import RequestRefused, Store, histories
from trainvitals_server.store.histories import Histories
from trainvitals_server.store.seal import Compactor

LOSS = scalars("loss")


def finding(**fields):
    defaults = {"rule": "a", "code": "TV1", "severity": Severity.ERROR, "since_step": 1}
    return Finding(**{**defaults, "summary": "x", **fields})


def losses(store, name="loss"):
    found = store.curves(store.run("r").pk, Stream.SCALAR, Stat.VALUE, [name], points=2000)
    return dict(zip(found.spans.first.tolist(), found.spans.newest[:, 0].tolist(), strict=True))


def attempt(source: bytes, steps, value: float, *, started_at: float, rank: int = 0):
    frames = scalar_frame(steps, [value] * len(steps))
    return batch(start(started_at=started_at), LOSS, frames, source=source * 16, rank=rank)


def test_a_new_run_is_listed_with_what_it_said(store):
    ingest(
        store,
        batch(
            start(
                name="my run", tags=("x",), host="h", total_steps=10, config={"lr": float("nan")}
            ),
            scalars("loss", "overhead"),
            scalar_frame([0, 1], [2.0, 1.5], [float("nan"), 0.01]),
            NotWatched({"emb": "sparse"}),
        ),
    )
    [stored], cursor = store.run_summaries()
    run = stored.run
    assert cursor is None
    assert (run.id, run.project, run.name, run.state, run.attempt) == (
        "r",
        "p",
        "my run",
        "running",
        1,
    )
    assert (run.step, run.total_steps, run.loss, run.host, run.tags) == (1, 10, 1.5, "h", ("x",))
    assert run.overhead == pytest.approx(0.01)
    assert run.step_rate == pytest.approx(10)
    assert run.sparkline == (2.0, 1.5)
    assert (run.health, run.headline) == (None, None)
    assert store.detail(stored).not_watched == {"emb": "sparse"}
    assert np.isnan(store.detail(stored).config["lr"])


def test_a_resume_takes_later_steps_back_and_keeps_the_earlier_ones(store):
    ingest(store, attempt(b"a", range(10), 1.0, started_at=100))
    ingest(store, attempt(b"b", range(6, 12), 2.0, started_at=200))
    assert losses(store) == {**dict.fromkeys(range(6), 1.0), **dict.fromkeys(range(6, 12), 2.0)}
    run = store.run("r")
    assert (run.run.attempt, run.run.step, run.run.loss) == (2, 11, 2.0)
    history = store.history(run.pk)
    assert history.steps(Stream.SCALAR).tolist() == list(range(12))


def test_the_newest_attempt_is_the_one_that_started_last_not_the_one_heard_last(store):
    ingest(store, attempt(b"b", range(6, 12), 2.0, started_at=200))
    ingest(store, attempt(b"a", range(10), 1.0, started_at=100))
    assert losses(store)[9] == 2.0
    run = store.run("r").run
    assert (run.attempt, run.step, run.loss) == (2, 11, 2.0)


def test_ranks_of_one_start_are_one_attempt_and_the_lowest_speaks(store):
    ingest(store, attempt(b"b", range(3), 5.0, started_at=100, rank=1))
    ingest(store, attempt(b"a", range(3), 1.0, started_at=100, rank=0))
    assert store.run("r").run.attempt == 1
    assert set(losses(store).values()) == {1.0}


def test_a_run_ends_as_it_says_and_lives_again_with_a_new_attempt(store):
    ingest(store, attempt(b"a", range(3), 1.0, started_at=100))
    ingest(store, batch(RunEnd(150.0, 2, "finished"), seq=1, source=b"a" * 16))
    assert (store.run("r").run.state, store.run("r").run.ended_at) == ("finished", 150.0)
    ingest(store, attempt(b"b", range(3, 5), 1.0, started_at=200))
    assert (store.run("r").run.state, store.run("r").run.ended_at) == ("running", None)


def test_silence_is_lost_contact_and_a_word_ends_it(tmp_path):
    now = [1000.0]
    store = Store.open(f"sqlite:///{tmp_path / 'x.db'}", clock=lambda: now[0])
    ingest(store, batch(start()))
    assert store.mark_lost(1059.0, 60) == 0
    assert store.mark_lost(1061.0, 60) == 1
    assert store.run("r").run.state == "lost"
    ingest(store, batch(Heartbeat(STARTED_AT, 7), seq=1))
    assert (store.run("r").run.state, store.run("r").run.step) == ("running", 7)
    store.close()


def test_a_round_is_due_until_it_was_made(store):
    ingest(store, batch(start(), LOSS, scalar_frame([0], [1.0])))
    [pk] = store.runs_due()
    with store.claim_round(pk) as mine:
        assert mine
        with store.claim_round(pk) as also_mine:
            assert not also_mine
        ingest(store, batch(scalar_frame([1], [1.0]), seq=1))
    assert store.runs_due() == [pk], "what came during the round is not forgotten"
    with store.claim_round(pk):
        pass
    assert store.runs_due() == []


def test_a_round_that_fails_stays_due(store):
    ingest(store, batch(start()))
    [pk] = store.runs_due()
    with pytest.raises(ZeroDivisionError), store.claim_round(pk):
        raise ZeroDivisionError
    assert store.runs_due() == [pk]


def test_findings_are_kept_by_episode_and_the_root_cause_is_the_headline(store):
    ingest(store, batch(start()))
    pk = store.run("r").pk
    caused = finding(code="TV2", explained_by="TV1")
    shown = Evidence(quantity="n", seen=1.5, limit=1.0, direction="above")
    root = finding(where="layer", evidence=(shown,))
    info = finding(code="TV3", severity=Severity.INFO)
    store.save_diagnosis(pk, diagnosis([caused, root, info], health=0.25, step=9))
    assert store.findings(pk) == [caused, root, info]
    run = store.run("r").run
    assert (run.health, run.headline) == (0.25, root)
    assert run.findings == Counts(error=2, warning=0, info=1)

    resolved = finding(where="layer", state=State.RESOLVED)
    again = finding(where="layer", since_step=50)
    assert store.open_findings([pk, pk + 1]) == {
        pk: {(f.rule, str(f.severity)): n for f, n in ((root, 2), (info, 1))}
    }
    store.save_diagnosis(pk, diagnosis([again, resolved], health=0.5, step=60))
    assert sum(store.open_findings([pk])[pk].values()) == 1
    assert store.findings(pk) == [again, resolved]
    assert store.run("r").run.findings.error == 1
    store.save_diagnosis(pk, diagnosis([], health=1.0, step=70))
    assert store.findings(pk) == []
    assert store.run("r").run.headline is None


def test_any_change_changes_what_an_etag_is_made_of(store):
    ingest(store, batch(start()))
    seen = {store.run("r").changes}
    store.save_diagnosis(store.run("r").pk, diagnosis([], health=1.0, step=0))
    seen.add(store.run("r").changes)
    ingest(store, batch(Heartbeat(1.0, 5), seq=1))
    seen.add(store.run("r").changes)
    store.mark_lost(2e9 + 1e9, 1)
    seen.add(store.run("r").changes)
    assert len(seen) == 4


def test_pages_hold_each_run_once_while_new_ones_arrive(store):
    for i in range(7):
        ingest(store, batch(start(started_at=float(i)), run=f"r{i}", source=bytes([i]) * 16))
    page, cursor = store.run_summaries(limit=3)
    ingest(store, batch(start(started_at=99.0), run="new", source=b"n" * 16))
    names = [stored.run.id for stored in page]
    while cursor:
        page, cursor = store.run_summaries(limit=3, cursor=cursor)
        names += [stored.run.id for stored in page]
    assert names == [f"r{i}" for i in reversed(range(7))]


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("sort", ["started_at", "last_report_at", "step", "name"])
def test_pages_are_sorted_and_equal_values_are_on_one_page_each(store, sort, ascending):
    for i in range(9):
        store._clock = lambda i=i: 100.0 - i % 4
        sent = [start(name=f"é{i % 5}", started_at=float(i % 3)), scalars("loss")]
        sent.append(scalar_frame([i % 2], [1.0]))
        ingest(store, batch(*sent, run=f"r{i}", source=bytes([i]) * 16))
    found, cursor = store.run_summaries(sort=sort, ascending=ascending, limit=2)
    while cursor:
        page, cursor = store.run_summaries(sort=sort, ascending=ascending, limit=2, cursor=cursor)
        found += page
    keys = [(getattr(stored.run, sort), stored.pk) for stored in found]
    assert keys == sorted(keys, reverse=not ascending)
    assert len({stored.pk for stored in found}) == 9
    assert len({value for value, _ in keys}) > 1


def test_a_cursor_of_another_order_is_refused(store):
    for i in range(3):
        ingest(store, batch(start(), run=f"r{i}", source=bytes([i]) * 16))
    _, cursor = store.run_summaries(sort="name", limit=2)
    with pytest.raises(RequestRefused):
        store.run_summaries(sort="step", limit=2, cursor=cursor)


def test_runs_are_found_by_project_state_and_words(store):
    ingest(store, batch(start(tags=("Big_One",)), run="a", project="p1", source=b"a" * 16))
    ingest(store, batch(start(name="100%"), run="b", project="p2", source=b"b" * 16))

    def found(**wanted):
        return [stored.run.id for stored in store.run_summaries(**wanted)[0]]

    assert found(project="p1") == ["a"]
    assert found(state="finished") == []
    assert found(search="big_one") == ["a"]
    assert found(search="bigxone") == [], "_ is a letter, not a wildcard"
    assert found(search="%") == ["b"]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "gqFhoWI", "🦆" * 50])
def test_a_cursor_that_is_none_is_refused(store, cursor):
    with pytest.raises(RequestRefused):
        store.run_summaries(cursor=cursor)


def test_a_history_goes_on_without_being_read_again(store):
    weights = Layout(Stream.WEIGHT, 0, (Stat.MEAN, Stat.STD), (Place("a"), Place("b")))
    values = np.arange(8.0).reshape(2, 2, 2)
    ingest(store, batch(start(facts={"optimizer": "SGD"}), weights))
    ingest(store, batch(frame(Stream.WEIGHT, [0, 1], values), seq=1))
    pk = store.run("r").pk
    history = store.history(pk)
    assert history.facts == {"optimizer": "SGD"}
    ingest(store, batch(frame(Stream.WEIGHT, [2, 3], values + 8), seq=2))
    assert store.history(pk) is history
    Compactor(store.database).run_once(everything=True)
    ingest(store, batch(frame(Stream.WEIGHT, [4, 5], values + 16), seq=3))
    assert store.history(pk) is history
    assert history.values(Stream.WEIGHT, Stat.STD).tolist() == [
        [4.0 * i + 1, 4.0 * i + 3] for i in range(6)
    ]


def test_histories_are_kept_while_there_is_room_for_them(store, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(histories, "monotonic", lambda: float(next(clock)))
    for run in "abc":
        source = run.encode() * 16
        ingest(store, batch(LOSS, scalar_frame([0, 1], [2.0, 1.5]), run=run, source=source))
    pk = {run: store.run(run).pk for run in "abc"}
    with store.database.read() as connection:
        size = Histories().get(connection, pk["a"]).nbytes
        kept = Histories(bytes_max=2 * size)
        read = lambda run: kept.get(connection, pk[run])  # noqa: E731
        a, b, c = read("a"), read("b"), read("c")
        assert read("a") is a
        assert read("b") is b, "runs in turns do not remove each other"
        assert read("c") is not c, "there is no room for a third"
        for _ in range(6):  # a minute without a round of "a"
            read("b")
        c = read("c")
        assert read("c") is c
        assert read("b") is b
        assert read("a") is not a


def test_a_history_of_another_collector_is_the_same(store):
    for i in range(4):
        layout = [LOSS] if i == 0 else []
        ingest(
            store,
            batch(*layout, scalar_frame(range(i * 400, i * 400 + 400), [float(i)] * 400), seq=i),
        )
        store.history(store.run("r").pk)
        Compactor(store.database).run_once()
    pk = store.run("r").pk
    kept, fresh = store.history(pk), Store(store.database).history(pk)
    assert fresh is not kept
    for stream in (Stream.SCALAR,):
        np.testing.assert_array_equal(kept.steps(stream), fresh.steps(stream))
        np.testing.assert_array_equal(
            kept.values(stream, Stat.VALUE), fresh.values(stream, Stat.VALUE)
        )
