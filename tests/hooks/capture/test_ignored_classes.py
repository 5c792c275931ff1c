"""A class that a cross entropy ignores is told if each sample has one class number."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import CLASSES, KINDS, Loop, X, one_step


def told(loop):
    return [event.attributes.get("ignored_class") for event in loop.events()]


@pytest.mark.parametrize(
    ("index", "expected"), [(0, "0"), (2, "2"), (-100, None), (3, None), (255, None)]
)
def test_it_is_told_if_it_is_one_of_the_classes(index, expected):
    loop = one_step(lambda y: F.cross_entropy(y, CLASSES, ignore_index=index))
    assert told(loop) == [expected]


def test_a_loss_module_shows_it_too():
    loss = nn.CrossEntropyLoss(ignore_index=1)
    loop = Loop(loss=loss).step(lambda y: loss(y, CLASSES), report=False)
    assert told(loop) == ["1"]


def test_a_loss_without_an_ignore_index_has_none():
    assert told(one_step(KINDS["MSELoss"])) == [None]


def test_losses_that_are_masked_afterwards_are_left_out():
    def masked(y):
        return (F.cross_entropy(y, CLASSES, ignore_index=0, reduction="none") * mask).mean()

    mask = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1])
    assert told(one_step(masked)) == [None]


def test_flattened_positions_are_left_out():
    positions = nn.Sequential(nn.Linear(6, 3))
    loop = Loop(positions)
    loop.step(F.cross_entropy(positions(X.reshape(2, 4, 6)).flatten(0, 1), CLASSES, ignore_index=0))
    assert told(loop) == [None]


@pytest.mark.parametrize(("words", "expected"), [(3, None), (9, "0")])
def test_classes_that_may_be_the_words_of_the_input_are_left_out(words, expected):
    tokens = (torch.arange(32) % words).reshape(8, 4)
    model = nn.Sequential(nn.Embedding(words, 6), nn.Flatten(), nn.Linear(24, 3))
    loop = Loop(model)
    loop.step(F.cross_entropy(model(tokens), CLASSES, ignore_index=0))
    assert told(loop) == [expected]
