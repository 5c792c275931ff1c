"""The healthy programs of the fourth part."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from detection.bases import TokenLoss, base, error_rate, squared_error
from detection.case import Split
from detection.fourth_part import models, samples
from detection.fourth_part.samples import BLANK, STREAMS
from detection.program import Program

TUNING = Split.TUNING


def warm_up(optimizer: Optimizer, _: int) -> LRScheduler:
    """Return a linear warm-up of 15 steps."""
    return lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 15)


@base("diffusion-moons", "noise-prediction diffusion", "moons", TUNING)
def _(seed: int) -> Program:
    data, loss = samples.moons(seed), nn.MSELoss()
    p = Program(models.NoisePredictor(), data, loss, squared_error, 3e-3, AdamW)
    p.steps, p.batch_size, p.schedule = 300, 128, warm_up
    return p


class TripletLoss(nn.TripletMarginLoss):
    """The margin loss of the three embeddings of each triplet."""

    def forward(self, output: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(*output.unbind(1))


def triplet_error(output: Tensor, _: Tensor) -> Tensor:
    """Share of triplets whose other glyph is as near as the same one, or nearer."""
    first, same, other = output.unbind(1)
    near, far = ((first - each).norm(dim=1) for each in (same, other))
    return ((near >= far) | ~(near + far).isfinite()).float().mean()


@base("siamese-glyphs", "triplet network", "glyphs", TUNING)
def _(seed: int) -> Program:
    data, loss = samples.glyphs(seed), TripletLoss(margin=0.5)
    p = Program(models.TripletNet(), data, loss, triplet_error, 3e-3, Adam)
    p.steps = 220
    return p


class DetectionLoss(nn.Module):
    """Cross-entropy of the class plus a smooth absolute error of the box."""

    weight = 4.0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        kind = self.kind(output[:, :-4], target[:, 0].long())
        return kind + self.weight * self.box(output[:, -4:], target[:, 1:])

    def kind(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the term of the class."""
        return F.cross_entropy(logits, target)

    def box(self, box: Tensor, target: Tensor) -> Tensor:
        """Return the term of the box."""
        return F.smooth_l1_loss(box, target, beta=0.1)


def detection_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong classes over that of a guess, and the relative error of the box, averaged."""
    kind = error_rate(output[:, :-4], target[:, 0]) / 0.75
    box = ((output[:, -4:] - target[:, 1:]) ** 2).mean() / target[:, 1:].var(0).mean()
    return (kind + box) / 2


@base("detector-boxes", "one-shot detector", "boxes", TUNING)
def _(seed: int) -> Program:
    def momentum(parameters: object, lr: float) -> Optimizer:
        return SGD(parameters, lr, momentum=0.9, weight_decay=1e-4)  # type: ignore[arg-type]

    data = samples.boxes(seed)
    p = Program(models.Detector(4), data, DetectionLoss(), detection_error, 0.02, momentum)
    p.steps = 200
    p.schedule = lambda o, steps: lr_scheduler.MultiStepLR(o, [steps * 7 // 10], 0.2)
    return p


def next_note_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong notes."""
    return error_rate(output, target)


