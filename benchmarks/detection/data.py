"""Data sets: scikit-learn's digits, and generated ones. No downloads, no clock.

Every function takes a seed and returns `Data` with float32 inputs; classes are int64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detection.program import Data


def digits(seed: int, *, image: bool = False, reconstruct: bool = False) -> Data:
    """Handwritten digits, 8 × 8, standardised as a whole; 10 classes."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.tensor(loaded.data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = x.clone() if reconstruct else torch.tensor(loaded.target)
    return split(x.reshape(-1, 1, 8, 8) if image else x, y, seed)


def friedman(seed: int) -> Data:
    """Friedman's first regression problem: 10 features of which 5 matter; y is standardised."""
    g = generator(seed)
    x = torch.rand(2000, 10, generator=g)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + 0.5 * torch.randn(2000, generator=g)
    return split((x - 0.5) * math.sqrt(12), standard(y)[:, None], seed)


def quadratic(seed: int) -> Data:
    """A random quadratic form of 6 features; y is standardised."""
    g = generator(seed)
    x = torch.randn(2400, 6, generator=g)
    form = torch.randn(6, 6, generator=g)
    y = (x @ form * x).sum(1) + 2 * x @ torch.randn(6, generator=g)
    return split(x, standard(y)[:, None], seed)


def rings(seed: int) -> Data:
    """Points on three noisy rings; the class is the ring."""
    g = generator(seed)
    y = torch.randint(3, (1800,), generator=g)
    angle = 2 * math.pi * torch.rand(1800, generator=g)
    radius = 0.5 + y * 0.7 + 0.1 * torch.randn(1800, generator=g)
    return split(torch.stack((radius * angle.cos(), radius * angle.sin()), 1), y, seed)


def clusters(seed: int, *, classes: int = 5, features: int = 20) -> Data:
    """Gaussian clusters, three for each class, so that no linear model separates them."""
    g = generator(seed)
    centres = 1.6 * torch.randn(3 * classes, features, generator=g)
    cluster = torch.randint(3 * classes, (2400,), generator=g)
    x = centres[cluster] + torch.randn(2400, features, generator=g)
    return split((x - x.mean(0)) / x.std(0), cluster % classes, seed)


def shapes(seed: int) -> Data:
    """Noisy 12 × 12 images of a square, a cross, a bar or a diagonal, at random positions."""
    g = generator(seed)
    y = torch.randint(4, (1600,), generator=g)
    x = 0.4 * torch.randn(1600, 1, 12, 12, generator=g)
    stamps = torch.zeros(4, 5, 5)
    stamps[0, [0, -1], :] = stamps[0, :, [0, -1]] = 1
    stamps[1, 2, :] = stamps[1, :, 2] = 1
    stamps[2, 1:4, :] = 1
    stamps[3] = torch.eye(5)
    corners = torch.randint(8, (1600, 2), generator=g).tolist()
    for image, kind, (row, column) in zip(x, y.tolist(), corners, strict=True):
        image[0, row : row + 5, column : column + 5] += 2 * stamps[kind]
    return split((x - x.mean()) / x.std(), y, seed)


def cue(seed: int, *, length: int = 16) -> Data:
    """Noise with a pulse in the first half; the class is the channel of the pulse, 0 to 3."""
    g = generator(seed)
    y = torch.randint(4, (1600,), generator=g)
    x = 0.5 * torch.randn(1600, length, 4, generator=g)
    rows = torch.arange(1600)
    x[rows, torch.randint(length // 2, (1600,), generator=g), y] += 3
    return split(x, y, seed)


def waves(seed: int, *, length: int = 24) -> Data:
    """Sums of two sines with noise; the target is the next value at every position."""
    g = generator(seed)
    t = torch.arange(length + 1)[None].float()
    speed, phase = torch.rand(1200, 2, 1, generator=g), torch.rand(1200, 2, 1, generator=g)
    y = torch.sin((0.2 + 0.6 * speed) * t[None] + 6.3 * phase).sum(1)
    y = y + 0.05 * torch.randn(y.shape, generator=g)
    return split(y[:, :-1, None], y[:, 1:, None], seed)


def chain(seed: int, *, tokens: int = 16, length: int = 20) -> Data:
    """Tokens of a random Markov chain with few successors; the target is the next token."""
    g = generator(seed)
    successor = torch.randint(tokens, (tokens, 3), generator=g)
    text = torch.zeros(1500, length + 1, dtype=torch.int64)
    text[:, 0] = torch.randint(tokens, (1500,), generator=g)
    choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), text.numel(), True, generator=g)
    choice = choice.reshape(text.shape)
    for i in range(length):
        text[:, i + 1] = successor[text[:, i], choice[:, i]]
    return split(text[:, :-1], text[:, 1:], seed)


def split(x: Tensor, y: Tensor, seed: int) -> Data:
    """Return a random quarter of the samples as the test."""
    order = torch.randperm(len(x), generator=generator(seed + 1))
    test, train = order[: len(x) // 4], order[len(x) // 4 :]
    return Data(x[train], y[train], x[test], y[test])


def standard(y: Tensor) -> Tensor:
    """Return `y` with mean 0 and standard deviation 1."""
    return (y - y.mean()) / y.std()


def generator(seed: int) -> torch.Generator:
    """Return a separate random generator, so the data does not depend on the model's draws."""
    return torch.Generator().manual_seed(seed)
