"""Generated data sets of the programs of the second part. No downloads, no clock.

Every function takes a seed and returns `Data`; inputs are float32, and tokens and classes int64.
"""

from __future__ import annotations

import math

import torch

from detection.data import generator, split, standard
from detection.program import Data

PADDING, UNKNOWN, BEGIN = 0, 1, 1
IGNORED = -100


def textures(seed: int, *, size: int = 12) -> Data:
    """Noisy gratings of random phase; the class, 0 to 4, is the direction of the lines."""
    g = generator(seed)
    y = torch.randint(5, (1500,), generator=g)
    angle = (y * math.pi / 5 + 0.12 * torch.randn(1500, generator=g))[:, None, None]
    speed = 0.9 + 0.7 * torch.rand(1500, 1, 1, generator=g)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    phase = 2 * math.pi * torch.rand(1500, 1, 1, generator=g)
    x = torch.sin(speed * (column * angle.cos() + row * angle.sin()) + phase)
    x = x + 0.75 * torch.randn(x.shape, generator=g)
    return split(((x - x.mean()) / x.std())[:, None], y, seed)


def beats(seed: int, *, length: int = 48) -> Data:
    """Two channels with one beat at a random time; the class, 0 to 3, is the form of the beat.

    The second channel holds the beat two samples later, with the opposite sign for odd classes.
    """
    g = generator(seed)
    y = torch.randint(4, (1500,), generator=g)
    t = torch.arange(length)[None].float()
    time = 10 + (length - 20) * torch.rand(1500, 1, generator=g)
    wide = torch.where(y < 2, 1.2, 2.6)[:, None]
    first = torch.exp(-(((t - time) / wide) ** 2))
    second = torch.exp(-(((t - time - 2) / wide) ** 2)) * (1 - 2 * (y % 2))[:, None]
    drift = torch.sin(0.1 * t + 6.3 * torch.rand(1500, 1, generator=g))
    x = torch.stack((3 * first + drift, 3 * second - drift), 1)
    x = x + 0.8 * torch.randn(x.shape, generator=g)
    return split((x - x.mean()) / x.std(), y, seed)


def grammar(seed: int, *, words: int = 30, length: int = 18) -> Data:
    """Sentences of 6 to 18 words; the tag of a word depends on the words before and after it.

    Words are 2 … `words` − 1; 0 pads the inputs and −100 the tags.
    """
    g = generator(seed)
    x = torch.randint(2, words, (1400, length), generator=g)
    kind = torch.randint(3, (words,), generator=g)[x]
    before, after = torch.roll(kind, 1, 1), torch.roll(kind, -1, 1)
    before[:, 0] = after[:, -1] = 0
    y = (kind + before + 2 * (after == 1)) % 5
    lengths = torch.randint(6, length + 1, (1400,), generator=g)
    padded = torch.arange(length)[None] >= lengths[:, None]
    return split(x.masked_fill(padded, PADDING), y.masked_fill(padded, IGNORED), seed)


def motifs(seed: int, *, tokens: int = 24, length: int = 12) -> Data:
    """Random tokens; the class, 0 to 3, is the one whose two key tokens are both in the text.

    Of every other class there is only one of the two.
    """
    g = generator(seed)
    y = torch.randint(4, (1600,), generator=g)
    x = torch.randint(9, tokens, (1600, length), generator=g)
    places = torch.rand(1600, length, generator=g).argsort(1)[:, :5]
    kept = torch.randint(2, (1600, 4), generator=g)
    rows = torch.arange(1600)
    for k in range(4):
        x[rows, places[:, k]] = 1 + 2 * k + kept[:, k]
    x[rows, places[:, 4]] = 1 + 2 * y + (1 - kept[rows, y])
    return split(x, y, seed)


