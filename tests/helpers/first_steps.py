"""The first steps of small networks, measured in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainvitals.api.schema import Finding
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import all_rules

Loss = Callable[[Tensor, Tensor], Tensor]
CROSS_ENTROPY = nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def the_same_weights_every_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def train(
    model: nn.Module,
    loss: Loss = CROSS_ENTROPY,
    *,
    steps: int = 4,
    rate: float = 1e-3,
    reports_pair: bool = False,
) -> History:
    """Train on 10 classes of 16 features (the sign pattern of a projection), or on their number.

    `reports_pair`: the program gives its prediction and target with the loss.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 16, generator=g)
    y = (x @ torch.randn(16, 10, generator=g)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return record(model, loss, x, y, optimizer, steps=steps, reports_pair=reports_pair, g=g)


def record(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    reports_pair: bool = False,
    g: torch.Generator | None = None,
) -> History:
    """Train on batches of 64 of the samples, every step measured in full."""
    history, g = History(), g or torch.Generator().manual_seed(0)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for _ in range(steps):
        at = torch.randint(len(x), (64,), generator=g)
        optimizer.zero_grad()
        prediction = model(x[at])
        value = loss(prediction, y[at])
        pair = {"prediction": prediction, "target": y[at]} if reports_pair else {}
        capture.loss(value, **pair)
        value.backward()
        optimizer.step()
    capture.detach()
    return history


def by_code(history: History) -> dict[str, Finding]:
    """Return the findings of all rules, by the rule's code."""
    return {f.code: f for f in Engine(all_rules()).examine(history)}


def found(rule, history: History) -> Finding | None:
    findings = list(rule().check(history))
    assert len(findings) <= 1
    return findings[0] if findings else None
