"""The healthy programs of the third part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from detection.bases import TokenLoss, base, error_rate, squared_error
from detection.case import Split
from detection.program import Program
from detection.third_part import models, samples
from detection.third_part.samples import DISCOUNT, IGNORED

TUNING = Split.TUNING


@base("mixer-marks", "MLP-Mixer", "marks", TUNING)
def _(seed: int) -> Program:
    loss = nn.CrossEntropyLoss()
    p = Program(models.Mixer(4), samples.marks(seed), loss, error_rate, 4e-3, AdamW)
    p.steps, p.schedule = 160, lambda o, steps: lr_scheduler.CosineAnnealingLR(o, steps)
    return p


def count_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of the expected number over the variance of the numbers."""
    return squared_error(output.exp(), target)


@base("separable-spots", "depthwise-separable CNN", "spots", TUNING)
def _(seed: int) -> Program:
    def nesterov(parameters: object, lr: float) -> Optimizer:
        return SGD(parameters, lr, momentum=0.9, nesterov=True)  # type: ignore[arg-type]

    data, loss = samples.spots(seed), nn.PoissonNLLLoss()
    p = Program(models.Counter(), data, loss, count_error, 0.03, nesterov)
    p.steps, p.schedule = 200, lambda o, steps: lr_scheduler.PolynomialLR(o, steps)
    return p


class PinballLoss(nn.Module):
    """The quantile loss of the quantiles 0.1, 0.5 and 0.9, one channel each."""

    quantiles = torch.tensor([0.1, 0.5, 0.9])[:, None]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        error = self.error(output, target)
        return torch.maximum(self.quantiles * error, (self.quantiles - 1) * error).mean()

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Return how much larger the target is than the output."""
        return target - output


@base("wavenet-thresholds", "gated dilated 1-D CNN", "thresholds", TUNING)
def _(seed: int) -> Program:
    data, loss = samples.thresholds(seed), PinballLoss()
    p = Program(models.WaveNet(3), data, loss, PinballLoss(), 5e-3, NAdam)
    p.steps = 180
    return p


def label_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong classes over the positions that are not ignored."""
    counted = target != IGNORED
    return error_rate(output[counted], target[counted])


@base("graphnet-communities", "graph convolutional network", "communities", TUNING)
def _(seed: int) -> Program:
    data, model = samples.communities(seed), models.GraphNet(20, 8, 3)
    p = Program(model, data, TokenLoss(), label_error, 5e-3, Adam)
    p.steps, p.batch_size = 200, 16
    return p


class PairLoss(nn.Module):
    """Cross-entropy of the item of each query and of the query of each item."""

    def forward(self, similarity: Tensor, _: Tensor) -> Tensor:
        own = torch.arange(len(similarity))
        return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def rank_error(similarity: Tensor, _: Tensor) -> Tensor:
    """Mean share of the other items that are as similar to a query as its own one, or more."""
    above = (similarity >= similarity.diagonal()[:, None]).sum(1) - 1
    return torch.where(similarity.isfinite().all(1), above / (len(similarity) - 1), 1.0).mean()


@base("towers-pairs", "two towers", "pairs", TUNING)
def _(seed: int) -> Program:
    data, model = samples.pairs(seed), models.TwoTowers(16, 20)
    p = Program(model, data, PairLoss(), rank_error, 3e-3, Adam)
    p.steps, p.batch_size = 250, 64
    return p


@base("unet-patterns", "U-Net", "patterns", TUNING)
def _(seed: int) -> Program:
    data, loss = samples.patterns(seed), nn.MSELoss()
    p = Program(models.UNet(), data, loss, squared_error, 5e-3, Adam)
    p.steps, p.batch_size = 180, 16
    return p


def warm_up_and_cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a linear warm-up of 20 steps and a cosine down to a tenth."""
    rate = optimizer.param_groups[0]["lr"]
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.05, 1.0, 20),
            lr_scheduler.CosineAnnealingLR(optimizer, max(steps - 20, 1), rate / 10),
        ],
        [20],
    )


@base("decoder-sums", "rotary decoder", "sums", TUNING)
def _(seed: int) -> Program:
    data, model = samples.sums(seed), models.Decoder(13)
    p = Program(model, data, TokenLoss(), label_error, 8e-3, AdamW)
    p.steps, p.clip_norm, p.schedule = 180, 1.0, warm_up_and_cosine
    return p


class TwoTaskLoss(nn.Module):
    """Binary cross-entropy of the labels plus a smooth absolute error of the number."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.labels(output[:, :-1], target[:, :-1]) + self.value(
            output[:, -1], target[:, -1]
        )

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the term of the labels."""
        return F.binary_cross_entropy_with_logits(logits, target)

    def value(self, value: Tensor, target: Tensor) -> Tensor:
        """Return the term of the number."""
        return F.smooth_l1_loss(value, target)


def two_task_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong labels over that of the label 0 for all, and the number's squared error."""
    wrong = ((output[:, :-1] > 0) != (target[:, :-1] > 0.5)) | ~output[:, :-1].isfinite()
    labels = wrong.float().mean() / target[:, :-1].mean()
    return (labels + squared_error(output[:, -1], target[:, -1])) / 2


@base("twoheads-scenes", "trunk with two heads", "scenes", TUNING)
def _(seed: int) -> Program:
    data, model = samples.scenes(seed), models.TwoHeads(24, 6)
    p = Program(model, data, TwoTaskLoss(), two_task_error, 5e-3, AdamW)
    p.steps = 300
    return p


class TemporalDifference(nn.Module):
    """Q-learning: the value of the action is the reward and the best discounted value after it."""

    discount = DISCOUNT

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        now, after = output.chunk(2, 1)
        action, reward, end = target[:, :3].unbind(1)
        goal = self.reward(reward) + self.discount * after.amax(1) * self.goes_on(end)
        return F.smooth_l1_loss(self.chosen(now, action.long()), goal)

    def chosen(self, values: Tensor, action: Tensor) -> Tensor:
        """Return the value of each sample's action."""
        return values.gather(1, action[:, None])[:, 0]

    def goes_on(self, end: Tensor) -> Tensor:
        """Return 0 where the episode ends, else 1."""
        return 1 - end

    def reward(self, reward: Tensor) -> Tensor:
        """Return the rewards that are learned."""
        return reward


def policy_regret(output: Tensor, target: Tensor) -> Tensor:
    """Value that the best-looking action loses, over what a random one loses."""
    best, now = target[:, 3:], output[:, :4]
    lost = best.amax(1) - best.gather(1, now.argmax(1, keepdim=True))[:, 0]
    lost = torch.where(now.isfinite().all(1), lost, torch.inf)
    return lost.mean() / (best.amax(1) - best.mean(1)).mean()


@base("qlearning-grid", "Q-learning", "grid", TUNING)
def _(seed: int) -> Program:
    data, model = samples.grid(seed), models.QNet(12, 4)
    p = Program(model, data, TemporalDifference(), policy_regret, 2e-3, RMSprop)
    p.steps, p.batch_size = 300, 64
    return p
