"""A training that resumes from a complete checkpoint records what the uninterrupted one records."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import trainvitals
from helpers.collector import running_collector
from trainvitals.cli.app import app
from trainvitals.wire import STATISTICS, Scalar, Stat, Stream

STEPS, STOP = 36, 17  # inside the second epoch
ROWS, BATCH = 96, 8
SINCE_START = {Stat.DRIFT_RMS, Stat.DRIFT_MEAN, Stat.DISTINCT_ROWS, Stat.DEAD_SHARE}
"""Statistics that begin anew in each process: relative to its first step, or over its last 20."""
EVERY_STEP = (
    Scalar.LOSS,
    Scalar.GRADIENT_NORM,
    Scalar.NONFINITE_GRADIENTS,
    f"{Scalar.LEARNING_RATE}/0",
    f"{Scalar.WEIGHT_DECAY}/0",
)
TIMES = {Scalar.STEP_TIME_S, Scalar.CAPTURE_TIME_S, Scalar.OVERHEAD}
PARTS = ("model", "optimizer", "schedule")
FORGOTTEN = {
    # The first value in the order of a step that the part changes.
    "model": ("weight", "0.weight", STOP),
    "optimizer": ("update", "0.weight", STOP),
    "random": ("activation", "4", STOP),  # the layer after the dropout
    "position": ("activation", "0", STOP),
    # The optimizer's state has the learning rate of the next step; the schedule sets the others.
    "schedule": ("update", "0.weight", STOP + 1),
}


class Training:
    """A training with dropout, a schedule and shuffled data, which can be saved and resumed."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))
        self.step = self.position = 0

    def run(self, name, until, **watch):
        """Train up to the step `until`, and return the history of this process."""
        monitor = trainvitals.watch(
            self.model, self.optimizer, run=name, start_step=self.step, every=1, **watch
        )
        with monitor:
            while self.step < until:
                x = self.x[self._rows()]
                self.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.model(x), (x[:, 0] > 0).long())
                monitor.loss(loss).backward()
                self.optimizer.step()
                self.schedule.step()
                self.step += 1
                self.position += 1
        return monitor._diagnosis.history

    def _rows(self):
        epoch, at = divmod(self.position, ROWS // BATCH)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
        return order[at * BATCH : (at + 1) * BATCH]

    def save(self, path):
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        parts |= {"step": self.step, "position": self.position, "random": torch.get_rng_state()}
        torch.save(parts, path)

    @classmethod
    def resumed(cls, path, forget=""):
        """Return the training of a checkpoint; the part `forget` stays as at the start."""
        training = cls()
        saved = torch.load(path)
        for name in set(PARTS) - {forget}:
            getattr(training, name).load_state_dict(saved[name])
        training.step = saved["step"]
        if forget != "position":
            training.position = saved["position"]
        if forget != "random":
            torch.set_rng_state(saved["random"])
        return training


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Return a function that compares runs, and the histories: straight, resumed."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("TRAINVITALS_HOME", str(home / "own"))
        patch.setenv("TRAINVITALS_REPORT", "off")
        with running_collector(home) as collector:
            patch.setenv("TRAINVITALS_TOKEN", collector.token)
            patch.setenv("TRAINVITALS_COLLECTOR", collector.url)
            found = {"straight": Training().run("straight", STEPS)}
            for name in ("resumed", *FORGOTTEN):
                first = Training()
                first.run(name, STOP)
                first.save(home / name)
                found[name] = Training.resumed(home / name, forget=name).run(name, STEPS)

            def compared(a, b):
                result = CliRunner().invoke(app, ["compare", a, b, "--json"])
                return result.exit_code, json.loads(result.output)

            yield compared, found


STREAMS = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE, Stream.ACTIVATION)
COLUMNS = [(x, s) for x in STREAMS for s in STATISTICS[x] if s not in SINCE_START]


@pytest.mark.parametrize(("stream", "statistic"), COLUMNS)
def test_each_statistic_of_each_tensor_is_equal_at_each_later_step(histories, stream, statistic):
    _, found = histories
    straight, resumed = found["straight"], found["resumed"]
    assert straight.places(stream) == resumed.places(stream)
    steps = straight.steps(stream)
    assert steps.tolist() == list(range(STEPS))
    assert resumed.steps(stream).tolist() == list(range(STOP, STEPS))
    values = straight.values(stream, statistic)[STOP:]
    assert np.array_equal(values, resumed.values(stream, statistic), equal_nan=True)


@pytest.mark.parametrize("name", EVERY_STEP)
def test_each_scalar_is_equal_at_each_later_step(histories, name):
    _, found = histories
    straight, resumed = (found[run].scalar(name) for run in ("straight", "resumed"))
    assert resumed.steps.tolist() == list(range(STOP, STEPS))
    assert resumed.values.tolist() == straight.since(STOP).values.tolist()


def test_the_other_scalars_are_equal_where_both_are_recorded(histories):
    _, found = histories
    straight, resumed = found["straight"], found["resumed"]
    # The input is compared with that of the step that was measured before, which can be another.
    names = sorted(set(straight.scalar_names()) - TIMES - {*EVERY_STEP, "input_repeated"})
    assert names
    common = 0
    for name in names:
        a, b = (
            dict(zip(s.steps, s.values, strict=True))
            for s in (straight.scalar(name), resumed.scalar(name))
        )
        for step in set(a) & set(b):
            common += 1
            assert np.array_equal(a[step], b[step], equal_nan=True), (name, step)
    assert common


def test_compare_finds_no_difference_in_the_whole_run(histories):
    compared, _ = histories
    exit_code, found = compared("straight", "resumed")
    assert (exit_code, found["steps"]) == (0, [STEPS, STEPS])


@pytest.mark.parametrize("part", FORGOTTEN)
def test_compare_names_the_first_step_and_layer_after_an_incomplete_checkpoint(histories, part):
    compared, _ = histories
    exit_code, found = compared("straight", part)
    layer = found["layer"]
    assert exit_code == 1
    assert (layer["stream"], layer["place"], layer["step"]) == FORGOTTEN[part]


def test_compare_names_the_learning_rate_after_a_forgotten_schedule(histories):
    compared, _ = histories
    _, found = compared("straight", "schedule")
    assert {"learning_rate/0": STOP + 1}.items() <= {
        d["place"]: d["step"] for d in found["scalars"]
    }.items()
