"""`trainvitals compare A B` names the first step and the first layer at which two runs differ."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import trainvitals
from helpers.collector import running_collector
from trainvitals.cli.app import app
from trainvitals.comparison import TOLERANCE, flat, is_close


def sgd(parameters, rate=0.1):
    return torch.optim.SGD(parameters, rate)


def adamw(parameters):
    weights = list(parameters)
    return torch.optim.AdamW(
        [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.2}], 0.1, betas=(0.8, 0.99)
    )


def train(
    name, collector, *, steps=60, nudge_at=None, config=None, make=sgd, schedule=False, **more
):
    """Train a small network; before the step `nudge_at`, one weight of its second layer moves."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
    model = nn.Sequential(OrderedDict(zip(more.get("names", "012"), layers, strict=True)))
    optimizer = make(model.parameters())
    watch = {"run": name, "collector": collector, "every": 1, "config": config}
    with trainvitals.watch(model, None if schedule else optimizer, **watch) as monitor:
        if schedule:  # of an optimizer that `watch` finds at its first step
            warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 100)
        for step in range(steps):
            if step == nudge_at:
                with torch.no_grad():
                    model[2].weight[0, 0] += 0.5
            x = torch.randn(16, 6)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            monitor.loss(loss).backward()
            if "validation" in more:
                monitor.loss(more["validation"], split="validation")
            optimizer.step()
            if schedule:
                warm_up.step()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return a function that compares two runs of a collector by the command."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("TRAINVITALS_HOME", str(home / "own"))
        patch.setenv("TRAINVITALS_REPORT", "off")
        with running_collector(home) as collector:
            patch.setenv("TRAINVITALS_TOKEN", collector.token)
            patch.setenv("TRAINVITALS_COLLECTOR", collector.url)
            train("base", collector.url, config={"lr": 0.1, "data": {"seed": 1}})
            train("again", collector.url, config={"lr": 0.1, "data": {"seed": 1}})
            train("nudged", collector.url, nudge_at=37, config={"lr": 0.1, "data": {"seed": 2}})
            train("short", collector.url, steps=20)
            config = {"lr": 0.2, "data": {"seed": 1}}
            train("faster", collector.url, make=lambda p: sgd(p, 0.2), config=config)
            train("adamw", collector.url, make=adamw)
            train("warmed", collector.url, schedule=True)
            train("renamed", collector.url, names="abc")
            train("validated", collector.url, validation=1.0)
            train("validated otherwise", collector.url, validation=1.1)
            train("without a step", collector.url, steps=0)
            train("without a step, too", collector.url, steps=0)

            def run(*args):
                return CliRunner().invoke(app, ["compare", *args])

            yield run


def test_the_same_training_twice_has_no_difference(compared):
    result = compared("base", "again")
    assert result.exit_code == 0, result.output
    assert "The recorded values of both runs do not differ." in result.output


def test_a_changed_weight_is_named_with_its_layer_and_step(compared):
    result = compared("base", "nudged", "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["layer"]["step"] == 37
    assert (found["layer"]["stream"], found["layer"]["place"]) == ("weight", "2.weight")
    assert {d["place"]: d["step"] for d in found["scalars"]} == {"loss": 37, "gradient_norm": 37}
    assert found["config"] == {"data.seed": [1, 2]}


def test_the_table_shows_both_values(compared):
    shown = compared("base", "faster").output
    assert "config lr" in shown
    assert "learning_rate/0, first at step 0" in shown
    [rates] = [line.split()[-2:] for line in shown.splitlines() if "learning_rate/0" in line]
    assert rates == ["0.1", "0.2"]  # not 0.100000001


def test_another_learning_rate_shows_in_the_first_update(compared):
    found = json.loads(compared("base", "faster", "--json").output)
    assert (found["layer"]["stream"], found["layer"]["step"]) == ("update", 0)


def test_other_optimizers_differ_by_class_and_hyperparameters_without_a_config(compared):
    found = json.loads(compared("short", "adamw", "--json").output)["optimizer"]
    assert found["optimizer class"] == ["SGD", "AdamW"]
    assert found["optimizer groups"] == [1, 2]
    assert found["optimizer momentum"] == [0.0, None]
    assert found["optimizer betas"] == [None, "0.8, 0.99"]
    assert found["optimizer weight_decay"] == [0.0, 0.01]
    assert found["optimizer lr of group 1 at the first step"] == [None, 0.2]
    assert "optimizer lr at the first step" not in found  # 0.1 in both
    assert "optimizer betas of group 1" not in found  # those of group 0
    [shown] = [s for s in compared("short", "adamw").output.splitlines() if " class" in s]
    assert shown.split() == ["optimizer", "class", "SGD", "AdamW"]


def test_a_rate_that_a_schedule_changes_is_the_one_of_the_first_step(compared):
    found = json.loads(compared("base", "warmed", "--json").output)["optimizer"]
    assert found["optimizer lr at the first step"] == [0.1, 0.001]
    assert found["optimizer initial_lr"] == [None, 0.1]
    assert len(found) == 2


def test_equal_optimizers_do_not_differ(compared):
    assert json.loads(compared("base", "nudged", "--json").output)["optimizer"] == {}


def test_weights_with_other_names_are_not_called_the_same(compared):
    result = compared("base", "renamed", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["weights"][1] == ["a.weight", "a.bias", "c.weight", "c.bias"]
    assert (found["scalars"], found["layer"]) == ([], None)
    shown = compared("base", "renamed")
    assert "weights of one run only" in shown.output
    assert "do not differ" not in shown.output


def test_another_validation_loss_differs(compared):
    found = json.loads(compared("validated", "validated otherwise", "--json").stdout)
    assert [(d["place"], d["step"]) for d in found["scalars"]] == [("loss/validation", 0)]
    assert compared("validated", "base").exit_code == 0  # base has none


def test_runs_without_a_step_are_not_called_the_same(compared):
    result = compared("without a step", "without a step, too")
    assert result.exit_code == 1
    assert "Neither run recorded a step." in result.output


def test_a_shorter_run_differs_by_its_steps_alone(compared):
    found = json.loads(compared("base", "short", "--json").output)
    assert (found["steps"], found.get("layer")) == ([60, 20], None)
    assert found["scalars"] == []


def test_an_unknown_run_gives_2(compared):
    result = compared("base", "nobody")
    assert result.exit_code == 2
    assert "No run has the id or name 'nobody'" in result.output


def test_values_are_the_same_within_the_rounding_of_float32():
    assert is_close(1.0, 1.0 + TOLERANCE / 2)
    assert not is_close(1.0, 1.0 + 2 * TOLERANCE)
    assert is_close(None, 3.0)
    assert is_close(float("nan"), float("nan"))
    assert not is_close(float("nan"), 1.0)
    assert is_close(float("inf"), float("inf"))


def test_a_nested_configuration_is_compared_by_its_leaves():
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": 2}) == {"a.b.c": 1, "a.d": {}, "e": 2}
