"""Losses that do not fit their task, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

LOSS = Class.LOSS


@published(
    LOSS,
    "Q01",
    "PyTorch forum, class weights from the counts and not their inverse",
    "class_imbalance class_collapse loss_task_mismatch",
)
def frequent_classes_weighted_most(seed: int, repaired: bool) -> Program:
    shares = [0.7, 0.2, 0.1]
    samples = parts.classification(
        seed, 20, 8, n_samples=3000, n_classes=3, n_clusters_per_class=1, class_sep=0.5,
        weights=shares,
    )  # fmt: skip
    counts = samples.y.bincount().float()
    weight = counts.sum() / counts if repaired else counts / counts.sum()
    loss, metric = CrossEntropy(weight / weight.sum()), parts.balanced_error
    return Program(mlp(20, 32, 3), samples, loss, metric, 3e-3, steps=300, batch_size=64)


@published(
    LOSS,
    "Q02",
    "sebastian-hofstaetter/matchmaker#18, pytorch/pytorch#60928",
    "output_range_mismatch loss_task_mismatch",
)
def divergence_of_probabilities_without_the_logarithm(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 16)
    scores = torch.tanh(x @ torch.randn(16, 24) / 4) @ torch.randn(24, 6)
    samples = data.split(x, scores.softmax(1), seed)
    loss = divergence if repaired else divergence_of_probabilities
    return Program(mlp(16, 64, 6), samples, loss, divergence, 3e-3, steps=300, batch_size=64)


def divergence(output: Tensor, target: Tensor) -> Tensor:
    """Return the divergence of the softmax of `output` from `target`."""
    return functional.kl_div(output.log_softmax(1), target, reduction="batchmean")


def divergence_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    """Pass probabilities to the loss that expects their logarithms."""
    return functional.kl_div(output.softmax(1), target, reduction="batchmean")


@published(
    LOSS,
    "Q03",
    "PyTorch forum, CosineEmbeddingLoss with targets 0 and 1",
    "loss_task_mismatch no_supervision trivial_target",
)
def zero_for_pairs_that_differ(seed: int, repaired: bool) -> Program:
    other = -1.0 if repaired else 0.0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        same = torch.where(target == target.roll(1), 1.0, other)
        return functional.cosine_embedding_loss(output, output.roll(1, 0), same, margin=0.2)

    samples = parts.digits(seed)
    return Program(mlp(64, 64, 16), samples, loss, wrong_neighbours, 1e-3, steps=300, batch_size=64)


def wrong_neighbours(output: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose most similar other sample has another class."""
    unit = functional.normalize(output, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2)
    return (target[similarity.argmax(1)] != target).float().mean()


class Spots(nn.Module):
    """Two convolutions and one output per pixel."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 1)
        nn.init.constant_(self.head.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv1(self.conv0(x).relu()).relu())  # type: ignore[no-any-return]


def spots(seed: int, size: int = 3) -> Data:
    """Return noisy 16 × 16 images with one bright square each, and the masks of the squares."""
    masks = torch.zeros(900, 1, 16, 16)
    corners = torch.randint(1, 15 - size, (900, 2)).tolist()
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[0, row : row + size, column : column + size] = 1
    return data.split(masks + 0.5 * torch.randn(masks.shape), masks, seed)


def overlap_missed(output: Tensor, target: Tensor) -> Tensor:
    """One minus the intersection over the union of the positive logits and the masks."""
    found, mask = output > 0, target > 0.5
    return 1 - (found & mask).sum() / (found | mask).sum().clamp_min(1)


@published(
    LOSS, "Q04", "ScrollPrize/villa#1488", "output_range_mismatch loss_task_mismatch loss_spike"
)
def dice_of_logits(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        share = output.sigmoid() if repaired else output
        dice = (2 * (share * target).sum() + 1e-5) / ((share + target).sum() + 1e-5)
        return functional.binary_cross_entropy_with_logits(output, target) - dice + 1

    return Program(Spots(), spots(seed, 5), loss, overlap_missed, 1e-3, Adam, 150, 16)


@published(
    LOSS,
    "Q05",
    "PyTorch forum, log_softmax over the batch",
    "loss_task_mismatch softmax_before_cross_entropy loss_plateau",
)
def log_softmax_over_the_batch(seed: int, repaired: bool) -> Program:
    dim = 1 if repaired else 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.nll_loss(output, target)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).log_softmax(dim)  # type: ignore[no-any-return]

    x = torch.randn(2400, 12)
    y = (x @ torch.randn(12, 6) + torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0, -2.0])).argmax(1)
    samples = data.split(x, y, seed)
    program = Program(mlp(12, 64, 6), samples, loss, likelihood, 3e-3, steps=300, batch_size=16)
    program.forward = forward
    return program


def likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the outputs after a softmax over the classes."""
    return functional.cross_entropy(output, target)