def next_chunk(p: Program, step: int, _: torch.Generator) -> Tensor:
    """Return the rows of the chunk of every melody that follows the last one."""
    first = step * p.batch_size % (len(p.data.x) // p.batch_size * p.batch_size)
    return torch.arange(first, first + p.batch_size)


@base("lstmlm-melodies", "LSTM language model", "melodies", TUNING)
def _(seed: int) -> Program:
    data, model = samples.melodies(seed), models.MelodyModel(16)
    p = Program(model, data, TokenLoss(), next_note_error, 1e-2, Adam)
    p.steps, p.batch_size, p.clip_norm, p.sample = 250, STREAMS, 1.0, next_chunk
    return p


class GaussianLoss(nn.Module):
    """Negative log likelihood of a mean and the logarithm of a variance."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.gaussian_nll_loss(output[:, :1], target, self.variance(output[:, 1:]))

    def variance(self, logarithm: Tensor) -> Tensor:
        """Return the variance."""
        return logarithm.exp()


def ranked_probability_score(output: Tensor, target: Tensor) -> Tensor:
    """Mean score of the predicted distributions over the deviation of the targets.

    0 is a certain and right prediction. Source: Gneiting & Raftery, "Strictly Proper Scoring
    Rules, Prediction, and Estimation", 2007.
    """
    mean, deviation = output[:, :1], (output[:, 1:] / 2).exp()
    z = (target - mean) / deviation
    below, density = torch.special.ndtr(z), torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    score = deviation * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return score.mean() / target.std()


@base("gaussian-wind", "mean and variance MLP", "wind", TUNING)
def _(seed: int) -> Program:
    data, model = samples.wind(seed), models.regressor(8)
    p = Program(model, data, GaussianLoss(), ranked_probability_score, 3e-3, Adam)
    p.steps, p.batch_size = 300, 64
    p.schedule = lambda o, steps: lr_scheduler.CosineAnnealingLR(o, steps, 1e-4)
    return p


def ranking_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of pairs of a click and no click in the wrong order, ties counted as half."""
    score, clicked = output[:, 0], target[:, 0] > 0.5
    gap = score[clicked][:, None] - score[~clicked]
    return torch.where(gap.isfinite(), (1 - gap.sign()) / 2, 0.5).mean()


@base("deepfm-clicks", "factorisation machine and MLP", "clicks", TUNING)
def _(seed: int) -> Program:
    data, loss = samples.clicks(seed), nn.BCEWithLogitsLoss()
    p = Program(models.DeepFM(), data, loss, ranking_error, 1e-2, Adam)
    p.steps, p.batch_size = 400, 128
    return p


class SequenceLoss(nn.Module):
    """Connectionist temporal classification of the symbols of a strip."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        scores = self.scores(output).transpose(0, 1)
        frames = torch.full((len(target),), len(scores), dtype=torch.long)
        return F.ctc_loss(scores, target, frames, self.lengths(target), blank=BLANK)

    def scores(self, output: Tensor) -> Tensor:
        """Return the logarithms of the probabilities."""
        return output.log_softmax(2)

    def lengths(self, target: Tensor) -> Tensor:
        """Return the number of symbols of each strip."""
        return (target != BLANK).sum(1)


def symbol_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of places at which the greedy reading differs, over the longer of both texts."""
    best = torch.where(output.isfinite().all(2), output.argmax(2), BLANK)
    wrong = total = 0
    for row, wanted in zip(best, target, strict=True):
        read = [int(s) for s in row.unique_consecutive() if s != BLANK]
        right = [int(s) for s in wanted if s != BLANK]
        same = sum(a == b for a, b in zip(read, right, strict=False))
        total += max(len(read), len(right))
        wrong += max(len(read), len(right)) - same
    return torch.tensor(wrong / total)


@base("ctc-strips", "CTC recogniser", "strips", TUNING)
def _(seed: int) -> Program:
    data, model = samples.strips(seed), models.Recogniser(5)
    p = Program(model, data, SequenceLoss(), symbol_error, 5e-3, Adam)
    p.steps, p.clip_norm = 160, 5.0
    return p


class PhysicsLoss(nn.Module):
    """Squared error of the equation inside and of the solution on the border."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        border = target[:, 2:]
        return self.inside(output, target, 1 - border) + self.border(output, target, border)

    def inside(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the error of the equation at the points with weight 1."""
        error = output[:, 1:] + target[:, 1:2]
        return (weight * error**2).sum() / weight.sum().clamp_min(1)

    def border(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the error of the solution at the points with weight 1."""
        error = output[:, :1] - target[:, :1]
        return 10 * (weight * error**2).sum() / weight.sum().clamp_min(1)


def solution_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of the solution over its variance."""
    return squared_error(output[:, :1], target[:, :1])


@base("pinn-plate", "physics-informed MLP", "plate", TUNING)
def _(seed: int) -> Program:
    p = Program(models.Field(), samples.plate(seed), PhysicsLoss(), solution_error, 5e-3, Adam)
    p.steps, p.batch_size = 300, 128
    p.schedule = lambda o, steps: lr_scheduler.CosineAnnealingLR(o, steps)
    return p
