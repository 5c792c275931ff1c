"""`trainvitals import` stores what `trainvitals export` wrote, bit for bit and once."""

import csv
import json
import sys
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.batches import amounts, batch, frame, scalar_frame, scalars, start
from trainvitals.cli.app import app
from trainvitals.export import WRITERS
from trainvitals.imports import rows as rows_module
from trainvitals.imports.numbers import float32_of
from trainvitals.imports.pages import pages
from trainvitals.imports.rows import READERS, BadFile
from trainvitals.ship.http import Away, Link
from trainvitals.wire import Frame, Layout, Place, Stat, Stream
from trainvitals_server.auth import Scope
from trainvitals_server.store import frames as frames_module
from trainvitals_server.store.removal import Removal

FORMATS = ("csv", "jsonl", "parquet")
ODD = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-40, 3.4028235e38, 1 / 3]
FAR = 2**31 + 7


def layout(stream, version, places, statistics):
    return Layout(stream, version, statistics, tuple(map(Place, places)))


@pytest.fixture
def command(collector, tmp_path, monkeypatch):
    """Return a function that runs a command against a collector."""
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
    monkeypatch.chdir(tmp_path)
    options = ("--collector", collector.url)
    return lambda *words: CliRunner().invoke(app, [*words, *options])


def send_a_run(collector):
    """Store the run `r`: odd values, steps beyond 2^31, layouts that grow and shrink."""
    bits = np.random.default_rng(0).integers(0, 2**32, size=(40, 2, 3), dtype=np.uint32)
    three = (Stat.MEAN, Stat.STD, Stat.L2)
    sent = [
        batch(start(), scalars("loss"), scalar_frame(range(9), ODD)),
        batch(
            scalars("loss", 'log/a,"b"\n', version=1),
            scalar_frame([9, FAR], [1.0, 2.0], ODD[:2], version=1),
            seq=1,
        ),
        batch(
            layout(Stream.WEIGHT, 0, ("a", "ü"), three),
            frame(Stream.WEIGHT, range(0, 80, 2), bits.view(np.float32)),
            layout(Stream.WEIGHT, 1, ("ü",), three[2:]),
            frame(Stream.WEIGHT, [80, 81, FAR], np.ones((3, 1, 1)), version=1),
            seq=2,
        ),
    ]
    for one in sent:
        assert collector.send(one).status_code == 200


def table_bits(path):
    """Return the columns of a Parquet file, the values as bits."""
    found = pq.read_table(path).to_pydict()
    found["value"] = pq.read_table(path)["value"].to_numpy().view(np.uint32).tolist()
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_exported_and_imported_exports_the_same_bytes(
    collector, command, tmp_path, monkeypatch, form
):
    send_a_run(collector)
    monkeypatch.setattr(frames_module, "VALUES_MAX", 50)  # several pages
    first, again = tmp_path / f"first.{form}", tmp_path / f"again.{form}"
    assert command("export", "r", "--format", form, "-o", str(first)).exit_code == 0
    done = command("import", str(first), "--run", "copy", "--project", "p")
    assert done.exit_code == 0, done.output
    assert "256 values are stored as the run 'copy'" in done.output
    stored = amounts(collector.store)
    repeat = command("import", str(first), "--run", "copy", "--project", "p")
    assert repeat.exit_code == 0, repeat.output
    assert amounts(collector.store) == stored, "a second import stores nothing"
    assert command("export", "copy", "--format", form, "-o", str(again)).exit_code == 0
    if form == "parquet":
        assert table_bits(first) == table_bits(again)
    else:
        assert first.read_bytes() == again.read_bytes()
    detail = collector.get("/api/v1/runs/copy").json()
    assert (detail["state"], detail["step"], detail["tags"]) == ("finished", FAR, ["imported"])
    assert detail["completeness"]["complete"] is True


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=9)


