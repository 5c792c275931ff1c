"""Generated data sets of the third part. No downloads, no clock.

Every function takes a seed and returns `Data`; inputs are float32, and tokens and classes int64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detection.data import generator, split, standard
from detection.program import Data

IGNORED = -100
PLUS, EQUALS, SEMICOLON = 10, 11, 12
DISCOUNT = 0.85


def standard_images(x: Tensor) -> Tensor:
    """Return (samples, rows, columns) standardised as a whole, with a channel."""
    return ((x - x.mean()) / x.std())[:, None]


def bump(size: int, centre: Tensor, width: Tensor | float) -> Tensor:
    """Return Gaussian bumps of height 1, shape (samples, size, size); `centre` is (samples, 2)."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    r, c = row - centre[:, 0, None, None], column - centre[:, 1, None, None]
    return torch.exp(-(r**2 + c**2) / width)


def marks(seed: int, *, size: int = 12) -> Data:
    """Noisy images of a bright and a dark mark; the class is the direction from one to the other.

    0 is right, 1 left, 2 below and 3 above.
    """
    g = generator(seed)
    centres = torch.randint(1, size - 1, (9000, 2, 2), generator=g)
    down, right = (centres[:, 1] - centres[:, 0]).unbind(1)
    clear = ((down.abs() - right.abs()).abs() >= 3).nonzero()[:1800, 0]
    centres, down, right = centres[clear], down[clear], right[clear]
    y = torch.where(right.abs() > down.abs(), (right < 0).long(), 2 + (down < 0).long())
    x = bump(size, centres[:, 0], 1.5) - bump(size, centres[:, 1], 1.5)
    x = 3 * x + 0.4 * torch.randn(x.shape, generator=g)
    return split(standard_images(x), y, seed)


def spots(seed: int, *, size: int = 16) -> Data:
    """Images of 0 to 8 bright spots and some dark ones; the target is the number of bright ones."""
    g = generator(seed)
    y = torch.randint(9, (1500,), generator=g)
    x = 0.3 * torch.randn(1500, size, size, generator=g)
    for i in range(8):
        centre = 1 + (size - 3) * torch.rand(1500, 2, generator=g)
        width = 0.8 + 1.2 * torch.rand(1500, 1, 1, generator=g)
        x = x + 2 * bump(size, centre, width) * (y > i)[:, None, None]
    for _ in range(2):
        x = x - 2 * bump(size, 1 + (size - 3) * torch.rand(1500, 2, generator=g), 1.5)
    return split(standard_images(x), y.float()[:, None], seed)


def thresholds(seed: int, *, length: int = 40) -> Data:
    """Series of a threshold autoregression; the target is the next value at every position.

    The noise grows with the distance of the value before from 0, so the quantiles differ.
    """
    g = generator(seed)
    before, now = torch.randn(2, 1200, generator=g)
    values = []
    for _ in range(length + 21):
        slope = torch.where(before > 0, 1.5 * now - 0.9 * before, 0.6 * now - 0.5 * before + 0.8)
        noise = (0.1 + 0.4 * torch.tanh(now.abs())) * torch.randn(1200, generator=g)
        before, now = now, slope.clamp(-6, 6) + noise
        values.append(now)
    series = standard(torch.stack(values[20:], 1))[:, None]
    return split(series[..., :-1], series[..., 1:], seed)


def communities(seed: int, *, nodes: int = 20, features: int = 8) -> Data:
    """Random graphs of three communities; the class of a node is its community.

    The inputs have shape (graphs, nodes, nodes + features): the adjacency, then the features. One
    node's features are too noisy; the mean over its neighbours is not.
    """
    g = generator(seed)
    y = torch.randint(3, (1000, nodes), generator=g)
    same = y[:, :, None] == y[:, None, :]
    draws = torch.rand(1000, nodes, nodes, generator=g).triu(1)
    draws = draws + draws.transpose(1, 2) + 2 * torch.eye(nodes)
    edges = (draws < torch.where(same, 0.6, 0.06)).float()
    means = torch.randn(3, features, generator=g)
    x = 0.7 * means[y] + 1.6 * torch.randn(1000, nodes, features, generator=g)
    return split(torch.cat((edges, x), 2), y, seed)