def purchases(seed: int) -> Data:
    """A table of five numbers and three category codes; the target is 0 or 1, float32.

    The category codes are in the last three columns, with 12, 40 and 6 values.
    """
    g = generator(seed)
    numbers = torch.randn(2400, 5, generator=g)
    codes = torch.stack([torch.randint(n, (2400,), generator=g) for n in (12, 40, 6)], 1)
    effects = [1.5 * torch.randn(n, generator=g) for n in (12, 40, 6)]
    score = sum(effect[codes[:, i]] for i, effect in enumerate(effects))
    score = score + 2 * numbers[:, 0] * effects[2][codes[:, 2]] + numbers[:, 1].abs() - 0.8
    y = (torch.rand(2400, generator=g) < torch.sigmoid(3 * score)).float()
    return split(torch.cat((numbers, codes.float()), 1), y, seed)


def arm(seed: int) -> Data:
    """Four angles of a planar arm, scaled to variance 1; the target is the tip's position.

    One of 50 targets has a large error of measurement, in training alone.
    """
    g = generator(seed)
    x = (torch.rand(2200, 4, generator=g) - 0.5) * math.sqrt(12)
    direction = (0.9 * x).cumsum(1)
    lengths = torch.tensor([1.0, 0.8, 0.6, 0.4])
    y = torch.stack(((lengths * direction.cos()).sum(1), (lengths * direction.sin()).sum(1)), 1)
    made = split(x, (y - y.mean(0)) / y.std(0), seed)
    wrong = torch.rand(len(made.y), 1, generator=g) < 0.02
    noisy = made.y + wrong * 5 * torch.randn(made.y.shape, generator=g)
    return Data(made.x, noisy, made.x_test, made.y_test)


def blobs(seed: int, *, size: int = 16) -> Data:
    """Images of a bright disc and a striped square; a pixel is 0, disc 1 or square 2."""
    g = generator(seed)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = 4 + (size - 8) * torch.rand(900, 2, 2, 1, 1, generator=g)
    r, c = row[None, None] - centre[:, 0], column[None, None] - centre[:, 1]
    disc = r[:, 0] ** 2 + c[:, 0] ** 2 < 3.4**2
    square = (r[:, 1].abs() < 3) & (c[:, 1].abs() < 3)
    y = torch.where(square, 2, torch.where(disc, 1, 0))
    slope = 0.05 * torch.randn(900, 1, 1, generator=g) * row
    x = (
        1.5 * (y == 1)
        + 3.0 * (y == 2) * (column % 2)
        + slope
        + 0.4 * torch.randn(900, size, size, generator=g)
    )
    return split(((x - x.mean()) / x.std())[:, None], y, seed)


def strokes(seed: int, *, size: int = 10) -> Data:
    """Binary images of two straight strokes, flattened; the target is the image itself."""
    g = generator(seed)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = math.pi * torch.rand(1600, 2, 1, 1, generator=g)
    centre = 3 + (size - 7) * torch.rand(1600, 2, 2, 1, 1, generator=g)
    r, c = row - centre[:, :, 0], column - centre[:, :, 1]
    away = (c * angle.sin() - r * angle.cos()).abs() < 0.8
    along = (c * angle.cos() + r * angle.sin()).abs() < 3.5
    x = (away & along).any(1).float().flatten(1)
    return split(x, x.clone(), seed)


def levels(seed: int) -> Data:
    """States of a bandit with seven ordered actions; the target is the best action."""
    g = generator(seed)
    x = torch.randn(2400, 12, generator=g)
    score = standard(torch.tanh(x @ torch.randn(12, 3, generator=g)).sum(1) + 0.5 * x[:, 0])
    return split(x, ((score + 1.75) * 2).long().clamp(0, 6), seed)


def reversals(seed: int, *, tokens: int = 10, length: int = 5) -> Data:
    """Texts and their reversals; the inputs hold the text and the decoder's inputs after it.

    Tokens are 2 … `tokens` − 1; the decoder's first input is 1, then the target shifted by one.
    """
    g = generator(seed)
    text = torch.randint(2, tokens, (1800, length), generator=g)
    y = text.flip(1)
    begin = torch.full((1800, 1), BEGIN)
    return split(torch.cat((text, begin, y[:, :-1]), 1), y, seed)
