"""Gradients that vanish, explode or do not arrive, after questions and issues on PyTorch."""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.checkpoint import checkpoint

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

FLOW = Class.FLOW


@published(
    FLOW,
    "U50",
    "common question, LSTM with num_layers=8 does not learn",
    "vanishing_gradient loss_plateau no_learning vanishing_activation constant_prediction",
)
def eight_layers_of_an_lstm(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 4, 24, 4)
    if not repaired:
        model.rnn = nn.LSTM(4, 24, 8, batch_first=True)
    return Program(model, data.cue(seed), CrossEntropy(), error_rate, 5e-3, Adam, 400)


class Checkpointed(nn.Module):
    """A body of three layers under torch.utils.checkpoint and a head."""

    def __init__(self, *, input_requires_grad: bool) -> None:
        super().__init__()
        self.body, self.head = mlp(20, 48, 48, 24), nn.Linear(24, 5)
        self.input_requires_grad = input_requires_grad

    def forward(self, x: Tensor) -> Tensor:
        if self.input_requires_grad:
            x = x.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            h = checkpoint(self.body, x, use_reentrant=True)
        return self.head(h)  # type: ignore[no-any-return]


@published(
    FLOW,
    "U51",
    "Lyken17/pytorch-memonger#4, TinyLLaVA/TinyLLaVA_Factory#144, pytorch/pytorch#7617",
    "no_gradient parameter_not_updated",
)
def checkpoint_of_an_input_without_a_gradient(seed: int, repaired: bool) -> Program:
    model = Checkpointed(input_requires_grad=repaired)
    return Program(model, data.clusters(seed), CrossEntropy(), error_rate, 3e-3, Adam, 400)


class Clamped(nn.Module):
    """An autoencoder whose pixels are cut to the range from 0 to 1 in training, or later."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.body, self.cut = mlp(64, 48, 16, 48, 64), cut

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x.clamp(0, 1) if self.cut or not self.training else x


@published(
    FLOW,
    "U52",
    "PeterL1n/BackgroundMattingV2#128, output.clamp(0, 1) before the loss",
    "no_gradient dead_relu output_range_mismatch vanishing_gradient saturated_activation "
    "loss_plateau",
)
def pixels_clamped_before_the_loss(seed: int, repaired: bool) -> Program:
    samples = data.digits(seed, reconstruct=True)
    program = Program(
        Clamped(cut=not repaired), samples, nn.MSELoss(), squared_error, 2e-3, Adam, 500, 64
    )
    program.with_inputs(lambda x: (x - x.min()) / (x.max() - x.min()))
    program.with_targets(lambda y: (y - y.min()) / (y.max() - y.min()))
    return program


@published(
    FLOW,
    "U53",
    "common question, ReLU after the narrow code of an autoencoder",
    "dead_relu no_gradient loss_plateau",
)
def relu_on_a_code_of_four_numbers(seed: int, repaired: bool) -> Program:
    samples = data.digits(seed, reconstruct=True)
    code: list[nn.Module] = [] if repaired else [nn.ReLU()]
    model = nn.Sequential(mlp(64, 48, 4), *code, mlp(4, 48, 64))
    return Program(model, samples, nn.MSELoss(), squared_error, 5e-3, Adam, 500, 64)


class Rounded(nn.Module):
    """A forecast of counts that is rounded in training, or only afterwards."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.body, self.always = mlp(10, 64, 64, 1), always

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x.round() if self.always or not self.training else x


@published(
    FLOW,
    "U54",
    "discuss.pytorch.org 28628, torch.round(output) before the loss",
    "no_gradient no_signal parameter_not_updated no_learning loss_plateau constant_prediction",
)
def forecast_rounded_before_the_loss(seed: int, repaired: bool) -> Program:
    program = Program(
        Rounded(always=not repaired), data.friedman(seed), nn.MSELoss(), squared_error, 3e-3
    )
    program.with_targets(lambda y: (5 + 3 * y).round())
    program.steps = 400
    return program


class Gate(nn.Module):
    """Features times a gate; the scores of the gate are large because the inputs are raw."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.body = nn.Linear(10, 64), nn.Linear(10, 64)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(x).sigmoid() * self.body(x).tanh())  # type: ignore[no-any-return]


@published(
    FLOW,
    "U55",
    "common question, readings of an AD converter from 0 to 4095 into a gated network",
    "saturated_activation unnormalised_input vanishing_gradient loss_plateau",
)
def gates_saturated_by_raw_readings(seed: int, repaired: bool) -> Program:
    program = Program(Gate(), data.friedman(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 400)
    if not repaired:
        program.with_inputs(lambda x: (2048 + 1000 * x).round())
    return program
