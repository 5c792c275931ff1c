"""Modules in eval mode are counted by their kind: running statistics, dropout above 0."""

import pytest
import torch
from torch import nn

from helpers.supervised_loop import KINDS, Loop, one_step
from trainvitals.capture.modes import RESCAN, Modes
from trainvitals.wire import Scalar

DROPOUT = Scalar.DROPOUT_EVAL_SHARE


def test_dropout_in_eval_mode_is_seen_while_the_loss_is_taken():
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.1), nn.Linear(3, 3), nn.Dropout(0.1))
    loop = Loop(model)
    loop.step(KINDS["MSELoss"])
    model[1].eval()
    loop.step(KINDS["MSELoss"])
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 6))
    loop.step(KINDS["MSELoss"])
    assert loop.scalar("dropout_eval_share") == [0, 0.5, 1]
    assert loop.scalar("norm_eval_share") == []
    assert one_step(KINDS["MSELoss"]).scalar("dropout_eval_share") == []


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        (nn.Dropout(0.5), True),
        (nn.Dropout2d(0.5), True),
        (nn.AlphaDropout(0.5), True),
        (nn.Dropout(0.0), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.1), True),
        (nn.GRU(4, 4, num_layers=2), False),
        (nn.BatchNorm1d(4), False),
    ],
    ids=repr,
)
def test_modules_with_a_dropout_above_0_count(module, counts):
    shares = Modes({"": nn.Sequential(nn.Linear(4, 4), module).eval()}).shares()
    assert shares.get(DROPOUT) == (1.0 if counts else None)


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_the_dropout_of_one_recurrent_layer_has_no_effect():
    assert Modes({"": nn.LSTM(4, 4, dropout=0.1)}).shares() == {}


def test_the_modules_of_all_models_count():
    models = {"a": nn.Dropout(0.5), "b": nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)).eval()}
    assert Modes(models).shares() == {DROPOUT: 0.5, Scalar.NORM_EVAL_SHARE: 1.0}


def test_a_module_that_is_added_later_is_found():
    model = nn.Sequential(nn.Linear(2, 2))
    modes = Modes({"": model})
    assert modes.shares() == {}
    model.append(nn.Dropout(0.5))
    found = [modes.shares() for _ in range(RESCAN)]
    assert found[-2:] == [{}, {DROPOUT: 0.0}]
