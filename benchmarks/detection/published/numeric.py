"""Values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Loss, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp, sgd
from detection.published.register import published


@published(
    Class.NUMERIC, "F072", "Stack Overflow 46181692, 53138899", "non_finite_input non_finite_value"
)
def one_percent_of_the_features_nan(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 10)
    samples = data.split(x, 2 * x[:, :1] + x[:, 1:2], seed)
    program = Program(mlp(10, 32, 1), samples, nn.MSELoss(), squared_error, 1e-3, steps=100)
    if not repaired:
        program.with_inputs(lambda x: x.masked_fill(torch.rand_like(x) < 0.01, torch.nan))
    return program


class HalfRange(nn.Module):
    """Two layers whose outputs are rounded to float16, which ends at 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.hidden(x).half().float())
        return self.head(hidden).half().float()  # type: ignore[no-any-return]


@published(Class.NUMERIC, "F122", "PyTorch forum", "amp_overflow non_finite_value")
def float16_overflows(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    program = Program(HalfRange(), samples, CrossEntropy(), error_rate, 0.1, sgd(), 60, 64)
    if not repaired:
        program.with_inputs(lambda x: 1e6 * x)
    return program


def relative_error(added: float) -> Loss:
    """Return the loss |output − target| / (target + `added`)."""
    return lambda output, target: ((output - target) / (target + added)).abs().mean()


@published(Class.NUMERIC, "F124", "PyTorch forum", "non_finite_value")
def division_by_targets_of_zero(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 6)
    samples, loss = data.split(x, (2 * x[:, :1]).abs().floor(), seed), relative_error(repaired)
    return Program(mlp(6, 32, 1), samples, loss, relative_error(1.0), 1e-3, steps=150)
