"""TV401 finds probabilities that go into the log-sigmoid of a loss, on real small trainings."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.wiring_runs import Run, train  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.diagnosis.rules.softmax_before_cross_entropy import (  # noqa: E402
    SoftmaxBeforeCrossEntropy,
)


def body(*last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), *last)


def data():
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    return x, (x @ torch.randn(8, 4) > 2).float()


def findings(model, loss, *, steps=1, gives_tensors=False):
    """Train for so many measured steps; return the findings of TV401."""
    seen = train(Run(model, loss, data=data(), gives_tensors=gives_tensors), steps)
    return list(SoftmaxBeforeCrossEntropy().check(seen.history))


def by_hand(o, y):
    return -(y * F.logsigmoid(o) + (1 - y) * F.logsigmoid(-o)).mean()


LOSSES = {
    "of several labels": nn.MultiLabelSoftMarginLoss(),
    "of weighted labels": nn.MultiLabelSoftMarginLoss(weight=torch.rand(4)),
    "as a sum": nn.MultiLabelSoftMarginLoss(reduction="sum"),
    "written by hand": by_hand,
    "of positives": lambda o, _: -F.logsigmoid(o).mean(),
    "behind views": lambda o, _: -F.logsigmoid(-o.reshape(-1).unsqueeze(1)).sum() / 9,
    "of some labels": lambda o, y: -F.logsigmoid(o)[y > 0].sum() / 32,
    "beside another term": lambda o, y: F.mse_loss(o, y) + by_hand(o, y),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("gives_tensors", [False, True])
def test_a_sigmoid_before_it_is_an_error_in_the_first_step(loss, gives_tensors):
    [finding] = findings(body(nn.Sigmoid()), loss, gives_tensors=gives_tensors)
    assert (finding.where, finding.severity) == ("2", Severity.ERROR)
    assert "a sigmoid output goes into a log-sigmoid" in finding.summary


def test_so_is_a_softmax():
    [finding] = findings(body(nn.Softmax(1)), LOSSES["of several labels"])
    assert "a softmax output goes into a log-sigmoid" in finding.summary


def test_the_fix_removes_the_sigmoid():
    model = body(nn.Sigmoid())
    [finding] = findings(model, by_hand)
    exec(finding.fix, {"model": model, "nn": nn})
    assert isinstance(model[3], nn.Identity)
    assert not findings(model, by_hand)


def test_the_finding_ends_when_the_sigmoid_is_removed_during_the_run():
    model = body(nn.Sigmoid())

    def repaired(step):
        if step == 12:
            model[3] = nn.Identity()

    seen = train(Run(model, by_hand, data=data(), every_step=repaired), 24)
    assert "softmax_before_cross_entropy" in seen.alarms
    assert not list(SoftmaxBeforeCrossEntropy().check(seen.history))


def test_a_sigmoid_in_the_loss_has_no_fix_in_the_model():
    [finding] = findings(body(), lambda o, y: by_hand(o.sigmoid(), y))
    assert finding.fix == ""


def gated():
    """Return a model with the gate of a linear attention: a sigmoid scales the log-sigmoid."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = body(), nn.Linear(8, 4)

        def forward(self, x):
            return self.value(x) * F.logsigmoid(self.gate(x)).exp() * self.gate(x).sigmoid()

    return Gated()


HEALTHY = {
    "logits of several labels": (body, LOSSES["of several labels"]),
    "logits by hand": (body, by_hand),
    "logits beside probabilities": (
        body,
        lambda o, y: by_hand(o, y) + F.mse_loss(o.sigmoid(), y),
    ),
    "probabilities of their own loss": (lambda: body(nn.Sigmoid()), F.binary_cross_entropy),
    "a difference of two scores between 0 and 1": (
        lambda: body(nn.Sigmoid()),
        lambda o, _: -F.logsigmoid(o[:, 0] - o[:, 1]).mean(),
    ),
    "a scaled score": (
        lambda: body(nn.Sigmoid()),
        lambda o, _: -F.logsigmoid(10 * (o - 0.5)).mean(),
    ),
    "a weight that is a sigmoid": (
        body,
        lambda o, _: -(F.logsigmoid(o) * (1 - o.sigmoid()) ** 2).mean(),
    ),
    "a tanh": (lambda: body(nn.Tanh()), lambda o, _: -F.logsigmoid(o).mean()),
    "a gate": (gated, F.mse_loss),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_log_sigmoids_are_silent(name):
    model, loss = HEALTHY[name]
    assert not findings(model(), loss, steps=4)
    assert not findings(model(), loss, steps=4, gives_tensors=True)
