"""Values that become infinite or NaN, after questions and issues on PyTorch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published
from detection.published.third.losses import wrong_neighbours

NUMERIC = Class.NUMERIC


@published(NUMERIC, "Q10", "PyTorch forum, NaN from the square root in RMSE", "non_finite_value")
def distance_of_a_sample_to_itself(seed: int, repaired: bool) -> Program:
    floor = 1e-12 if repaired else 0.0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        squares = ((output[:, None] - output) ** 2).sum(-1)
        distance = (squares + floor).sqrt()
        same = target[:, None] == target
        return torch.where(same, distance, (2 - distance).clamp_min(0)).mean()

    samples = parts.digits(seed)
    return Program(mlp(64, 64, 16), samples, loss, wrong_neighbours, 1e-3, steps=200, batch_size=64)


class Exposed(nn.Module):
    """A convolutional network on pixels after a learned exposure and the curve of sRGB."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.exposure, self.network = nn.Parameter(torch.ones(1)), parts.cnn()
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        light = self.exposure * x
        base = light.clamp_min(0.0031) if self.safe else light
        curve = torch.where(light > 0.0031, 1.055 * base ** (1 / 2.4) - 0.055, 12.92 * light)
        return self.network(curve)  # type: ignore[no-any-return]


@published(NUMERIC, "Q11", "PyTorch forum, NaN gradient through torch.where", "non_finite_value")
def power_of_zero_behind_where(seed: int, repaired: bool) -> Program:
    model, samples = Exposed(safe=repaired), parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200)


class BatchStandard(nn.Module):
    """Standardise each feature over the batch in training, as handwritten normalisation does."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("deviation", torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            deviation = x.std(0) + 1e-5
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.1)
                self.deviation.lerp_(deviation, 0.1)
            return (x - x.mean(0)) / deviation
        return (x - self.mean) / self.deviation


@published(
    NUMERIC,
    "Q12",
    "PyTorch forum, standard deviation of a last batch with one sample",
    "non_finite_value",
    onset=42,
)
def deviation_of_the_last_sample(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(nn.Linear(64, 64), BatchStandard(), nn.ReLU(), nn.Linear(64, 10))
    samples = parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200)
    program.data = Data(samples.x[:1345], samples.y[:1345], samples.x_test, samples.y_test)
    program.sample = partial(in_epochs, drop_last=repaired)
    return program


def in_epochs(program: Program, step: int, _: torch.Generator, *, drop_last: bool) -> Tensor:
    """Sample a random order of the data set for each pass, in batches of 32."""
    batches = len(program.data.x) / 32
    epoch, at = divmod(step, math.floor(batches) if drop_last else math.ceil(batches))
    generator = data.generator(torch.initial_seed() % 2**31 + epoch)
    order = torch.randperm(len(program.data.x), generator=generator)
    return order[32 * at : 32 * at + 32]


@published(
    NUMERIC,
    "Q13",
    "PyTorch forum, mixture density network: loss becomes NaN",
    "non_finite_value target_not_scaled",
)
def density_that_underflows(seed: int, repaired: bool) -> Program:
    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        share, mean, log_deviation = output.chunk(3, 1)
        normal = torch.distributions.Normal(mean, log_deviation.exp())
        log_density: Tensor = normal.log_prob(target)  # type: ignore[no-untyped-call]
        return -(share.log_softmax(1) + log_density).logsumexp(1).mean()

    def density(output: Tensor, target: Tensor) -> Tensor:
        share, mean, log_deviation = output.chunk(3, 1)
        deviation = log_deviation.exp()
        z = (target - mean) / deviation
        each = (-(z**2) / 2).exp() / (deviation * math.sqrt(2 * math.pi))
        return -(share.softmax(1) * each).sum(1).log().mean()

    y = 30 * (2 * torch.rand(2000, 1) - 1)
    x = y / 30 + 0.3 * torch.sin(0.25 * y) + 0.03 * torch.randn(2000, 1)
    samples, loss = data.split(x, y, seed), likelihood if repaired else density
    return Program(mlp(1, 32, 15), samples, loss, likelihood, 1e-2, Adam, 300, 64)


@published(
    NUMERIC,
    "Q14",
    "PyTorch forum 1765, Adam in half precision gives NaN",
    "non_finite_value adam_epsilon",
)
def epsilon_that_is_zero_in_half_precision(seed: int, repaired: bool) -> Program:
    optimizer = partial(Adam, eps=1e-3 if repaired else 1e-8, foreach=False)
    model, samples = mlp(64, 64, 10).half(), parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, optimizer, 150)
    program.forward = lambda model, x: model(x.half()).float()
    return program


@published(
    NUMERIC,
    "Q15",
    "PyTorch forum, mean over an empty mask",
    "non_finite_value no_supervision",
)
def mean_of_the_errors_of_no_object(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        labels, place = target[:, 0], target[:, 1:]
        there = (labels > 0.5).float()
        of_labels = functional.binary_cross_entropy_with_logits(output[:, 0], labels)
        squares = ((output[:, 1:] - place) ** 2).sum(1) * there
        number = there.sum().clamp_min(1) if repaired else there.sum()
        return of_labels + squares.sum() / number

    x = torch.randn(1600, 8)
    there = (x[:, :1] + x[:, 1:2] > 1.6).float()
    y = torch.cat([there, torch.tanh(x[:, 2:4] + x[:, 4:6])], 1)
    return Program(mlp(8, 64, 3), data.split(x, y, seed), loss, place_error, 3e-3, Adam, 400, 16)


def place_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the places of the objects that are there."""
    return ((output[:, 1:] - target[:, 1:]) ** 2)[target[:, 0] > 0.5].mean()


