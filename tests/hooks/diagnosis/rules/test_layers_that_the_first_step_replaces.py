"""TV601 where one step replaces a layer that starts small on purpose: sine networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.first_steps import by_code, record, the_same_weights_every_time  # noqa: F401


class Sine(nn.Module):
    """A linear layer and sin(30 y), with the initialisation of Sitzmann et al. (2020)."""

    def __init__(self, inputs: int, outputs: int, limit: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.uniform_(self.linear.weight, -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        return (30 * self.linear(x)).sin()


@pytest.mark.parametrize(("rate", "is_found"), [(0.02, True), (3e-4, False)])
def test_a_step_that_replaces_a_layer_is_the_cause_of_a_loss_that_stays_high(rate, is_found):
    x = 2 * torch.rand(2000, 2) - 1
    y = (12 * x[:, :1]).sin() * (9 * x[:, 1:]).cos()
    model = nn.Sequential(Sine(2, 64, 0.5), Sine(64, 64, (6 / 64) ** 0.5 / 30), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    found = by_code(record(model, F.mse_loss, x, y, optimizer, steps=200))
    assert ("TV601" in found) is is_found
    if is_found:
        assert "1.linear.weight" in found["TV601"].summary
        exec(found["TV601"].fix, {"optimizer": optimizer})
        assert optimizer.param_groups[0]["lr"] < rate / 2
