"""Each command that has `--json` prints one JSON value on stdout, about a real run."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

import trainvitals
from architecture.test_json_options import commands
from helpers.collector import running_collector
from trainvitals.cli.app import app

pytestmark = pytest.mark.timeout(240)

FACTORIES = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=draw)
    x[5] = float("nan")
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())


def checked():
    return network(), (torch.randn(32, 4), torch.randint(0, 2, (32,))), nn.CrossEntropyLoss()


def replayed():
    return network(), None, nn.CrossEntropyLoss(), data()


def compared():
    return network, (torch.randn(64, 4), torch.randint(0, 2, (64,)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("json")


@pytest.fixture(scope="module")
def given(folder):
    """Return the arguments of each command, for two runs of a collector that is running."""
    file = folder / "program.py"
    file.write_text(FACTORIES)
    with pytest.MonkeyPatch.context() as patch, running_collector(folder) as collector:
        patch.setenv("TRAINVITALS_HOME", str(folder))
        patch.setenv("TRAINVITALS_COLLECTOR", collector.url)
        patch.setenv("TRAINVITALS_TOKEN", collector.token)
        patch.setenv("TRAINVITALS_REPORT", "off")
        channel = {"webhook": "http://127.0.0.1:9/", "key": "k" * 32}
        patch.setenv("TRAINVITALS_NOTIFICATIONS", json.dumps({"channels": {"nobody": channel}}))
        recording = trained(file, "one", folder / "recordings")
        trained(file, "two", folder / "others")
        yield {
            "runs": [],
            "top": ["--once"],
            "compare": ["one", "two"],
            "report": ["one"],
            "check": ["one"],
            "checkup": [f"{file}:checked"],
            "replay": [str(recording), f"{file}:replayed"],
            "experiment": [f"{file}:compared", "--steps", "5", "--seeds", "2"],
            "rules": ["TV101"],
            "silence list": [],
            "notify test": [],
            "token list": [],
            "sync": [],
            "config show": [],
            "doctor": [],
            "version": [],
        }


def trained(file, name, folder):
    """Train a run with a NaN in one row, and return its recording."""
    spec = importlib.util.spec_from_file_location("program", file)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    model = program.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, run=name, record=folder, every=1)
    for x, y in monitor.batches(torch.utils.data.DataLoader(program.data(), batch_size=16)):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        monitor.loss(loss).backward()
        optimizer.step()
    monitor.close()
    [recording] = monitor.recordings
    return recording


WITH_JSON = sorted(
    name
    for name, node in commands(get_command(app))
    if any("--json" in parameter.opts for parameter in node.params)
)


@pytest.mark.parametrize("name", WITH_JSON)
def test_it_prints_one_json_value(given, name):
    done = CliRunner().invoke(app, [*name.split(), *given[name], "--json"])
    assert done.exit_code in (0, 1), done.output
    # Python writes and reads NaN and Infinity, which are no JSON: other parsers refuse them.
    assert isinstance(json.loads(done.stdout, parse_constant=pytest.fail), dict | list)


def test_each_command_has_arguments(given):
    assert set(given) == set(WITH_JSON)