class Variational(nn.Module):
    """Digits through eight Gaussian variables; returns the image, the means and log variances."""

    def __init__(self, *, differentiable: bool = True) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 64, 16), mlp(8, 64, 64)
        self.differentiable = differentiable

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        if not self.training:
            return self.decoder(mean), mean, log_variance
        normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
        code = normal.rsample() if self.differentiable else normal.sample()  # type: ignore[no-untyped-call]
        return self.decoder(code), mean, log_variance


def kl_of(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence from N(0, 1), summed over the variables, for each sample."""
    return (mean**2 + log_variance.exp() - log_variance - 1).sum(1) / 2


def error_of_the_image(output: Any, target: Tensor) -> Tensor:
    """Squared error of the image over the variance within a pixel."""
    return ((output[0] - target) ** 2).mean() / target.var(0).mean()  # type: ignore[no-any-return]


def images(seed: int) -> Data:
    """Return digits that are their own targets."""
    x = parts.digits(seed).x
    return data.split(x, x, seed)


@published(
    LOSS,
    "Q06",
    "PyTorch forum, VAE: mean of the pixels plus sum of the divergences",
    "over_regularised loss_task_mismatch loss_plateau",
)
def divergence_outweighs_the_image(seed: int, repaired: bool) -> Program:
    def loss(output: Any, target: Tensor) -> Tensor:
        image, mean, log_variance = output
        squares = (image - target) ** 2
        if repaired:
            return 10 * squares.sum(1).mean() + kl_of(mean, log_variance).mean()  # type: ignore[no-any-return]
        return squares.mean() + kl_of(mean, log_variance).sum()  # type: ignore[no-any-return]

    return Program(Variational(), images(seed), loss, error_of_the_image, 2e-3, Adam, 400, 64)


@published(
    LOSS,
    "Q07",
    "PyTorch forum, padding counted in the loss of a tagger",
    "loss_task_mismatch class_imbalance class_collapse",
)
def mean_over_mostly_padding(seed: int, repaired: bool) -> Program:
    x, y = padded(seed)
    loss = CrossEntropy(ignore_index=0 if repaired else -100)
    program = Program(Tagger(), data.split(x, y, seed), loss, error_of_tags, 1e-2, steps=80)
    program.forward = lambda model, x: model(x).transpose(1, 2)
    program.batch_size = 16
    return program


def padded(seed: int) -> tuple[Tensor, Tensor]:
    """Return 1200 sequences of 2 to 4 words that are padded to 40 with 0, and their tags.

    The tag is the sum of a word and the one before modulo 5, plus 1.
    """
    g = data.generator(seed)
    words = torch.randint(1, 21, (1200, 40), generator=g)
    length = torch.randint(2, 5, (1200, 1), generator=g)
    inside = torch.arange(40) < length
    x = words * inside
    before = torch.cat([torch.zeros(1200, 1, dtype=torch.long), x[:, :-1]], 1)
    return x, ((x + before) % 5 + 1) * inside


class Tagger(nn.Module):
    """An LSTM with one output per tag and position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(21, 24)
        self.rnn, self.head = nn.LSTM(24, 32, batch_first=True), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(x))[0])  # type: ignore[no-any-return]


def error_of_tags(output: Tensor, target: Tensor) -> Tensor:
    """Error rate of the positions that are no padding."""
    return (output.argmax(1) != target)[target > 0].float().mean()


@published(
    LOSS,
    "Q08",
    "PyTorch forum, gaussian_nll_loss with mean and variance exchanged",
    "loss_task_mismatch output_range_mismatch loss_plateau",
)
def mean_and_variance_exchanged(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, spread = output[:, :1], functional.softplus(output[:, 1:])
        if repaired:
            return functional.gaussian_nll_loss(mean, target, spread)
        return functional.gaussian_nll_loss(spread, target, mean.clamp_min(1e-3))

    def metric(output: Tensor, target: Tensor) -> Tensor:
        return squared_error(output[:, :1], target)

    model = mlp(10, 64, 64, 2)
    return Program(model, data.friedman(seed), loss, metric, 3e-3, steps=300, batch_size=64)