@published(
    NUMERIC, "Q16", "pytorch/pytorch#8069, papagina/RotationContinuity#11", "non_finite_value"
)
def angle_between_equal_directions(seed: int, repaired: bool) -> Program:
    limit = 1 - 1e-6 if repaired else 1.0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        cosine = (functional.normalize(output, dim=1) * target).sum(1)
        return cosine.clamp(-limit, limit).acos().mean()

    x = torch.randn(1500, 3)
    samples = data.split(x, functional.normalize(x @ rotation(), dim=1), seed)
    return Program(nn.Linear(3, 3), samples, loss, misdirection, 1e-2, steps=300)


def rotation() -> Tensor:
    """Return a random orthogonal 3 × 3 matrix."""
    return nn.init.orthogonal_(torch.empty(3, 3))


def misdirection(output: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine between output and target."""
    return 1 - functional.cosine_similarity(output, target).mean()


class Masked(nn.Module):
    """Attention over the words of a sequence, whose padding is 0, and a mean over the words."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 32), nn.Linear(32, 3)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        padding = x == 0
        words = self.embedding(x)
        keys = padding & ~padding.all(1, keepdim=True) if self.safe else padding
        mixed: Any = self.attention(words, words, words, key_padding_mask=keys)[0]
        mixed = mixed.masked_fill(padding[:, :, None], 0)
        return self.head((words + mixed).mean(1))  # type: ignore[no-any-return]


@published(NUMERIC, "Q17", "pytorch/pytorch#41508, #40932", "non_finite_value")
def attention_over_an_empty_text(seed: int, repaired: bool) -> Program:
    x = torch.randint(1, 20, (1600, 10))
    y = functional.one_hot(x % 3, 3).sum(1).argmax(1)
    samples = data.split(x * (torch.arange(10) < torch.randint(6, 11, (1600, 1))), y, seed)
    train = samples.x.clone()
    train[::50] = 0
    samples = Data(train, samples.y, samples.x_test, samples.y_test)
    model = Masked(safe=repaired)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, steps=200)
