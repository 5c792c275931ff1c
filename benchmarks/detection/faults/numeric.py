"""Numeric: values that are not finite, jump, or are rounded away."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.register import fault
from detection.program import Program, activation_after, append, hidden_layers, places_of

NUMERIC = Class.NUMERIC
NOT_FINITE = "non_finite_value"
INPUT = "non_finite_input non_finite_value"
AT_THE_INPUT = ("", "*fc0*", "*conv0*", "stem*", "rnn*", "embed*", "input*")


@fault(NUMERIC, INPUT, "lstm-cue resnet-shapes", onset=60)
def nan_in_the_input_at_step_60(p: Program) -> Places:
    def collate(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if step == 60:
            x = x.clone()
            x.view(-1)[3] = math.nan
        return x, y

    p.collate = collate
    return AT_THE_INPUT


@fault(NUMERIC, INPUT, "mlp-friedman gru-waves", onset=100)
def infinite_target_at_step_100(p: Program) -> Places:
    def collate(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if step == 100:
            y = y.clone()
            y.view(-1)[3] = math.inf
        return x, y

    p.collate = collate
    return ("", "*loss*", "target*")


@fault(NUMERIC, INPUT, "mlp-digits mlp-friedman")
def constant_feature_divided_by_its_deviation(p: Program) -> Places:
    def standardise(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0] = 5.0
        return (x - x.mean(0)) / x.std(0)

    p.with_inputs(standardise)
    return AT_THE_INPUT


class LogOfSoftmax(nn.Module):
    """log(softmax) in two steps, as many write it by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(100 * x, -1).log()


@fault(NUMERIC, NOT_FINITE + " loss_task_mismatch", "mlp-digits tanh-rings")
def log_of_a_softmax_that_underflows(p: Program) -> Places:
    places = head_of(p)
    append(p.model, places[0], LogOfSoftmax())
    p.loss = nn.NLLLoss()
    return places


@fault(NUMERIC, NOT_FINITE, "mlp-friedman mlp-quadratic")
def square_root_of_zero_in_the_loss(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        # The distance to the target, and of the target to itself, which is 0.
        return ((output - target) ** 2).mean().sqrt() + (
            (output - output.roll(0)) ** 2
        ).sqrt().mean()

    p.loss = loss
    return head_of(p)


@fault(NUMERIC, NOT_FINITE, "mlp-friedman gru-waves")
def relative_error_with_zero_targets(p: Program) -> Places:
    p.with_targets(lambda y: torch.where(y.abs() < 0.02, torch.zeros_like(y), y))
    p.loss = lambda output, target: ((output - target).abs() / target.abs()).mean()
    return head_of(p)


class Exponential(nn.Module):
    """exp without a bound."""

    def forward(self, x: Tensor) -> Tensor:
        return (60 * x).exp()


@fault(
    NUMERIC, NOT_FINITE + " exploding_gradient initial_loss_anomaly", "mlp-quadratic mlp-friedman"
)
def unbounded_exponential(p: Program) -> Places:
    name = hidden_layers(p.model)[0][0]
    append(p.model, name, Exponential())
    return (*places_of([name]), "")


class Half(nn.Module):
    """Rounds to float16 and back, as a layer in half precision does."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 3e5).half().float() / 3e5


@fault(NUMERIC, NOT_FINITE + " amp_overflow", "autoencoder-digits resmlp-clusters")
def half_precision_overflows(p: Program) -> Places:
    name = hidden_layers(p.model)[1][0]
    places = (*places_of([name]), activation_after(p.model, name))
    append(p.model, name, Half())
    return places


def empty_feature(p: Program) -> None:
    """Set the first feature to 0: its gradient is then exactly 0."""
    p.with_inputs(lambda x: torch.cat((torch.zeros_like(x[..., :1]), x[..., 1:]), -1))


@fault(NUMERIC, NOT_FINITE, "lstm-cue mlp-quadratic", given=empty_feature)
def adam_epsilon_of_zero(p: Program) -> None:
    # A gradient of exactly 0 makes the update 0 / 0.
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, eps=0.0)


@fault(
    NUMERIC,
    "parameter_jump loss_spike non_finite_value",
    "mlp-digits resnet-shapes",
    onset=120,
)
def a_weight_is_corrupted_at_step_120(p: Program) -> None:
    def event(step: int, program: Program, _: Optimizer) -> None:
        if step == 119:
            weight = max(program.model.parameters(), key=lambda w: w.numel())
            with torch.no_grad():
                weight.view(-1)[::7].mul_(1e4)

    p.events.append(event)


def low_rate(p: Program) -> None:
    """A twentieth of the rate, which float32 weights can follow."""
    p.lr /= 20
    p.steps = 400


@fault(
    NUMERIC,
    "absorbed_updates learning_rate_too_low amp_underflow",
    "mlp-digits resmlp-clusters",
    given=low_rate,
)
def weights_in_bfloat16(p: Program) -> None:
    # Master weights are rounded after each step: small updates are lost.
    def event(_: int, program: Program, __: Optimizer) -> None:
        with torch.no_grad():
            for weight in program.model.parameters():
                weight.copy_(weight.bfloat16())

    p.events.append(event)


def small_loss(p: Program) -> None:
    """Weigh the loss with 1e-5, as a term of many; Adam does not depend on it."""
    inner = p.loss
    p.loss = lambda output, target: 1e-5 * inner(output, target)
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, eps=1e-15)


@fault(NUMERIC, "amp_underflow", "mlp-digits resmlp-clusters", given=small_loss)
def float16_without_loss_scaling(p: Program) -> None:
    p.forward = in_float16


def in_float16(model: nn.Module, x: Tensor) -> Tensor:
    """Return the output in float32 of a model that computes in float16."""
    with torch.autocast("cpu", torch.float16):
        output: Tensor = model(x)
    return output.float()