@st.composite
def page_lists(draw):
    """Draw the pages of an export: each stream's layouts change, its steps ascend."""
    found = []
    for stream in draw(st.sets(st.sampled_from(Stream), min_size=1, max_size=2)):
        step = 0
        for version in range(draw(st.integers(1, 4))):
            places = draw(st.lists(names, min_size=1, max_size=3, unique=True))
            known = draw(st.lists(st.sampled_from(Stat), min_size=1, max_size=2, unique=True))
            gaps = draw(st.lists(st.sampled_from([1, 2, 2**32]), min_size=1, max_size=4))
            steps = step + np.cumsum(gaps)
            step = int(steps[-1]) + 1
            shape = (len(steps), len(places), len(known))
            size = len(steps) * len(places) * len(known)
            bits = draw(st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size))
            values = np.array(bits, np.uint32).view(np.float32).reshape(shape)
            rows = layout(stream, version, places, tuple(known))
            found.append((rows, Frame(stream, version, steps, 0.1 * steps, values)))
    return found


def by_key(rows_and_frames, form):
    """Return (stream, place, statistic, step) → (time, bits); text has a single NaN."""
    found = {}
    for stream, places, statistics, steps, times, values in rows_and_frames:
        for index in np.ndindex(values.shape):
            i, j, k = index
            value = values[index]
            bits = int(np.float32(value).view(np.uint32))
            word = "nan" if np.isnan(value) and form != "parquet" else bits
            key = (str(stream), places[j], str(statistics[k]), int(steps[i]))
            assert key not in found
            found[key] = (float(times[i]), word)
    return found


@pytest.mark.parametrize("form", FORMATS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(found=page_lists(), block=st.integers(1, 40))
def test_reading_is_the_inverse_of_writing(tmp_path, monkeypatch, form, found, block):
    monkeypatch.setattr(rows_module, "_LINES_AT_ONCE", block)
    path = tmp_path / f"x.{form}"
    with path.open("wb") as file:
        WRITERS[form](found, file)
    read = list(pages(READERS[f".{form}"](path)))
    assert all(page.absent == 0 for page in read)
    got = [(p.stream, p.places, p.statistics, p.steps, p.times, p.values) for p in read]
    wanted = [
        (f.stream, [p.name for p in w.places], w.statistics, f.steps, f.times, f.values)
        for w, f in found
    ]
    assert by_key(got, form) == by_key(wanted, form)


@given(st.integers(0, 2**32 - 1))
def test_the_text_of_a_float32_reads_as_that_float32(bits):
    value = np.array([bits], np.uint32).view(np.float32)[0]
    [got] = float32_of([str(value)])
    assert got.view(np.uint32) == value.view(np.uint32) or (np.isnan(got) and np.isnan(value))


@given(st.integers(1, 2**24 - 1), st.integers(-140, 90), st.integers(-3, 3))
def test_text_next_to_the_middle_of_two_float32_is_not_rounded_twice(digits, exponent, off):
    middle = Fraction(2 * digits + 1, 2) * Fraction(2) ** exponent
    exact = middle + off * middle / 2**60
    scale = 400
    text = f"{exact.numerator * 10**scale // exact.denominator}e-{scale}"
    [got] = float32_of([text])
    given = Fraction(text)
    down, up = np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))
    error = abs(Fraction(float(got)) - given)
    assert all(
        error <= abs(Fraction(float(other)) - given) for other in (down, up) if np.isfinite(other)
    )


