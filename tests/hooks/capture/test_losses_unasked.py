"""Losses of a loss module, a model's output and a `training_step` are seen without a line."""

import copy
import io
import pickle
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import CLASSES, VALUES, Loop, X


def test_a_loss_module_shows_its_prediction_and_target():
    criterion = nn.CrossEntropyLoss(ignore_index=1)
    loop = Loop(loss=criterion)
    prediction = loop.model(X).sigmoid() * 2
    loop.step(criterion(prediction, CLASSES), report=False)
    assert loop.scalar("prediction_max") == [float(prediction.max())]
    assert loop.scalar("supervised_share") == [0.25]
    [event] = loop.events()
    assert event.text == event.attributes["module"] == "CrossEntropyLoss"


def test_a_loss_module_of_the_user_may_take_the_target_first():
    class Mine(nn.Module):
        def forward(self, target, prediction):
            return (prediction.exp() - target).pow(4).sum()

    criterion = Mine()
    loop = Loop(loss=criterion)
    loop.step(criterion(VALUES, loop.model(X)), report=False)
    assert loop.scalar("target_max") == [float(VALUES.max())]
    [event] = loop.events()
    assert (event.text, event.attributes["module"]) == ("", "Mine")


class ModelOutput(OrderedDict):
    """Imitates the output class of transformers, which is not installed here."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class LanguageModel(nn.Module):
    """Returns loss and logits, as the models of Hugging Face do."""

    def __init__(self, output=ModelOutput):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.output = output

    def forward(self, x, labels=None):
        logits = self.head(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return self.output(loss=loss, logits=logits)


@pytest.mark.parametrize("output", [ModelOutput, dict, SimpleNamespace])
def test_the_loss_in_a_models_output_is_seen(output):
    model = LanguageModel(output)
    loop = Loop(model)
    loss = loss_of(model(X, CLASSES))
    loop.step(loss, report=False)
    assert loop.scalar("loss") == [pytest.approx(float(loss))]
    assert loop.scalar("target_classes") == [3]
    assert len(loop.scalar("prediction_max")) == 1


def loss_of(output):
    return output["loss"] if isinstance(output, dict) else output.loss


def test_the_loss_in_a_models_output_is_not_counted_twice():
    model = LanguageModel()
    loop = Loop(model)
    loss = model(X, CLASSES).loss * 3
    loop.step(loss)
    assert loop.scalar("loss") == [pytest.approx(float(loss))]


def test_the_loss_in_a_models_output_is_seen_in_steps_that_are_not_measured_in_full():
    model = LanguageModel()
    loop = Loop(model, every=50)
    for _ in range(30):
        loop.step(lambda _: model(X, CLASSES).loss, report=False)
    assert len(loop.scalar("loss")) == 30


def test_a_model_whose_outputs_contain_no_loss_has_no_hook_in_such_steps():
    loop = Loop(every=50)
    hooks = []
    for _ in range(52):
        hooks.append(len(loop.model._forward_hooks))
        loop.step(lambda y: F.cross_entropy(y, CLASSES))
    assert hooks[20:50] == [0] * 30
    assert hooks[50] > 0


def test_an_evaluation_is_not_taken_for_training():
    model = LanguageModel()
    loop = Loop(model)
    model.eval()
    model(X, CLASSES)
    model.train()
    with torch.no_grad():
        model(X, CLASSES)
    loop.step(model(X).logits.sum(), report=False)
    assert loop.scalar("loss") == []


class Lightning(nn.Module):
    """Has a `training_step`, as a LightningModule, which is not installed here."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def training_step(self, batch, index):
        """Return the loss of a batch."""
        loss = F.cross_entropy(self.head(batch), CLASSES)
        return {"loss": loss} if index % 2 else loss


@pytest.mark.parametrize("index", [0, 1])
def test_the_return_of_a_training_step_is_seen(index):
    model = Lightning()
    loop = Loop(model)
    output = model.training_step(X, index)
    loss = output["loss"] if index else output
    loop.step(loss, report=False)
    assert loop.scalar("loss") == [pytest.approx(float(loss))]
    assert loop.scalar("supervised_share") == [1]


def test_a_training_step_is_the_method_again_after_detaching():
    model = Lightning()
    before = dict(model.__dict__)
    loop = Loop(model)
    assert model.training_step.__wrapped__.__func__ is Lightning.training_step
    loop.capture.detach()
    assert model.__dict__.keys() == before.keys()
    assert model.training_step.__func__ is Lightning.training_step


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_a_copy_has_its_own_training_step(how):
    loop = Loop(Lightning())
    copied = copies(loop.model)[how]
    with torch.no_grad():
        copied.head.weight.zero_()
        copied.head.bias.zero_()
    assert float(copied.training_step(X, 0)) == pytest.approx(1.0986, rel=1e-3)
    assert loop.scalar("loss") == []


def copies(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "save": torch.load(buffer, weights_only=False),
    }
