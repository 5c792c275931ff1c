"""A deleted run stays in the bin for a time; users' names, tags and notes survive a restart."""

import pytest

from helpers.batches import amounts, batch, ingest, scalar_frame, scalars, start
from trainvitals.wire import RunEnd, Stat, Stream
from trainvitals_server.store import RequestRefused, Store
from trainvitals_server.store.removal import Removal
from trainvitals_server.store.retention import KEEP_TAG, Retention, RetentionLimits, used_bytes

DAY_S = 86_400.0


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def timed(database_url, clock):
    opened = Store.open(database_url, clock=lambda: clock[0])
    yield opened
    opened.close()


def fill(store, run="r", source=b"r", **fields):
    losses = scalar_frame(range(3), [3.0, 2.0, 1.0])
    records = (start(**fields), scalars("loss"), losses)
    ingest(store, batch(*records, run=run, source=source * 16))


def listed(store, **which):
    return [stored.run.id for stored in store.run_summaries(**which)[0]]


def losses(store, run):
    found = store.curves(store.run(run).pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=50)
    return found.spans.newest[:, 0].tolist()


def key_in_bin(store, run):
    return store.in_bin(run)[0][0]


def test_a_run_in_the_bin_is_unknown_and_comes_back_whole(timed):
    fill(timed, name="first", tags=("a",))
    before = timed.run("r").run
    timed.put_into_bin(timed.run("r").pk, "t1")
    assert timed.run("r") is None
    assert listed(timed) == listed(timed, archived=True) == []
    assert timed.runs_due() == []
    [binned] = timed.run_summaries(binned=True)[0]
    assert (binned.run.id, binned.run.state, binned.run.deleted_at) == ("r", "running", 1000.0)
    assert listed(timed, binned=True, state="running") == ["r"]
    assert listed(timed, binned=True, state="failed") == []
    timed.bring_back(key_in_bin(timed, "r"), "t2")
    assert timed.run("r").run == before
    assert losses(timed, "r") == [3.0, 2.0, 1.0]
    events = timed.detail(timed.run("r")).events
    assert [(e.kind, e.text, e.attributes["token"]) for e in events] == [
        ("run_changed", "deleted", "t1"),
        ("run_changed", "undeleted", "t2"),
    ]


def test_after_its_days_in_the_bin_a_run_is_removed(timed, clock):
    fill(timed)
    fill(timed, run="other", source=b"o")
    timed.put_into_bin(timed.run("r").pk, "t")
    retention = Retention(timed.database, RetentionLimits(deleted_days=7), lambda: clock[0])
    clock[0] += 7 * DAY_S - 1
    assert retention.run_once() == 0
    assert listed(timed, binned=True) == ["r"]
    clock[0] += 2
    assert retention.run_once() == 1
    assert Removal(timed.database).run_once() == 1
    assert listed(timed, binned=True) == []
    assert timed.in_bin("r") == []
    assert listed(timed) == ["other"]
    assert amounts(timed).batches == 1