def test_an_import_that_was_interrupted_continues(collector, command, tmp_path, monkeypatch):
    send_a_run(collector)
    assert command("export", "r", "-o", "r.csv").exit_code == 0
    monkeypatch.setattr("trainvitals.imports.batches._VALUES", 20)
    real, sent = command, []

    class AwayAfterThree(Link):
        def post(self, *args, **kwargs):
            sent.append(kwargs["seq"])
            done = len(sent) > 3
            return Away("it is switched off") if done else super().post(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("trainvitals.imports.delivery.Link", AwayAfterThree)
        stopped = real("import", "r.csv", "--run", "copy", "--wait", "0")
    assert stopped.exit_code == 3
    assert "of 256 values are stored" in stopped.stderr
    assert "it is switched off" in stopped.stderr
    assert collector.get("/api/v1/runs/copy").json()["state"] == "running"
    assert real("import", "r.csv", "--run", "copy").exit_code == 0
    assert real("export", "copy", "-o", "copy.csv").exit_code == 0
    assert sorted((tmp_path / "copy.csv").read_text()) == sorted((tmp_path / "r.csv").read_text())


def test_another_file_does_not_enter_a_run_that_exists(collector, command, tmp_path):
    send_a_run(collector)
    assert command("export", "r", "-o", "r.csv").exit_code == 0
    before = amounts(collector.store)
    done = command("import", "r.csv", "--project", "p")
    assert (done.exit_code, "exists already" in done.stderr) == (2, True)
    assert amounts(collector.store) == before


def test_a_deleted_run_can_be_imported_again(collector, command):
    send_a_run(collector)
    assert command("export", "r", "-o", "r.csv").exit_code == 0
    for _ in range(2):
        assert command("import", "r.csv", "--run", "copy").exit_code == 0
        collector.store.delete(collector.store.run("copy").pk)
        Removal(collector.store.database).run_once()
    assert command("import", "r.csv", "--run", "copy").exit_code == 0
    assert command("import", "r.csv", "--run", "copy").exit_code == 0
    assert collector.get("/api/v1/runs/copy").json()["attempt"] == 1


HEADER = "stream,place,statistic,step,time,value\n"
ROW = "scalar,loss,value,0,1.5,1.0\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("a,b\n1,2\n", "first line"),
        (HEADER, "no values"),
        (HEADER + ROW + "scalar,loss,value,one,1.5,1.0\n", "Row 2"),
        (HEADER + ROW + "scalar,loss,value,1,1.5\n", "Row 2"),
        (HEADER + ROW + "scalar,loss,value,1,1.5,1e39\n", "range of float32"),
        (HEADER + ROW + "scalar,loss,value,1,inf,1\n", "time is not finite"),
        (HEADER + ROW + "scalar,loss,value,-1,1.5,1\n", "step is not"),
        (HEADER + ROW + "scalar,loss,value,9007199254740992,1.5,1\n", "step is not"),
        (HEADER + "weights,loss,value,0,1.5,1.0\n", "stream 'weights'"),
        (HEADER + "scalar,loss,valeu,0,1.5,1.0\n", "statistic 'valeu'"),
        (HEADER + ROW + ROW, "Row 2: step 0"),
        (HEADER + ROW.replace(",0,", ",5,") + ROW, "Row 2: step 0"),
        (HEADER + ROW + "scalar,lr,value,0,2.5,1.0\n", "another time"),
    ],
)
def test_a_bad_file_is_refused_with_its_row_and_nothing_is_stored(
    sqlite_collector, tmp_path, monkeypatch, text, said
):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", sqlite_collector.token)
    path = tmp_path / "bad.csv"
    path.write_text(text)
    words = ["import", str(path), "--collector", sqlite_collector.url]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, said in done.stderr, "Nothing is imported" in done.stderr) == (
        2,
        True,
        True,
    ), done.output
    assert amounts(sqlite_collector.store).runs == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'{"stream": "scalar"}\n'),
        ("x.jsonl", b"[1]\n"),
        ("x.jsonl", b"\xff\xfe\n"),
        ("x.jsonl", b'{"stream": 1, "place": [], "statistic": 3, "step": 0, "time": 0, "value":1}'),
        ("x.csv", HEADER.encode() + b"\xff\xfe\n"),
        ("x.parquet", b"no parquet"),
        ("x.txt", b""),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    path = tmp_path / name
    path.write_bytes(content)
    done = CliRunner().invoke(app, ["import", str(path), "--collector", "http://127.0.0.1:1"])
    assert (done.exit_code, "Nothing is imported" in done.stderr) == (2, True), done.output


