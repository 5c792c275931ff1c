"""`trainvitals runs` lists runs; `trainvitals export` writes every stored value, bit for bit."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.batches import batch, frame, scalar_frame, scalars, start
from trainvitals.cli.app import app
from trainvitals.wire import Layout, Place, RunEnd, Stat, Stream
from trainvitals_server.store import frames as frames_module
from trainvitals_server.store.retention import thin
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.timeline import timeline

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2**32, size=(60, 2, 3), dtype=np.uint32)
VALUES = BITS.view(np.float32)
"""Random bit patterns: NaN, subnormal and huge numbers are among them."""
WIDER = np.array([[[1.5], [np.nan], [-0.0]], [[np.inf], [-np.inf], [1e-45]]], np.float32)
LOSSES = [0.1, float("nan"), float("inf"), float("-inf"), 1 / 3]


def weights(version, places, statistics):
    return Layout(Stream.WEIGHT, version, statistics, tuple(map(Place, places)))


@pytest.fixture
def run(collector, tmp_path, monkeypatch):
    """Return a function that runs a command against a collector that holds the run `r`."""
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
    monkeypatch.chdir(tmp_path)
    three = weights(0, ("a,b", "ü"), (Stat.MEAN, Stat.STD, Stat.L2))
    sent = [
        batch(start(name="first"), scalars("loss"), scalar_frame(range(5), LOSSES)),
        batch(three, frame(Stream.WEIGHT, range(0, 120, 2), VALUES), seq=1),
        batch(
            weights(1, ("a,b", "ü", "new"), (Stat.L2,)),
            frame(Stream.WEIGHT, [120, 125], WIDER, version=1),
            seq=2,
        ),
    ]
    for one in sent:
        assert collector.send(one).status_code == 200
    monkeypatch.setattr(frames_module, "VALUES_MAX", 50)  # several pages
    options = ("--collector", collector.url)
    return lambda *words: CliRunner().invoke(app, [*words, *options])


def bits(value: object) -> int | str:
    """Return a float32's bits; all NaN are one, because text has only one."""
    number = np.float32(value)
    return "nan" if np.isnan(number) else int(number.view(np.uint32))


def expected() -> dict[tuple[str, str, str, int], int | str]:
    """Return (stream, place, statistic, step) → bits of each value that was sent."""
    found = {("scalar", "loss", "value", i): bits(v) for i, v in enumerate(LOSSES)}
    for i, step in enumerate(range(0, 120, 2)):
        for j, place in enumerate(("a,b", "ü")):
            for k, statistic in enumerate(("mean", "std", "l2")):
                found["weight", place, statistic, step] = bits(VALUES[i, j, k])
    for i, step in enumerate((120, 125)):
        for j, place in enumerate(("a,b", "ü", "new")):
            found["weight", place, "l2", step] = bits(WIDER[i, j, 0])
    return found


def keyed(rows):
    found = {
        (r["stream"], r["place"], r["statistic"], int(r["step"])): bits(r["value"]) for r in rows
    }
    assert len(found) == len(rows), "no row twice"
    return found


@pytest.mark.parametrize("sealed", [False, True])
def test_csv_and_jsonl_hold_the_stored_values(run, collector, tmp_path, sealed):
    if sealed:
        while Compactor(collector.store.database).run_once(everything=True):
            pass
    done = run("export", "r", "-o", "r.csv")
    assert done.exit_code == 0, done.output
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert keyed(rows) == expected()
    assert float(rows[0]["time"]) > 1e9
    lines = run("export", "r", "--format", "jsonl", "-o", "-").stdout.splitlines()

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    assert keyed([json.loads(x, parse_constant=refuse) for x in lines]) == expected()
    assert list(tmp_path.glob("*.part")) == []


def test_a_reader_that_stops_early_is_no_error(run, collector):
    reader, writer = os.pipe()
    os.close(reader)
    words = ("-m", "trainvitals", "export", "r", "-o", "-", "--collector", collector.url)
    done = subprocess.run([sys.executable, *words], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_parquet_holds_the_stored_bits_of_nan_too(run, tmp_path):
    assert run("export", "r", "--format", "parquet", "-o", "r.parquet").exit_code == 0
    table = pq.read_table(tmp_path / "r.parquet")
    assert str(table.schema.field("value").type) == "float"
    assert keyed(table.to_pylist()) == expected()
    shown = table.filter(
        (table["place"].to_numpy() == "ü")
        & (table["statistic"].to_numpy() == "std")
        & (table["step"].to_numpy() < 120)
    )
    exact = np.sort(shown["value"].to_numpy().view(np.uint32))
    np.testing.assert_array_equal(exact, np.sort(BITS[:, 1, 1]))


def test_without_pyarrow_it_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("export", "r", "--format", "parquet", "-o", "r.parquet")
    assert done.exit_code == 2
    assert "pip install pyarrow" in done.stderr
    assert list(tmp_path.glob("r.parquet*")) == []


def test_an_export_that_fails_keeps_the_file_that_is_there(run, tmp_path):
    (tmp_path / "old.csv").write_text("old")
    done = run("export", "nobody", "-o", "old.csv")
    assert done.exit_code == 2
    assert (tmp_path / "old.csv").read_text() == "old"
    assert run("export", "r", "-o", "no/such/folder.csv").exit_code == 2


def test_runs_are_listed_with_filters_and_as_json(run, collector):
    for i in range(3):
        other = batch(
            start(started_at=float(i)),
            RunEnd(9.0, 4, "finished"),
            run=f"other{i}",
            project="q",
            source=bytes([i]) * 16,
        )
        assert collector.send(other).status_code == 200
    shown = run("runs").stdout
    assert [line.split()[0] for line in shown.splitlines()] == [
        "id",
        "r",
        *(f"other{i}" for i in (2, 1, 0)),
    ]
    assert "first" in shown
    assert "125" in shown
    found = json.loads(run("runs", "--json", "--project", "q", "--limit", "2").stdout)
    assert [one["id"] for one in found] == ["other2", "other1"]
    assert [
        one["id"] for one in json.loads(run("runs", "--json", "--state", "running").stdout)
    ] == ["r"]
    none = run("runs", "--project", "nobody")
    assert (none.exit_code, none.stdout) == (0, "")
    assert run("runs", "--state", "asleep").exit_code == 2


def test_an_export_says_how_many_thinned_rows_it_lacks(run, collector, tmp_path):
    while Compactor(collector.store.database).run_once(everything=True):
        pass
    assert "thinned" not in run("export", "r", "-o", "whole.csv").output
    with collector.store.database.read() as connection:
        [scalar] = timeline(connection, collector.store.run("r").pk, Stream.SCALAR)
    collector.store.database.write(lambda connection: thin(scalar.shape.pk, [0], connection))
    done = run("export", "r", "-o", "thin.csv")
    assert done.exit_code == 0, done.output
    assert "The file omits 5 rows" in done.output
    with (tmp_path / "thin.csv").open(newline="") as file:
        assert {row["stream"] for row in csv.DictReader(file)} == {"weight"}
