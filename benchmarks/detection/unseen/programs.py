"""The healthy programs of the held-out part. No rule may be chosen on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from detection.bases import base, error_rate, squared_error
from detection.case import Split
from detection.program import Program
from detection.unseen import models, samples
from detection.unseen.samples import HIDDEN, INTERVALS

HELD_OUT = Split.HELD_OUT
CLAIMS, CHIRPS, QUERIES = "tabresnet-claims", "crnn-chirps", "ranker-queries"
PATIENTS, SOLIDS, PENDULUMS = "hazardnet-patients", "pointnet-solids", "neuralode-pendulums"
RECIPES, SALES, PHOTO = "maskedlm-recipes", "nbeats-sales", "subpixel-photo"


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a cosine schedule that ends with the training."""
    return lr_scheduler.CosineAnnealingLR(optimizer, steps)


class TweedieLoss(nn.Module):
    """Deviance of costs that can be 0, between Poisson (power 1) and Gamma (power 2)."""

    power = 1.5

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        low, high = 1 - self.power, 2 - self.power
        return ((high * output).exp() / high - target * (low * output).exp() / low).mean()


def cost_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of the logarithm of the expected cost over its variance."""
    return squared_error(output, target.log())


@base(CLAIMS, "tabular ResNet", "claims", HELD_OUT)
def _(seed: int) -> Program:
    data, model = samples.claims(seed), models.TabularResNet()
    p = Program(model, data, TweedieLoss(), cost_error, 3e-3, AdamW)
    p.steps, p.batch_size = 300, 128
    return p


def label_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong labels over that of the answer "none", where every label counts."""
    wrong = ((output > 0) != (target > 0.5)) | ~output.isfinite()
    return wrong.float().mean() / target.mean()


@base(CHIRPS, "convolutional recurrent tagger", "chirps", HELD_OUT)
def _(seed: int) -> Program:
    data, loss = samples.chirps(seed), nn.BCEWithLogitsLoss()
    p = Program(models.SoundTagger(), data, loss, label_error, 5e-3, Adam)
    p.steps, p.clip_norm = 150, 5.0
    return p


class ListLoss(nn.Module):
    """Cross-entropy between the softmax of the grades and that of the scores of each list."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        wanted = target.softmax(1)
        return -(wanted * output.log_softmax(1)).sum(1).mean()


def ranking_loss(output: Tensor, target: Tensor) -> Tensor:
    """1 minus the normalised discounted cumulative gain of the first five documents."""
    discount = 1 / torch.arange(2.0, 7.0).log2()
    gain = 2**target - 1
    score = torch.where(output.isfinite().all(1, keepdim=True), output, -target)
    found = gain.gather(1, score.topk(5).indices) @ discount
    best = gain.topk(5).values @ discount
    return 1 - (found / best.clamp_min(1e-9)).mean()


@base(QUERIES, "list ranker", "queries", HELD_OUT)
def _(seed: int) -> Program:
    data, model = samples.queries(seed), models.ListRanker()
    return Program(model, data, ListLoss(), ranking_loss, 5e-3, Adam)


class HazardLoss(nn.Module):
    """Negative log likelihood of the intervals that each patient was observed in."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        last = target[:, :1].long()
        interval = torch.arange(INTERVALS)
        happened = ((interval == last) & (target[:, 1:] > 0.5)).float()
        return self.mean(self.each(output, happened), self.observed(interval, last))

    def each(self, output: Tensor, happened: Tensor) -> Tensor:
        """Return the term of each patient and interval."""
        return F.binary_cross_entropy_with_logits(output, happened, reduction="none")

    def observed(self, interval: Tensor, last: Tensor) -> Tensor:
        """Return 1 for each interval in which the patient was observed."""
        return (interval <= last).float()

    def mean(self, each: Tensor, observed: Tensor) -> Tensor:
        """Return the mean over the patients."""
        return (each * observed).sum(1).mean()


def order_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of pairs of patients in the wrong order, ties counted as half."""
    survival = F.logsigmoid(-output).cumsum(1).exp().sum(1)
    later = target[:, 0][:, None] > target[:, 0]
    gap = (survival[:, None] - survival)[later]
    return torch.where(gap.isfinite(), (1 - gap.sign()) / 2, 0.5).mean()


@base(PATIENTS, "discrete-time survival MLP", "patients", HELD_OUT)
def _(seed: int) -> Program:
    def nesterov(parameters: object, lr: float) -> Optimizer:
        return SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=1e-4)  # type: ignore[arg-type]

    data, model = samples.patients(seed), models.HazardNet()
    p = Program(model, data, HazardLoss(), order_error, 0.05, nesterov)
    p.steps, p.batch_size = 300, 64
    p.schedule = lambda o, steps: lr_scheduler.OneCycleLR(o, 0.05, steps)
    return p


@base(SOLIDS, "PointNet", "solids", HELD_OUT)
def _(seed: int) -> Program:
    data, loss = samples.solids(seed), nn.CrossEntropyLoss(label_smoothing=0.1)
    p = Program(models.PointNet(), data, loss, error_rate, 3e-3, Adam)
    p.steps, p.schedule = 160, lambda o, steps: lr_scheduler.StepLR(o, steps // 3, 0.5)
    return p


@base(PENDULUMS, "neural ODE", "pendulums", HELD_OUT)
def _(seed: int) -> Program:
    data = samples.pendulums(seed)
    p = Program(models.NeuralOde(), data, nn.MSELoss(), squared_error, 1e-2, Adam)
    p.steps, p.schedule = 150, cosine
    return p


class MaskedLoss(nn.Module):
    """Cross-entropy of the masked tokens."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=HIDDEN)


def masked_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of masked tokens that are predicted wrongly."""
    masked = target != HIDDEN
    return error_rate(output[masked], target[masked])


def warm_up_and_decay(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a linear warm-up over a tenth of the steps and a linear decay."""
    warm = steps // 10
    return lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, (steps - t) / (steps - warm))
    )


@base(RECIPES, "masked language model", "recipes", HELD_OUT)
def _(seed: int) -> Program:
    data, model = samples.recipes(seed), models.MaskedModel()
    p = Program(model, data, MaskedLoss(), masked_error, 1e-2, AdamW)
    p.steps, p.batch_size, p.schedule, p.clip_norm = 250, 32, warm_up_and_decay, 1.0
    return p


@base(SALES, "N-BEATS", "sales", HELD_OUT)
def _(seed: int) -> Program:
    data, model = samples.sales(seed), models.Nbeats()
    p = Program(model, data, nn.L1Loss(), squared_error, 2e-3, Adam)
    p.batch_size = 64
    return p


class CharbonnierLoss(nn.Module):
    """A smooth absolute error.

    Source: Lai et al., "Deep Laplacian Pyramid Networks", 2017.
    """

    epsilon = 1e-3

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2 + self.epsilon**2).sqrt().mean()


@base(PHOTO, "sub-pixel super-resolution", "photo", HELD_OUT)
def _(seed: int) -> Program:
    data, model = samples.photo(seed), models.SubPixelNet()
    p = Program(model, data, CharbonnierLoss(), squared_error, 2e-3, RMSprop)
    p.steps, p.batch_size, p.schedule = 200, 16, cosine
    return p