def test_a_parquet_file_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    columns = ("stream", "place", "statistic", "step", "time", "value")
    pq.write_table(pa.table({name: ["1"] for name in columns}), path)
    with pytest.raises(BadFile, match="not int64, double and float"):
        list(READERS[".parquet"](path))


def test_rows_that_a_file_lacks_count_as_not_measured(sqlite_collector, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", sqlite_collector.token)
    path = tmp_path / "some.csv"
    rows = ["a,mean,0,1.5,1.0", "a,std,0,1.5,2.0", "b,std,0,1.5,3.0"]
    path.write_text(HEADER + "".join(f"weight,{row}\n" for row in rows))
    done = CliRunner().invoke(app, ["import", str(path), "--collector", sqlite_collector.url])
    assert done.exit_code == 0, done.output
    assert "1 cells of the table of steps are empty" in done.output
    _, found = sqlite_collector.store.frames(sqlite_collector.store.run("some").pk, Stream.WEIGHT)
    np.testing.assert_array_equal(found.values[0], [[1.0, 2.0], [np.nan, 3.0]])


def test_a_file_of_many_batches_keeps_every_bit(sqlite_collector, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", sqlite_collector.token)
    steps = np.arange(30_000)
    bits = np.random.default_rng(1).integers(0, 2**32, size=(30_000, 2, 2), dtype=np.uint32)
    values = bits.view(np.float32)
    rows = layout(Stream.WEIGHT, 0, ("a", "b"), (Stat.MEAN, Stat.L2))
    path = tmp_path / "long.parquet"
    with path.open("wb") as file:
        WRITERS["parquet"]([(rows, Frame(Stream.WEIGHT, 0, steps, 0.5 * steps, values))], file)
    done = CliRunner().invoke(app, ["import", str(path), "--collector", sqlite_collector.url])
    assert done.exit_code == 0, done.output
    assert amounts(sqlite_collector.store).batches >= 3
    _, found = sqlite_collector.store.frames(sqlite_collector.store.run("long").pk, Stream.WEIGHT)
    np.testing.assert_array_equal(found.values.view(np.uint32), bits)
    np.testing.assert_array_equal(found.times, 0.5 * steps)


def test_a_token_that_may_only_read_imports_nothing(sqlite_collector, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    reader = sqlite_collector.app.state.tokens.create(Scope.READ)
    monkeypatch.setenv("TRAINVITALS_TOKEN", reader)
    path = tmp_path / "some.csv"
    path.write_text(HEADER + ROW)
    done = CliRunner().invoke(app, ["import", str(path), "--collector", sqlite_collector.url])
    assert (done.exit_code, "scope ingest" in done.stderr) == (1, True), done.output
    assert amounts(sqlite_collector.store).runs == 0


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "x.parquet"
    path.write_bytes(b"")
    done = CliRunner().invoke(app, ["import", str(path)])
    assert (done.exit_code, "pip install pyarrow" in done.stderr) == (2, True)


def test_jsonl_keeps_the_digits_of_a_number(tmp_path):
    path = tmp_path / "x.jsonl"
    fields = {"stream": "scalar", "place": "loss", "statistic": "value", "step": 1, "time": 2.5}
    path.write_text(json.dumps({**fields, "value": -0.0}) + "\n")
    [page] = pages(READERS[".jsonl"](path))
    assert page.values.view(np.uint32).tolist() == [[[1 << 31]]]
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*fields, "value"], [*fields.values(), "1e-45"]])
    [page] = pages(READERS[".csv"](tmp_path / "x.csv"))
    assert page.values.view(np.uint32).tolist() == [[[1]]]
