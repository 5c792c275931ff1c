"""The data sets of the unseen programs: generated, and one photograph of scikit-learn.

Each function returns `Data` whose test samples have no noise where a true value exists.
"""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from detection.program import Data

HIDDEN = -100
"""The target of a position that is not masked, which the loss ignores."""
CUISINES, WORDS, MASK = 2, 14, 16
"""Tokens 0 and 1 name the cuisine, 2 to 15 are words and 16 is the mask."""
INTERVALS = 8


def _split(x: Tensor, y: Tensor, test: int) -> Data:
    return Data(x[:-test], y[:-test], x[-test:], y[-test:])


def claims(seed: int) -> Data:
    """Costs of 2,400 insurance policies, an eighth of them 0; the test targets are the true means.

    The number of claims is Poisson and the cost of a claim Gamma distributed.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2400, 12, generator=g)
    age, power, region, use = x[:, 0], x[:, 1], x[:, 2], x[:, 3]
    log_mean = 0.3 + 0.8 * age.square().clamp_max(3) - 0.7 * power + 0.6 * region * use
    mean = log_mean.clamp(-3, 3).exp()
    number = torch.poisson(1.5 * mean.sqrt(), generator=g)
    shape = number.clamp_min(1) * 2
    cost = torch.zeros(2400)
    for part in range(60):  # a Gamma variable of an even shape is a sum of exponential ones
        drawn = -torch.rand(2400, generator=g).clamp_min(1e-6).log()
        cost += drawn * (shape > part)
    y = torch.where(number > 0, cost / 3 * mean.sqrt(), 0.0)
    return Data(x[:2000], y[:2000, None], x[2000:], mean[2000:, None])


def chirps(seed: int) -> Data:
    """1,200 spectrograms of 24 bands and 32 frames with up to five kinds of sounds."""
    g = torch.Generator().manual_seed(seed)
    n, bands, frames = 1200, 24, 32
    y = (torch.rand(n, 5, generator=g) < 0.35).float()
    band, frame = torch.arange(bands).float()[:, None], torch.arange(frames).float()
    start = torch.randint(0, 16, (n, 5, 1, 1), generator=g).float()
    low = torch.randint(2, 8, (n, 5, 1, 1), generator=g).float()
    since = frame - start
    active = ((since >= 0) & (since < 14)).float()
    rising, falling = low + since, low + 14 - since
    steady = torch.stack([low[:, i] + 0 * since[:, i] for i in range(5)], 1)
    tones = [
        _ridge(band, rising[:, 0]) * active[:, 0],
        _ridge(band, falling[:, 1]) * active[:, 1],
        _ridge(band, steady[:, 2] + 8) * active[:, 2],
        ((since[:, 3] >= 0) & (since[:, 3] < 3)).float().expand(n, bands, frames),
        sum(_ridge(band, steady[:, 4] * k) for k in (1, 2, 3)) * active[:, 4],
    ]
    power = sum(tone * y[:, i, None, None] for i, tone in enumerate(tones))
    x = power + 0.25 * torch.randn(n, bands, frames, generator=g)
    x = (x - x.mean()) / x.std()
    return _split(x[:, None], y, 300)


def _ridge(band: Tensor, centre: Tensor) -> Tensor:
    return torch.exp(-((band - centre) ** 2) / 1.5)


def queries(seed: int) -> Data:
    """900 lists of 12 documents with 10 features; the grades 0 to 4 depend on the whole list."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(900, 12, 10, generator=g)
    x = x + torch.randn(900, 1, 10, generator=g)
    weight = torch.randn(4, generator=g).sign() * torch.tensor([1.0, 0.8, 0.6, 0.5])
    relative = x - x.mean(1, keepdim=True)
    value = relative[..., :4] @ weight + 0.7 * relative[..., 4] * relative[..., 5]
    value = value + 0.2 * torch.randn(900, 12, generator=g)
    grade = torch.bucketize(value, torch.tensor([-0.5, 0.5, 1.3, 2.2])).float()
    return _split(x, grade, 200)


def patients(seed: int) -> Data:
    """Times of 2,000 patients in 8 intervals; the columns are the interval and whether it ended.

    A quarter of the training patients leave the study before the event. No test patient does, and
    the time of a test patient is the median for the features.
    """
    g = torch.Generator().manual_seed(seed)
    n = 2000
    x = torch.randn(n, 9, generator=g)
    risk = 1.4 * x[:, 0] - 1.1 * x[:, 1] + 0.9 * x[:, 2] * x[:, 3] + 0.7 * x[:, 4].abs()
    uniform = torch.rand(n, generator=g).clamp_min(1e-6)
    uniform[-400:] = 0.5
    time = (3.0 * (-uniform.log() / risk.exp()) ** 0.5).clamp_max(INTERVALS - 0.01)
    leaves = INTERVALS * 1.5 * torch.rand(n, generator=g)
    leaves[-400:] = INTERVALS
    y = torch.stack((torch.minimum(time, leaves).floor(), (time <= leaves).float()), 1)
    return _split(x, y, 400)


