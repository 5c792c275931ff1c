"""Generated data sets of the programs of the fourth part. No downloads, no clock.

Every function takes a seed and returns `Data`; inputs are float32, tokens and classes int64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detection.data import generator, split, standard
from detection.program import Data

STREAMS = 20
"""Melodies that are read side by side."""
NUMBERS, FIELDS = 5, (40, 60, 8)
"""Numbers of a view of an advertisement, and the sizes of its categories."""
BLANK = 0


def moons(seed: int, *, points: int = 1000, draws: int = 8) -> Data:
    """Points on two half circles, each with `draws` draws of a time and a noise.

    The input is the noisy point and the time from 0 to 1; the target is the noise.
    """
    g = generator(seed)
    upper = torch.rand(points, generator=g) < 0.5
    angle = math.pi * torch.rand(points, generator=g)
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    clean = torch.stack((standard(x), standard(y)), 1).repeat(draws, 1)
    time, noise = torch.rand(len(clean), 1, generator=g), torch.randn(clean.shape, generator=g)
    return split(torch.cat((noisy(clean, time, noise), time), 1), noise, seed)


def noisy(clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Return the points at `time` of a cosine schedule."""
    angle = time * math.pi / 2
    return angle.cos() * clean + angle.sin() * noise


def glyphs(seed: int, *, classes: int = 12, size: int = 10) -> Data:
    """Triplets of images: a glyph, another image of the same glyph, and one of another glyph.

    Images have a random position, contrast and sign. The targets are the glyphs of the first two.
    """
    g = generator(seed)
    strokes = torch.rand(classes, 5, 5, generator=g) < 0.45
    first = torch.randint(classes, (1800,), generator=g)
    other = (first + torch.randint(1, classes, (1800,), generator=g)) % classes
    shown = torch.stack((first, first, other), 1)
    x = 0.3 * torch.randn(1800, 3, size, size, generator=g)
    row, column = torch.randint(size - 4, (2, 1800, 3, 1, 1), generator=g)
    sign = torch.randint(2, (1800, 3, 1, 1), generator=g) * 2 - 1
    inside = torch.arange(5)
    rows, columns = row + inside[:, None], column + inside
    sample, part = torch.arange(1800)[:, None, None, None], torch.arange(3)[:, None, None]
    contrast = sign * (1 + torch.rand(1800, 3, 1, 1, generator=g))
    x[sample, part, rows, columns] += contrast * (2.0 * strokes[shown] - 0.9)
    return split(x, first, seed)


def boxes(seed: int, *, size: int = 16) -> Data:
    """Images of one shape of four on a noisy background.

    The target is the class and the box: its centre, height and width as shares of the image.
    """
    g = generator(seed)
    count = 1800
    kind = torch.randint(4, (count,), generator=g)
    extent = 5 + 5 * torch.rand(count, 2, generator=g)
    corner = torch.rand(count, 2, generator=g) * (size - extent)
    grid = torch.arange(size) + 0.5
    r = (grid[None, :, None] - corner[:, 0, None, None]) / extent[:, 0, None, None] * 2 - 1
    c = (grid[None, None, :] - corner[:, 1, None, None]) / extent[:, 1, None, None] * 2 - 1
    box = torch.maximum(r.abs(), c.abs())
    frame, cross = (box < 1) & (box > 0.55), (box < 1) & (torch.minimum(r.abs(), c.abs()) < 0.3)
    shapes = torch.stack((box < 1, frame, cross, (r**2 + c**2).expand(box.shape) < 1), 1)
    x = 1.5 * shapes[torch.arange(count), kind] + 0.3 * torch.randn(count, size, size, generator=g)
    y = torch.cat((kind[:, None], (corner + extent / 2) / size, extent / size), 1)
    return split(((x - x.mean()) / x.std())[:, None], y, seed)


def melodies(seed: int, *, notes: int = 16, length: int = 20, chunks: int = 120) -> Data:
    """`STREAMS` melodies in chunks of `length` notes; the target is the next note.

    A note depends on the last two and on the key, which seldom changes. Row c · STREAMS + s is
    chunk c of melody s.
    """
    g = generator(seed)
    total = chunks * length + 1
    step = torch.randint(1, notes, (3, notes), generator=g)
    before, now = torch.randint(notes, (2, STREAMS), generator=g)
    key = torch.randint(3, (STREAMS,), generator=g)
    melody = []
    for _ in range(total):
        changes = torch.rand(STREAMS, generator=g) < 0.01
        key = torch.where(changes, torch.randint(3, (STREAMS,), generator=g), key)
        following = (now + step[key, before]) % notes
        free = torch.rand(STREAMS, generator=g) < 0.15
        following = torch.where(free, torch.randint(notes, (STREAMS,), generator=g), following)
        before, now = now, following
        melody.append(now)
    text = torch.stack(melody, 1)
    x, y = (in_chunks(t, length) for t in (text[:, :-1], text[:, 1:]))
    last = STREAMS * (chunks - 20)
    return Data(x[:last], y[:last], x[last:], y[last:])


