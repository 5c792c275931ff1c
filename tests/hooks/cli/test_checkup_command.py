"""`trainvitals checkup` calls a factory and turns the verdict into a card and an exit code."""

import json
import textwrap

import pytest
from typer.testing import CliRunner

from trainvitals.cli.app import app

FACTORIES = """
import torch
from torch import nn

def stack(depth):
    hidden = [m for _ in range(depth) for m in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *hidden, nn.Linear(32, 3))

batch = torch.randn(64, 8), torch.randint(0, 3, (64,))

def good():
    torch.manual_seed(0)
    return stack(1), batch, nn.CrossEntropyLoss()

def deep():
    torch.manual_seed(0)
    return {"model": stack(20), "batch": batch, "loss": nn.CrossEntropyLoss()}

def without_loss():
    return stack(1), batch[0]

def no_model():
    return 3

def misnamed():
    return {"net": stack(1), "batch": batch}

def raises():
    raise RuntimeError("no data here")

def misfit():
    return stack(1), torch.zeros(4, 5)
"""


@pytest.fixture
def run(tmp_path):
    """Return the result of `trainvitals checkup` with a factory of the file above."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(FACTORIES))

    def run(factory, *options):
        return CliRunner().invoke(app, ["checkup", f"{file}:{factory}", *options])

    return run


def test_a_model_that_is_ready_gives_0(run):
    result = run("good")
    assert result.exit_code == 0, result.output
    assert "ready to train" in result.output
    assert "torch_default" in result.output


def test_a_fault_gives_1_and_is_explained(run):
    result = run("deep")
    assert result.exit_code == 1
    assert "TV303 init_scale_too_small" in result.output
    assert "kaiming_normal_" in result.output
    assert "gradient RMS" in result.output
    assert run("deep", "--fail-on", "error", "--quiet").output == ""


def test_json_contains_the_measurements(run):
    answer = json.loads(run("good", "--json").output)
    assert answer["verdict"] == "healthy"
    assert answer["checkup"]["initialisers"]["0.weight"]["name"] == "torch_default"
    assert [row["layer"] for row in answer["checkup"]["propagation"]] == ["0", "1", "2", "3", "4"]


def test_html_writes_a_page_with_the_measurements(run, tmp_path):
    result = run("deep", "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 1
    page = (tmp_path / "page.html").read_text()
    assert "Signal over depth" in page
    assert "<td>0.weight</td><td>torch_default" in page


def test_without_a_loss_it_is_blind_and_gives_5(run):
    result = run("without_loss")
    assert result.exit_code == 5
    assert "no loss" in result.output


def test_the_attempt_to_fit_one_batch_is_an_option(run):
    assert "the loss on one batch went from" in run("good", "--overfit", "20").output


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_model", "returned a int without them"),
        ("misnamed", "unknown names: net"),
        ("raises", "failed: RuntimeError: no data here"),
        ("misfit", "cannot run on this batch ((4, 5) float32)"),
        ("missing", "has no function missing"),
    ],
)
def test_wrong_usage_gives_2_and_a_message(run, factory, message):
    result = run(factory)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("program", "is not MODULE:FACTORY"),
        ("no_such_module:build", "cannot be imported: ModuleNotFoundError"),
        ("missing.py:build", "there is no file missing.py"),
    ],
)
def test_a_factory_that_cannot_be_found_gives_2(given, message):
    result = CliRunner().invoke(app, ["checkup", given])
    assert result.exit_code == 2
    assert message in result.output
