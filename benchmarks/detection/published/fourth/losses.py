"""Losses that do not fit their task, after questions and issues on PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, floats, mlp
from detection.published.register import published

LOSS = Class.LOSS
LEVELS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])


@published(LOSS, "R01", "BY571/QR-DQN#1", "loss_task_mismatch loss_plateau")
def levels_along_the_axis_of_the_targets(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        error = target[:, None, :] - output[:, :, None]
        level = LEVELS[:, None] if repaired else LEVELS
        return torch.maximum(level * error, (level - 1) * error).mean()

    return Program(mlp(6, 64, 5), returns(seed), loss, pinball, 3e-3, steps=300, batch_size=64)


def returns(seed: int) -> Data:
    """Five draws of a value whose mean and spread depend on the state."""
    x = torch.randn(2000, 6)
    mean, spread = x @ torch.randn(6, 1) / 2, (x[:, :1] - 0.5).exp()
    return data.split(x, mean + spread * torch.randn(2000, 5), seed)


def pinball(output: Tensor, target: Tensor) -> Tensor:
    """Quantile loss, averaged over the levels."""
    error = target[:, None, :] - output[:, :, None]
    return torch.maximum(LEVELS[:, None] * error, (LEVELS[:, None] - 1) * error).mean()


@published(
    LOSS,
    "R02",
    "discuss.pytorch.org/t/loss-function-finding-extreme-local-minimum/188664",
    "loss_task_mismatch",
)
def deviation_of_the_outputs_rewarded(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        squares = ((output - target) ** 2).sum()
        return squares if repaired else squares - 100 * output.std()

    x = torch.randn(2000, 12)
    y = 0.3 * (x @ torch.randn(12, 10) / 3).relu()
    samples = data.split(x, y, seed)
    return Program(mlp(12, 64, 10), samples, loss, squared_error, 1e-3, steps=400, batch_size=16)


class Balance(nn.Module):
    """A small network of action values for pairs of a state and the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(3, 64, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x[:, :3]), self.body(x[:, 3:])


def moves(seed: int) -> Data:
    """Moves of a walk that ends outside of -1 to 1, after which it starts again at 0.

    The target holds the action and whether the walk ended.
    """
    x, push = 2 * torch.rand(4000) - 1, torch.randint(2, (4000,))
    there = x + 0.4 * (2 * push - 1)
    ended = there.abs() > 1
    after = torch.where(ended, 0.0, there)

    def state(at: Tensor) -> Tensor:
        return torch.stack([at, at.abs(), at**2], 1)

    inputs = torch.cat([state(x), state(after)], 1)
    return data.split(inputs, torch.stack([push.float(), ended.float()], 1), seed)


def ending_moves_valued(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Mean error of the values of moves that end the walk, whose value is 1."""
    action, ended = target[:, 0].long(), target[:, 1] > 0.5
    value = output[0].gather(1, action[:, None])[:, 0]
    return (value[ended] - 1).abs().mean()


@published(
    LOSS, "R03", "navneet-nmk/pytorch-rl#2, seungeunrho/minimalRL#32",
    "loss_task_mismatch loss_divergence target_not_scaled",
)  # fmt: skip
def value_of_the_next_episode_added(seed: int, repaired: bool) -> Program:
    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        action, ended = target[:, 0].long(), target[:, 1]
        goes_on = 1 - ended if repaired else torch.ones_like(ended)
        aim = 1 + 0.8 * goes_on * output[1].detach().max(1).values
        return functional.smooth_l1_loss(output[0].gather(1, action[:, None])[:, 0], aim)

    program = Program(Balance(), moves(seed), loss, ending_moves_valued, 3e-3, Adam, 500, 64)
    program.loss_falls = False
    return program


class Speller(nn.Module):
    """A GRU in both directions that returns a score for each of six symbols at each time."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])  # type: ignore[no-any-return]


def spoken(seed: int) -> Data:
    """Twelve noisy frames of four symbols from 1 to 5, each for three frames."""
    y = torch.randint(1, 6, (1200, 4))
    x = torch.randn(6, 8)[y.repeat_interleave(3, 1)] + 0.3 * torch.randn(1200, 12, 8)
    return data.split(x, y, seed)


def alignment(score: Tensor, target: Tensor) -> Tensor:
    """Return the loss of connectionist temporal classification of log probabilities."""
    samples, frames, _ = score.shape
    lengths = torch.full((samples,), frames), torch.full((samples,), target.shape[1])
    return functional.ctc_loss(score.transpose(0, 1), target, *lengths)


def alignment_after_a_softmax(output: Tensor, target: Tensor) -> Tensor:
    """The loss of the softmax of the scores."""
    return alignment(output.log_softmax(-1), target)


@published(
    LOSS, "R04", "common question, CTCLoss of scores", "loss_task_mismatch loss_unbounded_below"
)
def alignment_of_scores_without_a_softmax(seed: int, repaired: bool) -> Program:
    loss = alignment_after_a_softmax if repaired else alignment
    metric = alignment_after_a_softmax
    return Program(Speller(), spoken(seed), loss, metric, 5e-3, steps=150, batch_size=32)


@published(
    LOSS,
    "R05",
    "common question, CrossEntropyLoss with several labels per sample",
    "loss_task_mismatch",
)
def cross_entropy_of_several_labels(seed: int, repaired: bool) -> Program:
    from sklearn.datasets import make_multilabel_classification

    x, y = make_multilabel_classification(2000, 20, n_classes=6, n_labels=2, random_state=1)
    samples = data.split(floats(x) / 5, floats(y), seed)
    loss = BinaryCrossEntropy() if repaired else CrossEntropy()
    return Program(mlp(20, 64, 6), samples, loss, label_errors, 3e-3, steps=300)


def label_errors(output: Tensor, target: Tensor) -> Tensor:
    """Share of labels on the wrong side of the logit 0."""
    return ((output > 0) != (target > 0.5)).float().mean()


@published(
    LOSS,
    "R06",
    "common question, regression of an angle in degrees",
    "loss_task_mismatch target_not_scaled loss_plateau",
)
def degrees_without_the_turn(seed: int, repaired: bool) -> Program:
    angle = 360 * torch.rand(1500, 1)
    radians = angle * math.pi / 180
    at = torch.stack([radians.cos(), radians.sin()], 2)[:, 0]
    x = at @ torch.randn(2, 16) + 0.3 * torch.randn(1500, 16)

    def turned(output: Tensor, target: Tensor) -> Tensor:
        if output.shape[1] > 1:
            output = torch.atan2(output[:, 1:], output[:, :1]) * 180 / math.pi
        return 1 - ((output - target) * math.pi / 180).cos().mean()

    def on_the_circle(output: Tensor, target: Tensor) -> Tensor:
        way = target * math.pi / 180
        return functional.mse_loss(output, torch.cat([way.cos(), way.sin()], 1))

    model, loss = (mlp(16, 64, 2), on_the_circle) if repaired else (mlp(16, 64, 1), nn.MSELoss())
    return Program(model, data.split(x, angle, seed), loss, turned, 3e-3, steps=400)
