"""A small training loop whose losses are reported to a Capture, and losses of every kind."""

import torch
from torch import nn
from torch.nn import functional as F

from trainvitals.capture import Capture
from trainvitals.wire import Event, Frame, Layout, Stream

X = torch.linspace(-1, 1, 48).reshape(8, 6)
CLASSES = torch.tensor([0, 1, 1, 1, 2, 1, 1, 1])
VALUES = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
KINDS = {
    "CrossEntropyLoss": lambda y: F.cross_entropy(y, CLASSES),
    "NLLLoss": lambda y: F.nll_loss((y.exp() / y.exp().sum(1, keepdim=True)).log(), CLASSES),
    "MSELoss": lambda y: F.mse_loss(y, VALUES),
    "L1Loss": lambda y: F.l1_loss(y, VALUES),
    "SmoothL1Loss": lambda y: F.smooth_l1_loss(y, VALUES),
    "HuberLoss": lambda y: F.huber_loss(y, VALUES),
    "BCELoss": lambda y: F.binary_cross_entropy(y.sigmoid(), VALUES),
    "BCEWithLogitsLoss": lambda y: F.binary_cross_entropy_with_logits(y, VALUES),
    "KLDivLoss": lambda y: F.kl_div(y.log_softmax(1), VALUES.softmax(1), reduction="batchmean"),
    "SoftMarginLoss": lambda y: F.soft_margin_loss(y, VALUES.sign()),
    "MultiMarginLoss": lambda y: F.multi_margin_loss(y, CLASSES),
}


def losses(y):
    """Return the cross entropy of each of the 8 samples."""
    return F.cross_entropy(y, CLASSES, reduction="none")


class Loop:
    """A training loop on one batch; `step(loss)` reports a loss and steps."""

    def __init__(self, model=None, parameters=lambda model: model, **watch):
        torch.manual_seed(0)
        self.records = []
        self.model = model or nn.Sequential(nn.Linear(6, 3))
        self.optimizer = torch.optim.SGD(parameters(self.model).parameters(), lr=0.1)
        watch = {"every": 1} | watch
        self.capture = Capture(self.model, self.optimizer, emit=self.records.append, **watch)

    def step(self, loss=None, report=True, zero_grad=True, **given):
        if zero_grad:
            self.optimizer.zero_grad()
        loss = loss(self.model(X)) if callable(loss) else loss
        if report:
            self.capture.loss(loss, **given)
        total = sum(loss.values()) if isinstance(loss, dict) else loss
        total.mean().backward()
        self.optimizer.step()
        return self

    def scalar(self, name):
        """Return the values of a scalar at the steps that have it."""
        self.capture.settle()
        names, found = [], []
        for record in self.records:
            if isinstance(record, Layout) and record.stream is Stream.SCALAR:
                names = [place.name for place in record.places]
            if isinstance(record, Frame) and record.stream is Stream.SCALAR and name in names:
                values = record.values[:, names.index(name), 0].tolist()
                found += [value for value in values if value == value]
        return found

    def events(self, kind="loss_kind"):
        return [r for r in self.records if isinstance(r, Event) and r.kind == kind]


def one_step(loss, model=None, **given):
    """Train one step with `loss`, a function of the model's output, and return the loop."""
    return Loop(model).step(loss, **given)
