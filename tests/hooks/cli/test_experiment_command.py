"""`trainvitals experiment` calls a factory, trains, and prints the comparison."""

import json
import textwrap

import pytest
from typer.testing import CliRunner

from trainvitals.cli.app import app

PROGRAM = """
import torch
from torch import nn

x = torch.randn(120, 8)
y = (x @ torch.randn(8, 3)).argmax(1)

def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

def pair():
    return network, (x, y)

def choices():
    return network, (x, y), {"he": "he_normal", "zeros": "zeros"}

def arguments():
    return {"factory": network, "data": (x, y), "vary": "loss", "steps": 5, "seeds": [1, 2, 3]}

def misnamed():
    return {"model": network, "data": (x, y)}

def alone():
    return network

def misfit():
    return network, (x[:, :3], y)
"""
SHORT = ("--steps", "5", "--seeds", "2", "--no-robustness")


@pytest.fixture
def run(tmp_path):
    """Return the result of `trainvitals experiment` with a function of the file above."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))

    def run(function, *options):
        return CliRunner().invoke(app, ["experiment", f"{file}:{function}", *options])

    return run


def test_it_prints_the_table_and_the_reason(run):
    result = run("choices", *SHORT)
    assert result.exit_code == 0, result.output
    assert "accuracy, 5 steps, 2 seeds" in result.output
    assert "zeros" in result.output
    assert "TV301 symmetric_init" in result.output


def test_the_options_replace_what_the_function_returns(run):
    assert "3 seeds" in run("arguments", "--no-robustness").output
    shown = run("arguments", *SHORT, "--vary", "initialisation").output
    assert "2 seeds" in shown
    assert "he_normal" in shown


def test_json_has_the_rows_and_the_verdict(run):
    answer = json.loads(run("choices", *SHORT, "--json").output)
    assert [row["choice"] for row in answer["rows"]] == ["he", "zeros"]
    assert answer["metric"] == "accuracy"
    assert {"best", "tied", "reason", "seeds"} <= answer.keys()


def test_html_and_resume_write_files(run, tmp_path):
    page, log = tmp_path / "page.html", tmp_path / "runs.jsonl"
    run("choices", *SHORT, "--html", str(page), "--resume", str(log))
    assert page.read_text().startswith("<!doctype html>")
    assert len(log.read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("misnamed", (), "unknown names: model"),
        ("alone", (), "returned a function without them"),
        ("misfit", (), "The model cannot run on the data"),
        ("pair", ("--vary", "optimiser"), "expected 'initialisation'"),
        ("pair", ("--html", "/no/such/folder/page.html"), "there is no folder"),
        ("nothing", (), "has no function nothing"),
    ],
)
def test_wrong_usage_gives_2_and_says_why(run, function, options, message):
    result = run(function, *SHORT, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_result_that_cannot_be_sent_says_what_is_missing(run, monkeypatch):
    monkeypatch.delenv("TRAINVITALS_COLLECTOR", raising=False)
    result = run("choices", *SHORT, "--send", "mine")
    assert result.exit_code == 2
    assert "There is no collector" in result.output
