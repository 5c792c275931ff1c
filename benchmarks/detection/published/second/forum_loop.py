"""Errors of the training loop after TrainCheck, the PyTorch forum and articles on training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detection import data
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published

WIRING = Class.WIRING
NO_UPDATE = "parameter_not_updated no_gradient"


@published(
    WIRING, "P01", "TrainCheck, pytorch-forum-84911", "no_gradient parameter_not_updated no_signal"
)
def no_trainable_layer_and_a_loss_marked_as_trainable(seed: int, repaired: bool) -> Program:
    model, samples = cnn(), parts.digits(seed, image=True)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200, batch_size=64)
    model.requires_grad_(False)
    return Program(model, samples, marked_loss, error_rate, 1e-3, steps=200, batch_size=64)


def marked_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy that is set to require a gradient so that `backward` does not raise."""
    return nn.functional.cross_entropy(output, target).requires_grad_()


@published(WIRING, "P02", "PyTorch forum, loss rebuilt from item()", NO_UPDATE)
def loss_rebuilt_from_its_number(seed: int, repaired: bool) -> Program:
    loss = nn.functional.cross_entropy if repaired else rebuilt_loss
    model, samples = mlp(64, 128, 64, 10), parts.digits(seed)
    return Program(model, samples, loss, error_rate, 1e-3, steps=200, batch_size=64)


def rebuilt_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy as a new tensor without a graph."""
    number = nn.functional.cross_entropy(output, target).item()
    return torch.tensor(number, requires_grad=True)


@published(WIRING, "P03", "PyTorch forum, zero_grad after backward", NO_UPDATE)
def gradients_cleared_before_the_step(seed: int, repaired: bool) -> Program:
    model, samples = cnn(), parts.digits(seed, image=True)
    program = Program(
        model, samples, CrossEntropy(), error_rate, 0.05, sgd(0.9), steps=150, batch_size=64
    )
    if not repaired:
        program.step = cleared_step
    return program


def cleared_step(program: Program, optimizer: Any, monitor: Any, _: int) -> None:
    """Call `zero_grad` between `backward` and `step`."""
    chosen = torch.randint(len(program.data.x), (program.batch_size,))
    output = program.forward(program.model, program.data.x[chosen])
    monitor.loss(program.loss(output, program.data.y[chosen])).backward()
    optimizer.zero_grad()
    optimizer.step()


@published(WIRING, "P04", "PyTorch forum, step before backward", NO_UPDATE)
def step_between_zero_grad_and_backward(seed: int, repaired: bool) -> Program:
    model, samples = mlp(10, 64, 1), parts.diabetes(seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 1e-2, steps=100)
    program.step_first = not repaired
    return program


class Encoded(nn.Module):
    """A recurrent encoder, without gradient if `no_grad`, and a linear layer."""

    def __init__(self, *, no_grad: bool) -> None:
        super().__init__()
        self.encoder = nn.GRU(4, 24, batch_first=True)
        self.head = nn.Linear(24, 4)
        self.no_grad = no_grad

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.no_grad and torch.is_grad_enabled()):
            states, _ = self.encoder(x)
        return self.head(states[:, -1])  # type: ignore[no-any-return]


@published(WIRING, "P05", "PyTorch forum, no_grad in forward", NO_UPDATE)
def encoder_inside_no_grad(seed: int, repaired: bool) -> Program:
    model, samples = Encoded(no_grad=not repaired), data.cue(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, steps=200)


@published(WIRING, "P06", "PyTorch forum, parameters replaced after the optimizer", NO_UPDATE)
def weights_replaced_after_the_optimizer_was_made(seed: int, repaired: bool) -> Program:
    model, samples = mlp(64, 64, 64, 10), parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.1, sgd(), 300, 64)
    if repaired:
        replace_weights(program)
    else:
        program.started.append(lambda program, _: replace_weights(program))
    return program


def replace_weights(program: Program) -> None:
    """Initialise the weights by assigning new parameters."""
    for layer in program.model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty_like(layer.weight)))


@published(
    WIRING,
    "P07",
    "Karpathy, common mistakes: train and eval mode",
    "wrong_train_eval_mode overfitting",
    onset=20,
)
def evaluation_mode_after_the_first_validation(seed: int, repaired: bool) -> Program:
    x, y = torch.randn(600, 40), torch.randn(600)
    x[:, 0] += 1.5 * y.sign()
    samples = data.split(x, (y > 0).long(), seed)
    model, loss = mlp(40, 256, 256, 2, dropout=0.7), CrossEntropy()
    program = Program(model, samples, loss, loss, 1e-3, steps=300, batch_size=64)
    program.events.append(evaluate_and_return if repaired else evaluate)
    return program


def evaluate(step: int, program: Program, _: Optimizer) -> None:
    """Compute the test loss every 20 steps and leave the model in evaluation mode."""
    if step % 20 == 19:
        program.model.eval()
        with torch.no_grad():
            program.loss(program.model(program.data.x_test), program.data.y_test)


def evaluate_and_return(step: int, program: Program, optimizer: Optimizer) -> None:
    """Compute the test loss every 20 steps and return to training mode."""
    evaluate(step, program, optimizer)
    program.model.train()


class Tagger(nn.Module):
    """An LSTM with the time in the first dimension; a view or a transpose restores the batch."""

    def __init__(self, *, view: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(16, 24), nn.LSTM(24, 48)
        self.head = nn.Linear(48, 16)
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(x).transpose(0, 1))
        output = self.head(states)
        if self.view:
            return output.reshape(*x.shape, -1)  # type: ignore[no-any-return]
        return output.transpose(0, 1)  # type: ignore[no-any-return]


@published(
    WIRING,
    "P08",
    "Karpathy, common mistakes: view in place of permute",
    "label_misaligned loss_plateau",
)
def view_in_place_of_a_transpose(seed: int, repaired: bool) -> Program:
    model, samples = Tagger(view=not repaired), data.chain(seed)
    return Program(model, samples, TokenLoss(), token_loss, 1e-2, steps=150)


@published(
    Class.DATA,
    "P09",
    "PyTorch forum, same random numbers in every worker",
    "constant_or_duplicate_input overfitting",
)
def every_batch_is_the_same(seed: int, repaired: bool) -> Program:
    model, samples = mlp(64, 64, 10), parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=300)
    program.validate_every = 20
    if not repaired:
        program.sample = first_batch
    return program


def first_batch(program: Program, _: int, __: torch.Generator) -> Tensor:
    """Sample the same batch at every step."""
    return torch.arange(program.batch_size)