def in_chunks(text: Tensor, length: int) -> Tensor:
    """Return (streams, time) as rows of `length`, all streams of a chunk one after another."""
    return text.unflatten(1, (-1, length)).transpose(0, 1).flatten(0, 1)


def wind(seed: int) -> Data:
    """A power that grows with the wind, and whose deviation depends on two other features."""
    g = generator(seed)
    x = torch.randn(2400, 8, generator=g)
    power = torch.sigmoid(2 * x[:, 0] + x[:, 1]) * 3 + 0.5 * torch.sin(2 * x[:, 2]) * x[:, 3]
    deviation = 0.05 + 0.5 * torch.sigmoid(2 * x[:, 4] - 1.5 * x[:, 5])
    y = power + deviation * torch.randn(2400, generator=g)
    return split(x, standard(y)[:, None], seed)


def clicks(seed: int) -> Data:
    """Views of advertisements: numbers, and the codes of a user, an item and a place.

    The target is a click, in about one view of six; it depends on how well user and item match.
    """
    g = generator(seed)
    count = 12_000
    numbers = torch.randn(count, NUMBERS, generator=g)
    codes = torch.stack([torch.randint(n, (count,), generator=g) for n in FIELDS], 1)
    user, item, place = (torch.randn(n, 3, generator=g) for n in FIELDS)
    match = (user[codes[:, 0]] * item[codes[:, 1]]).sum(1)
    score = 1.6 * match + place[codes[:, 2], 0] + numbers[:, 0] - numbers[:, 1] * numbers[:, 2]
    clicked = torch.rand(count, generator=g) < torch.sigmoid(1.5 * score - 5)
    return split(torch.cat((numbers, codes), 1), clicked.float()[:, None], seed)


def strips(seed: int, *, symbols: int = 5, length: int = 32, most: int = 5) -> Data:
    """Images of 8 rows with 2 to `most` symbols from left to right at uneven distances.

    The target is their numbers, 1 to `symbols`, and then `BLANK` up to `most`.
    """
    g = generator(seed)
    shapes = (torch.rand(symbols, 8, 4, generator=generator(7)) < 0.5).float() * 2 - 0.8
    count = 1500
    x = 0.25 * torch.randn(count, 1, 8, length, generator=g)
    number = torch.randint(2, most + 1, (count,), generator=g)
    y = torch.randint(1, symbols + 1, (count, most), generator=g)
    y = y.masked_fill(torch.arange(most) >= number[:, None], BLANK)
    row, start = torch.arange(8), torch.randint(3, (count,), generator=g)
    for i in range(most):
        rows = (y[:, i] != BLANK).nonzero()[:, 0]
        at = start[rows, None] + torch.arange(4)
        x[rows[:, None, None], 0, row[:, None], at[:, None, :]] += shapes[y[rows, i] - 1]
        start = start + 5 + torch.randint(2, (count,), generator=g)
    return split((x - x.mean()) / x.std(), y, seed)


def plate(seed: int) -> Data:
    """Points of a square and its border, for the equation −(u_xx + u_yy) = f.

    The target is the solution u, f, and 1 on the border, where u is given; test points are inside.
    """
    g = generator(seed)
    x = 2 * torch.rand(2400, 2, generator=g) - 1
    side = torch.randint(4, (600,), generator=g)
    edge = torch.arange(600)
    x[edge, side % 2] = (side // 2 * 2 - 1).float()
    amplitude, phase = 0.6 + 0.4 * torch.rand(2, 2, generator=g)
    waves = (amplitude * torch.sin(2 * x + 3 * phase)).sum(1)
    u, f = waves + x[:, 0] * x[:, 1], 4 * waves
    y = torch.stack((u, f, (torch.arange(2400) < 600).float()), 1)
    made = split(x, y, seed)
    inside = made.y_test[:, 2] == 0
    return Data(made.x, made.y, made.x_test[inside], made.y_test[inside])
