"""A function before a module belongs to the module whose output it was applied to."""

import pytest
import torch
from torch import Tensor, nn

from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream


class Heads(nn.Module):
    """Two heads on one trunk; the trunk's tanh is a module or a function."""

    def __init__(self, *, is_module: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh() if is_module else nn.Identity())
        self.policy, self.value = nn.Linear(8, 3), nn.Linear(8, 1)
        self.is_module = is_module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        if not self.is_module:
            features = torch.tanh(features)
        return self.policy(features), self.value(features)


@pytest.mark.parametrize("is_module", [True, False])
def test_a_head_beside_another_has_no_nonlinearity(is_module):
    model, history = Heads(is_module=is_module), History()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for _ in range(3):
        loss = sum(out.square().mean() for out in model(torch.randn(6, 4)))
        optimizer.zero_grad()
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    found = {p.name: p.nonlinearity for p in history.places(Stream.ACTIVATION)}
    assert (found["trunk.0"], found["policy"], found["value"]) == ("tanh", "", "")
    saturated = history.series(Stream.ACTIVATION, Stat.SATURATED_SHARE, "policy")
    assert len(saturated.finite()) == 0