def solids(seed: int) -> Data:
    """1,000 clouds of 48 points on a sphere, cube, cylinder, cone or ring, turned about z."""
    g = torch.Generator().manual_seed(seed)
    n, points = 1000, 48
    y = torch.randint(5, (n,), generator=g)
    a, b = (torch.rand(n, points, generator=g) for _ in range(2))
    turn = 2 * math.pi * a
    normal = F.normalize(torch.randn(n, points, 3, generator=g), dim=2)
    cube = normal / normal.abs().amax(2, keepdim=True) * 0.8
    cylinder = torch.stack((0.7 * turn.cos(), 0.7 * turn.sin(), 2 * b - 1), 2)
    wide = 1 - b
    cone = torch.stack((wide * turn.cos(), wide * turn.sin(), 2 * b - 1), 2)
    tube = 0.8 + 0.25 * (2 * math.pi * b).cos()
    ring = torch.stack((tube * turn.cos(), tube * turn.sin(), 0.25 * (2 * math.pi * b).sin()), 2)
    x = torch.stack((normal, cube, cylinder, cone, ring), 1)[torch.arange(n), y]
    angle = 2 * math.pi * torch.rand(n, generator=g)
    zero, one = torch.zeros(n), torch.ones(n)
    rows = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one]
    x = x @ torch.stack(rows, 1).view(n, 3, 3)
    x = x * (0.8 + 0.4 * torch.rand(n, 1, 1, generator=g))
    return _split(x + 0.12 * torch.randn(n, points, 3, generator=g), y, 250)


def pendulums(seed: int) -> Data:
    """First states (angle, speed) of 600 damped pendulums and their states at 8 later times."""
    g = torch.Generator().manual_seed(seed)
    x = (0.8 * torch.randn(600, 2, generator=g)).clamp(-1.5, 1.5)
    state, states, part = x, [], 0.02
    for _ in range(8):
        for _ in range(15):
            speed = state[:, 1] + part * (-2.0 * state[:, 0].sin() - 0.3 * state[:, 1])
            state = torch.stack((state[:, 0] + part * speed, speed), 1)
        states.append(state)
    y = torch.stack(states, 1)
    noise = 0.03 * torch.randn(y.shape, generator=g)
    noise[-150:] = 0
    return _split(x, y + noise, 150)


def recipes(seed: int) -> Data:
    """1,500 texts of 12 tokens, a fifth of them masked.

    The first token names the cuisine; each cuisine has one word that follows each word.
    """
    g = torch.Generator().manual_seed(seed)
    follows = torch.stack([torch.randperm(WORDS, generator=g) for _ in range(CUISINES)])
    cuisine = torch.randint(CUISINES, (1500,), generator=g)
    words = [torch.randint(WORDS, (1500,), generator=g)]
    for _ in range(10):
        words.append(follows[cuisine, words[-1]])
    text = torch.stack((cuisine, *(word + CUISINES for word in words)), 1)
    masked = torch.rand(text.shape, generator=g) < 0.2
    masked[:, :2] = False
    return _split(text.masked_fill(masked, MASK), text.masked_fill(~masked, HIDDEN), 300)


def sales(seed: int) -> Data:
    """24 past and 6 future values of 1,500 series with a trend and a season of 8, standardised."""
    g = torch.Generator().manual_seed(seed)
    n, time = 1500, torch.arange(30).float()
    trend = 0.06 * torch.randn(n, 1, generator=g) * (time - 12)
    phase = 2 * math.pi * torch.rand(n, 1, generator=g)
    size = 0.4 + torch.rand(n, 1, generator=g)
    season = size * (2 * math.pi * time / 8 + phase).sin()
    double = 0.5 * size * (4 * math.pi * time / 8 + 2 * phase).sin()
    series = trend + season + double + 0.15 * torch.randn(n, 30, generator=g)
    series = series / series.std()
    return _split(series[:, :24], series[:, 24:], 300)


def photo(seed: int) -> Data:
    """1,200 patches of 16×16 of a photograph in grey, and the same at half the resolution."""
    g = torch.Generator().manual_seed(seed)
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).float().mean(2) / 255
    image = (image - image.mean()) / image.std()
    rows = torch.randint(image.shape[0] - 16, (1200,), generator=g).tolist()
    columns = torch.randint(image.shape[1] - 16, (1200,), generator=g).tolist()
    large = torch.stack(
        [image[r : r + 16, c : c + 16] for r, c in zip(rows, columns, strict=True)]
    )[:, None]
    return _split(F.avg_pool2d(large, 2), large, 300)
