"""`sync` delivers the spools of ended processes now, and says what was sent and what waits."""

import json

import pytest
from typer.testing import CliRunner

from helpers.batches import SOURCE, batch, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.cli.app import app
from trainvitals.ship.segments import Spooled
from trainvitals.ship.spool import Owner, Spool, folders
from trainvitals.wire import RunEnd, encode

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRAINVITALS_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def spool_of(home, url, source=SOURCE, project="p"):
    """Return the open spool of a process that recorded a whole run in three batches."""
    made = Spool.create(home / "spool", source, 10**7, Owner(url, "r", project))
    parts = [
        (start(host="gpu1"), scalars("loss")),
        (scalar_frame([0], [2.0]), scalar_frame([1], [1.0])),
        (RunEnd(9.0, 1, "finished", produced=5),),
    ]
    for seq, records in enumerate(parts):
        sent = batch(*records, seq=seq, source=source, project=project, counted=len(records))
        made.append(Spooled(seq, len(records), encode(sent)))
    return made


def sync(*words):
    return CliRunner().invoke(app, ["sync", *words])


def test_the_run_of_an_ended_process_is_complete_after_it(home, tmp_path, monkeypatch):
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        spool_of(home, collector.url).close()
        spool_of(home, NOWHERE, b"e" * 16).close()
        done = sync("--collector", collector.url)
        assert done.exit_code == 0, done.output
        assert done.stdout == (f"3 batches with 5 records are delivered to {collector.url}.\n")
        assert f"3 batches wait for {NOWHERE}; to send them: trainvitals sync" in done.stderr
        shown = collector.store.detail(collector.store.run("r")).completeness
        assert (shown.complete, shown.stored) == (True, 5)
        again = sync("--collector", collector.url)
        assert (again.exit_code, again.stdout.split()[0]) == (0, "0")
        spool_of(home, collector.url, b"f" * 16).close()
        counts = json.loads(sync("--collector", collector.url, "--json").stdout)
        assert counts == {
            "collector": collector.url,
            "delivered_batches": 3,
            "delivered_records": 5,
            "rejected_records": 0,
            "waiting_batches": {NOWHERE: 3},
            "running_folders": 0,
            "unreadable_folders": 0,
            "reason": "",
        }
    assert len(folders(home / "spool")) == 1


def test_a_running_process_sends_its_batches_itself(home, tmp_path, monkeypatch):
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        running = spool_of(home, collector.url)
        done = sync("--collector", collector.url)
        assert done.exit_code == 0, done.output
        assert "1 folders belong to running processes." in done.stderr
        assert collector.store.run("r") is None
        running.close()


def test_a_collector_that_does_not_answer_leaves_everything_on_disk(home):
    spool_of(home, NOWHERE).close()
    done = sync("--collector", NOWHERE, "--wait", "0")
    assert done.exit_code == 3
    assert f"3 batches still wait for {NOWHERE}: ConnectionRefusedError" in done.stderr
    assert len(folders(home / "spool")) == 1


def test_without_a_token_it_says_so(home, tmp_path):
    with running_collector(tmp_path) as collector:
        spool_of(home, collector.url).close()
        done = sync("--collector", collector.url, "--wait", "0")
    assert done.exit_code == 3
    assert "401" in done.stderr


def test_what_the_collector_rejects_is_counted_and_kept(home, tmp_path, monkeypatch):
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        # Both ids that the run could have belong to another project.
        for run, source in (("r", b"f" * 16), ("p::r", b"g" * 16)):
            other = batch(start(), run=run, project="another", source=source)
            assert collector.send(other).status_code == 200
        spool_of(home, collector.url).close()
        done = sync("--collector", collector.url)
    assert done.exit_code == 1
    assert "rejected 5 records permanently" in done.stderr
    [folder] = folders(home / "spool")
    assert len(list((folder / "rejected").iterdir())) == 3


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_sent(home, tmp_path, monkeypatch):
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        spool_of(home, collector.url).close()
        (home / "spool" / ("a" * 32) / "lock").mkdir(parents=True)
        done = sync("--collector", collector.url)
    assert done.exit_code == 3
    assert done.stdout.startswith("3 batches with 5 records are delivered")
    assert "1 folders in" in done.stderr


def test_an_address_that_is_none_is_wrong_usage(home):
    assert sync("--collector", "ftp://x").exit_code == 2