def test_the_bin_counts_in_the_byte_budget_and_goes_first(timed, clock):
    fill(timed)
    fill(timed, run="other", source=b"o")
    with timed.database.read() as connection:
        both = used_bytes(connection)
    timed.put_into_bin(timed.run("r").pk, "t")
    with timed.database.read() as connection:
        assert used_bytes(connection) == both
    limits = RetentionLimits(total_bytes=both // 2, deleted_days=7)
    assert Retention(timed.database, limits, lambda: clock[0]).run_once() == 1
    assert (listed(timed, binned=True), listed(timed)) == ([], ["other"])


class Meanwhile:
    """A database in which something happens before the first write."""

    def __init__(self, database, happens):
        self._database, self._happens = database, [happens]

    def __getattr__(self, name):
        return getattr(self._database, name)

    def write(self, work):
        if self._happens:
            self._happens.pop()()
        return self._database.write(work)


@pytest.mark.parametrize(
    "limits", [RetentionLimits(deleted_days=7), RetentionLimits(deleted_days=1000, total_bytes=1)]
)
def test_a_run_that_is_undeleted_meanwhile_is_not_removed(timed, clock, caplog, limits):
    fill(timed)
    timed.put_into_bin(timed.run("r").pk, "t")
    key = key_in_bin(timed, "r")
    clock[0] += 8 * DAY_S
    database = Meanwhile(timed.database, lambda: timed.bring_back(key, "t"))
    assert Retention(database, limits, lambda: clock[0]).run_once() == 0
    assert losses(timed, "r") == [3.0, 2.0, 1.0]
    assert "is removed" not in caplog.text


@pytest.mark.parametrize(
    "limits",
    [
        RetentionLimits(ended_days=1, deleted_days=1000),
        RetentionLimits(deleted_days=1000, total_bytes=1),
    ],
)
def test_a_run_that_gets_the_tag_keep_meanwhile_is_not_removed(timed, clock, limits):
    fill(timed)
    ingest(timed, batch(RunEnd(2.0, 2, "finished"), seq=1, source=b"r" * 16))
    clock[0] += 8 * DAY_S
    pk = timed.run("r").pk
    database = Meanwhile(timed.database, lambda: timed.edit(pk, {"tags": (KEEP_TAG,)}, "t"))
    assert Retention(database, limits, lambda: clock[0]).run_once() == 0
    assert listed(timed) == ["r"]


def test_batches_of_a_run_in_the_bin_are_refused_until_it_is_back(timed):
    fill(timed)
    timed.put_into_bin(timed.run("r").pk, "t")
    late = batch(scalar_frame([3], [0.5]), seq=1, source=b"r" * 16)
    with pytest.raises(RequestRefused) as refused:
        ingest(timed, late)
    assert refused.value.reason == "run_deleted"
    timed.bring_back(key_in_bin(timed, "r"), "t")
    assert ingest(timed, late).stored
    assert losses(timed, "r") == [3.0, 2.0, 1.0, 0.5]


def test_a_new_run_may_take_the_id_and_the_old_one_then_stays_in_the_bin(timed, clock):
    fill(timed)
    timed.put_into_bin(timed.run("r").pk, "t")
    fill(timed, source=b"n")
    old = key_in_bin(timed, "r")
    with pytest.raises(RequestRefused) as refused:
        timed.bring_back(old, "t")
    assert refused.value.reason == "run_exists"
    new = timed.run("r").pk
    clock[0] += 1
    timed.put_into_bin(new, "t")
    assert [key for key, _ in timed.in_bin("r")] == [new, old], "the newest deleted first"
    timed.bring_back(old, "t")
    assert timed.run("r").pk == old


def test_a_removed_run_cannot_be_brought_back_or_changed(timed):
    fill(timed)
    pk = timed.run("r").pk
    timed.put_into_bin(pk, "t")
    timed.delete(pk)
    assert timed.in_bin("r") == []
    for change in (lambda: timed.bring_back(pk, "t"), lambda: timed.edit(pk, {"name": "x"}, "t")):
        with pytest.raises(RequestRefused) as refused:
            change()
        assert refused.value.reason == "unknown_run"


def test_what_a_user_sets_stays_when_the_training_starts_again(timed):
    fill(timed, name="reported", tags=("reported",), host="h")
    pk = timed.run("r").pk
    timed.edit(pk, {"name": "Mine ü", "tags": (KEEP_TAG, "x"), "notes": "a\nb"}, "t")
    fill(timed, source=b"2", name="again", tags=("again",), host="h2")
    run = timed.detail(timed.run("r"))
    assert (run.name, run.tags, run.notes, run.host, run.attempt) == (
        "Mine ü",
        (KEEP_TAG, "x"),
        "a\nb",
        "h2",
        2,
    )
    assert listed(timed, search="mine ü") == ["r"]
    assert listed(timed, search="again") == []
    timed.edit(pk, {"name": None, "tags": None, "notes": None}, "t")
    run = timed.detail(timed.run("r"))
    assert (run.name, run.tags, run.notes) == ("again", ("again",), "")
    fill(timed, source=b"3", name="third")
    assert timed.run("r").run.name == "third"


def test_an_archived_run_is_listed_when_asked_for_and_goes_on(timed):
    fill(timed)
    fill(timed, run="other", source=b"o")
    timed.edit(timed.run("r").pk, {"archived": True}, "t")
    assert listed(timed) == ["other"]
    assert sorted(listed(timed, archived=True)) == ["other", "r"]
    ingest(timed, batch(scalar_frame([3], [0.5]), seq=1, source=b"r" * 16))
    assert timed.run("r").run.loss == 0.5
    assert timed.run("r").run.archived
    assert timed.runs_due() != [], "it is diagnosed"


def test_each_change_leaves_one_event_and_no_change_leaves_none(timed):
    fill(timed)
    pk = timed.run("r").pk
    changes = timed.run("r").changes
    timed.edit(pk, {"archived": True, "notes": "x"}, "t")
    timed.edit(pk, {"archived": True, "notes": "x"}, "t")
    timed.edit(pk, {}, "t")
    timed.edit(pk, {"archived": False}, "t")
    assert timed.run("r").changes == changes + 2
    assert [e.text for e in timed.detail(timed.run("r")).events] == [
        "notes, archived",
        "unarchived",
    ]