def pairs(seed: int) -> Data:
    """Queries of 16 numbers and their items of 20, both made from the same 6 hidden numbers.

    The inputs hold the query and then the item; the target is the number of the pair.
    """
    g = generator(seed)
    hidden = torch.randn(2400, 6, generator=g)
    query = torch.tanh(hidden @ torch.randn(6, 16, generator=g))
    item = (hidden @ torch.randn(6, 20, generator=g)).abs()
    x = torch.cat((query, item), 1)
    x = (x - x.mean(0)) / x.std(0) + 0.1 * torch.randn(x.shape, generator=g)
    return split(x, torch.arange(2400), seed)


def patterns(seed: int, *, size: int = 16) -> Data:
    """Noisy images of two waves and an edge; the target is the image without the noise."""
    g = generator(seed)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    speed = 0.8 * (torch.rand(900, 2, 2, 1, 1, generator=g) - 0.5)
    phase = 2 * math.pi * torch.rand(900, 2, 1, 1, generator=g)
    waves = torch.sin(speed[:, 0] * row + speed[:, 1] * column + phase).sum(1)
    edge = torch.randint(3, size - 3, (900, 1, 1), generator=g)
    clean = standard_images(waves + 1.5 * (column > edge))
    return split(clean + 0.8 * torch.randn(clean.shape, generator=g), clean, seed)


def sums(seed: int, *, digits: int = 8, count: int = 3) -> Data:
    """Texts of sums such as 3+6=09;5+1=06; and the next token; only the results are targets."""
    g = generator(seed)
    a, b = torch.randint(digits, (2, 1500, count), generator=g)
    c = a + b
    columns = (a, torch.full_like(a, PLUS), b, torch.full_like(a, EQUALS), c // 10, c % 10)
    text = torch.stack((*columns, torch.full_like(a, SEMICOLON)), 2).flatten(1)
    results = torch.tensor([0, 0, 0, 0, 1, 1, 0], dtype=torch.bool).repeat(count)
    y = text.masked_fill(~results, IGNORED)
    return split(text[:, :-1], y[:, 1:], seed)


def scenes(seed: int) -> Data:
    """24 features; the targets are six labels, 0 or 1, and a number of variance 1."""
    g = generator(seed)
    hidden = torch.randn(2200, 5, generator=g)
    x = torch.tanh(hidden @ torch.randn(5, 24, generator=g))
    x = (x - x.mean(0)) / x.std(0) + 0.1 * torch.randn(2200, 24, generator=g)
    scores = hidden @ torch.randn(5, 6, generator=g) + (hidden**2) @ torch.randn(5, 6, generator=g)
    labels = (scores > scores.quantile(0.7, dim=0)).float()
    value = standard(hidden[:, 0] * hidden[:, 1] + hidden[:, 2].abs())
    return split(x, torch.cat((labels, value[:, None]), 1), seed)


def grid(seed: int, *, size: int = 6) -> Data:
    """Random moves in a grid with a goal and two pits.

    The inputs hold the state and the next one, each as a one-hot row and column. The targets hold
    the action, the reward, 1 at the end of an episode, and the best values of the four actions,
    which only the metric reads.
    """
    g = generator(seed)
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    goal, pits = (size - 1, size - 2), ((2, 2), (1, 4))
    reward, end = torch.zeros(size, size), torch.zeros(size, size)
    reward[goal], end[goal] = 1.0, 1.0
    for pit in pits:
        reward[pit], end[pit] = -1.0, 1.0
    cells = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    after = (cells[:, None] + moves).clamp(0, size - 1)
    r, c = after.unbind(2)
    best = torch.zeros(size, size, 4)
    for _ in range(60):
        value = best.amax(2)[r, c] * (1 - end[r, c])
        best = (reward[r, c] + DISCOUNT * value).reshape(size, size, 4)
    starts = (end.flatten() == 0).nonzero()[:, 0]
    state = starts[torch.randint(len(starts), (3000,), generator=g)]
    action = torch.randint(4, (3000,), generator=g)
    to = after[state, action]

    def coded(cell: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(cell, size).flatten(1).float()

    x = torch.cat((coded(cells[state]), coded(to)), 1)
    row, column = to.unbind(1)
    seen = torch.stack((action.float(), reward[row, column], end[row, column]), 1)
    return split(x, torch.cat((seen, best.flatten(0, 1)[state]), 1), seed)
