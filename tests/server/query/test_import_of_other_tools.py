"""`trainvitals import` reads TensorBoard's scalars and W&B's history, and counts what it leaves."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trainvitals.cli.app import app
from trainvitals.imports.rows import BadFile
from trainvitals.imports.scalars import Scalars
from trainvitals.imports.tensorboard import incomplete_bytes
from trainvitals.imports.wandb import scalars_of
from trainvitals.wire import Stream


@pytest.fixture
def command(sqlite_collector, tmp_path, monkeypatch):
    """Return a function that imports files and returns the result and the stored scalars."""
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", sqlite_collector.token)

    def run(*words):
        options = ("--run", "r", "--collector", sqlite_collector.url)
        done = CliRunner().invoke(app, ["import", *map(str, words), *options])
        stored = sqlite_collector.store.run("r")
        found = stored and sqlite_collector.store.frames(stored.pk, Stream.SCALAR)
        if not found:
            return done, {}
        layout, frame = found
        columns = {
            place.name: dict(zip(frame.steps.tolist(), frame.values[:, i, 0].tolist(), strict=True))
            for i, place in enumerate(layout.places)
        }
        return done, columns

    return run


def write_events(folder, values, **more):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(folder, **more) as writer:
        for tag, step, value in values:
            writer.add_scalar(tag, value, step, walltime=1000.0 + step)
        writer.add_histogram("h", np.arange(9), 0)
        writer.add_text("t", "x", 0)
    [path] = folder.glob("*tfevents*")
    return path


def test_scalars_of_event_files_are_stored_and_the_rest_is_counted(command, tmp_path):
    far = 2**31 + 5
    first = write_events(tmp_path / "a", [("train/loss", 0, 2.0), ("train/loss", 9, 1.0)])
    more = [("train/loss", 9, 0.5), ("lr", far, 1e-45), ("lr", 9, float("inf"))]
    second = write_events(tmp_path / "b", more)
    done, columns = command(first, second, "--loss", "train/loss")
    assert done.exit_code == 0, done.output
    assert columns["loss"] == pytest.approx({0: 2.0, 9: 0.5, far: np.nan}, nan_ok=True)
    lr = columns["log/lr"]
    assert (lr[9], lr[far], np.isnan(lr[0])) == (np.inf, np.float32(1e-45), True)
    assert "1 values that a later one of the same step replaces" in done.output
    assert "2 summaries of the kind histograms" in done.output
    assert "2 summaries of the kind text" in done.output
    again, same = command(first, second, "--loss", "train/loss")
    assert (again.exit_code, str(same)) == (0, str(columns))


def test_event_files_that_are_cut_or_none_are_named(command, tmp_path):
    path = write_events(tmp_path / "a", [("x", i, float(i)) for i in range(20)])
    assert incomplete_bytes(path) == 0
    path.write_bytes(path.read_bytes()[:-9])
    done, columns = command(path)
    assert done.exit_code == 0, done.output
    assert columns["log/x"] == {i: float(i) for i in range(20)}
    assert "bytes at the end of a file" in done.output
    garbage = tmp_path / "events.out.tfevents.1"
    garbage.write_bytes(b"no events at all, but long enough for a header")
    done, _ = command(garbage)
    assert (done.exit_code, "no event that TensorBoard can read" in done.stderr) == (2, True)


PROGRAM = """
import sys, wandb
run = wandb.init(project="p", dir=sys.argv[1], config={"lr": 0.1}, mode="offline")
for i in range(3000):
    run.log({"loss": 1 / (i + 1), "acc": i, "text": "x", "nested": {"z": 0.5}})
run.log({"loss": float("nan"), "huge": 1e300, "inf": float("-inf")}, step=5000)
run.finish()
"""


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb")
    places = {f"WANDB_{name}_DIR": str(folder) for name in ("DATA", "CACHE", "CONFIG")}
    environment = {**os.environ, **places, "WANDB_SILENT": "true"}
    words = [sys.executable, "-c", PROGRAM, str(folder)]
    subprocess.run(words, env=environment, check=True, timeout=120)
    [path] = folder.rglob("run-*.wandb")
    return path


def test_the_history_of_an_offline_run_is_stored_with_its_configuration(
    command, offline_run, sqlite_collector
):
    done, columns = command(offline_run, "--loss", "loss")
    assert done.exit_code == 0, done.output
    assert set(columns) == {"loss", "log/acc", "log/nested.z", "log/inf"}
    steps = range(3000)
    assert [columns["loss"][i] for i in steps] == [np.float32(1 / (i + 1)) for i in steps]
    assert [columns["log/acc"][i] for i in steps] == list(steps)
    assert columns["log/inf"][5000] == -np.inf
    assert "3,000 values that are not numbers" in done.output
    assert "1 values outside the range of float32" in done.output
    assert sqlite_collector.get("/api/v1/runs/r").json()["config"]["lr"] == 0.1


def test_a_damaged_run_keeps_what_is_before_the_damage(command, offline_run, tmp_path):
    content = bytearray(offline_run.read_bytes())
    content[len(content) // 2] ^= 255
    path = tmp_path / "run-x.wandb"
    path.write_bytes(content)
    done, columns = command(path)
    assert done.exit_code == 0, done.output
    assert 100 < len(columns["log/loss"]) < 2900
    assert "not complete or damaged" in done.output
    path.write_bytes(b"no run")
    with pytest.raises(BadFile):
        scalars_of(path, "")


@pytest.mark.parametrize(
    ("name", "package"),
    [("events.out.tfevents.1.host", "tensorboard"), ("run-x.wandb", "wandb")],
)
def test_without_its_package_a_file_is_refused_with_what_to_install(
    command, tmp_path, monkeypatch, name, package
):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [m for m in sys.modules if m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / name).write_bytes(b"")
    done, columns = command(tmp_path / name)
    assert (done.exit_code, f"pip install {package}" in done.stderr, columns) == (2, True, {})


numbers = st.floats(width=32) | st.floats(allow_nan=False, min_value=4e38)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 9000), numbers), max_size=60))
def test_no_number_is_lost_without_being_counted(given_):
    scalars = Scalars()
    for tag, step, value in given_:
        scalars.add(tag, step, 1.0, value)
    pages = list(scalars.pages())
    stored = sum(page.values.size - page.absent for page in pages)
    assert stored + sum(scalars.left_out.values()) == len(given_)
    steps = [step for page in pages for step in page.steps.tolist()]
    assert steps == sorted(set(steps))
