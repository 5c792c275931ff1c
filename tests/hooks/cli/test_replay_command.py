"""`trainvitals replay` shows the samples of a recorded step, or says why it cannot."""

import json
import textwrap

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import trainvitals
from helpers.noisy_samples import noisy_samples
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.cli.app import app

PROGRAM = """
import torch
from torch import nn
from helpers.noisy_samples import noisy_samples

def build():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, nn.CrossEntropyLoss(), noisy_samples(bad=17)

def named():
    return dict(zip(("model", "optimizer", "loss", "data"), build()))

def by_function():
    model, optimizer, loss, data = build()
    return model, optimizer, loss, lambda indices: torch.utils.data.default_collate(
        [data[i] for i in indices]
    )

def other_model():
    return nn.Linear(8, 3), None, nn.CrossEntropyLoss(), noisy_samples()

def too_few():
    return build()[:2]

def no_data():
    return (*build()[:3], 7)
"""


def recording(folder, *, observed=True, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = trainvitals.watch(model, optimizer, collector="off", record=folder, **options)
    loader = DataLoader(noisy_samples(bad=17), 8, shuffle=True)
    for _ in range(2):
        for x, y in monitor.batches(loader) if observed else loader:
            loss = nn.functional.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            monitor.loss(loss).mean().backward()
            optimizer.step()
    monitor.close()
    return monitor.recordings[0]


@pytest.fixture
def run(tmp_path):
    """Return the result of `trainvitals replay` with a file and a factory of the program."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))

    def run(file, factory, *options):
        return CliRunner().invoke(app, ["replay", str(file), f"{program}:{factory}", *options])

    return run


@pytest.mark.parametrize("factory", ["build", "named", "by_function"])
def test_it_names_the_bad_sample_and_says_that_the_loss_is_the_recorded_one(run, tmp_path, factory):
    result = run(recording(tmp_path / "a", record_state=True), factory)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "The recorded loss was reproduced." in lines
    first = lines[next(i for i, line in enumerate(lines) if "worst by" in line) + 1].split()
    assert first[0] == "17"
    assert "not finite in input" in result.output


def test_without_the_state_the_weights_are_those_of_the_factory(run, tmp_path):
    result = run(recording(tmp_path / "a"), "build", "--json")
    found = json.loads(result.output)
    assert found["weights"] == "the factory"
    assert found["is_reproduced"] is False
    assert found["samples"][0]["index"] == 17
    assert found["samples"][0]["loss"] is None
    shown = run(recording(tmp_path / "b"), "build").output
    assert "The recorded losses of the samples that are finite were not reproduced." in shown


def test_the_samples_shown_are_limited(run, tmp_path):
    result = run(recording(tmp_path / "a"), "build", "--top", "2")
    lines = result.output.splitlines()
    assert len(lines) - next(i for i, line in enumerate(lines) if "worst by" in line) == 3


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("build", ["--step", "9999"], "Step 9999 is not in this file"),
        ("other_model", [], "recorded state cannot be loaded"),
        ("too_few", [], "must return (model, optimizer, loss, data)"),
        ("no_data", [], "must be a dataset, a DataLoader, or a function"),
        ("absent", [], "no function absent"),
    ],
)
def test_what_cannot_be_replayed_is_wrong_usage(run, tmp_path, factory, options, message):
    result = run(recording(tmp_path / "a", record_state=True), factory, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_step_without_indices_says_what_was_missing(run, tmp_path):
    result = run(recording(tmp_path / "a", observed=False), "build")
    assert result.exit_code == 2
    assert "monitor.batches(loader) was not called" in " ".join(result.output.split())


def test_a_file_that_is_no_bundle_is_refused(run, tmp_path):
    (tmp_path / "other.zip").write_text("no archive")
    result = run(tmp_path / "other.zip", "build")
    assert result.exit_code == 2
    assert "is not a bundle of the flight recorder" in result.output
