"""`monitor.log` records numbers by name, and no argument of it reaches the training."""

from __future__ import annotations

import collections
import enum
from types import MappingProxyType

import numpy as np
import pytest
import torch

import trainvitals
from helpers.watching import network, own_home, train  # noqa: F401 - own_home is a fixture

pytestmark = pytest.mark.usefixtures("own_home")


class Name(enum.StrEnum):
    KL = "kl"


class Unreadable:
    def __str__(self):
        raise RuntimeError("no name")


def logged(*calls, **named):
    """Return the names and values that a step records, and the reasons for what it does not."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off", every=1)
    for scalars in calls or (None,):
        monitor.log(scalars, **named)
    train(model, optimizer, monitor, steps=1)
    monitor.close()
    history = monitor._diagnosis.history
    found = {n.removeprefix("log/"): n for n in history.scalar_names() if n.startswith("log/")}
    values = {name: history.scalar(full).values[0] for name, full in found.items()}
    return values, monitor.diagnosis().not_watched


def recorded(*calls, **named):
    return pytest.approx(logged(*calls, **named)[0])


def test_a_mapping_and_keywords_are_recorded_by_name():
    assert recorded({"reward": 0.5}, kl=0.25) == {"reward": 0.5, "kl": 0.25}


@pytest.mark.parametrize("kind", [MappingProxyType, collections.ChainMap, collections.OrderedDict])
def test_any_kind_of_mapping_is_read(kind):
    assert recorded(kind({"reward": 0.5})) == {"reward": 0.5}


def test_a_keyword_counts_before_an_entry_of_the_mapping():
    assert recorded({"kl": 1.0}, kl=2.0) == {"kl": 2.0}


def test_any_word_can_be_a_keyword():
    assert recorded(scalars=1.0, self=2.0) == {"scalars": 1.0, "self": 2.0}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(0.5),
        torch.tensor([0.25, 0.75], requires_grad=True),
        torch.tensor([[0.5]], dtype=torch.float16),
        np.float32(0.5),
        np.array(0.5),
    ],
)
def test_a_tensor_is_recorded_as_its_mean(value):
    assert recorded({"kl": value}) == {"kl": 0.5}


def test_a_mapping_in_a_mapping_has_names_with_a_slash():
    nested = {"actor": {"entropy": 1.5, "kl": {"mean": 0.5}}, "reward": 1.0}
    assert recorded(nested) == {"actor/entropy": 1.5, "actor/kl/mean": 0.5, "reward": 1.0}


@pytest.mark.parametrize(
    ("key", "name"), [(3, "3"), (None, "None"), (Name.KL, "kl"), (("a", 1), "('a', 1)")]
)
def test_a_name_that_is_no_text_is_its_text(key, name):
    assert {name: 1.0} == recorded({key: 1.0})


@pytest.mark.parametrize("value", ["high", None, [1.0, 2.0], object(), 1j])
def test_a_value_that_is_no_number_is_left_out_and_named(value):
    values, reasons = logged(*[{"good": 1.0, "bad": value}] * 3)
    assert values == {"good": 1.0}
    assert "monitor degraded: log(bad) failed 3 times" in reasons["log(bad)"]


def containing_itself():
    mapping = {"good": 1.0}
    mapping["again"] = mapping
    return mapping


@pytest.mark.parametrize(
    ("scalars", "said"),
    [
        ([1.0], "log takes a mapping of names to numbers, not list"),
        (0.5, "log takes a mapping of names to numbers, not float"),
        ({Unreadable(): 1.0}, "no name"),
        (containing_itself(), "more than 8 levels"),
    ],
)
def test_what_is_no_mapping_of_names_is_named_and_the_keywords_are_recorded(scalars, said):
    values, reasons = logged(scalars, scalars, scalars, kl=0.5)
    assert values["kl"] == 0.5
    assert said in reasons["log"]


def test_without_an_attachment_and_after_closing_it_does_nothing():
    monitor = trainvitals.watch("not a module", collector="off")
    monitor.log({"reward": 1.0}, kl=1.0)
    monitor.close()
    monitor.log([1.0], kl=1.0)
    assert monitor.diagnosis().not_watched == {}
