"""How an output is divided into samples, channels and positions.

In images (samples, channels, …) a unit is a channel at a position, so that S is across samples; in
sequences (…, units) every token is a sample. Of large outputs, samples and positions are taken at
even distances; units are never left out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

ENTRIES_MAX: Final = 65_536
IMAGES_MAX: Final = 64
"""Maximum number of samples of an image-like output."""
TOKENS_MIN: Final = 16
_CHANNELS_FIRST_3D: Final = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)


class Shape(NamedTuple):
    """The entries that are measured, in units of entries: the order of the kernel's struct."""

    entries: int
    """Of the whole output."""
    samples: int
    channels: int
    positions: int
    sample_stride: int
    channel_stride: int
    position_stride: int
    start: int


def shape_of(tensor: Tensor, module: nn.Module, offset: int) -> Shape:
    """Return the entries of a dense `tensor` to measure; `offset` moves the ones left out."""
    sizes = tensor.shape
    if not sizes:
        return Shape(1, 1, 1, 1, 1, 1, 1, 0)
    entries = tensor.numel()
    if entries and (
        len(sizes) >= 4 or (len(sizes) == 3 and isinstance(module, _CHANNELS_FIRST_3D))
    ):
        samples, channels = sizes[0], sizes[1]
        positions = entries // (samples * channels)
        last = tensor.dim() == 4 and not tensor.is_contiguous()  # channels_last
        by_channel, by_position = (1, channels) if last else (positions, 1)
        every, start = _even(samples, IMAGES_MAX, offset)
        kept = -(-(samples - start) // every)
        step, begin = _even(positions, max(1, ENTRIES_MAX // (kept * channels)), offset)
        return Shape(
            entries,
            kept,
            channels,
            -(-(positions - begin) // step),
            every * channels * positions,
            by_channel,
            by_position * step,
            start * channels * positions + begin * by_position,
        )
    units = sizes[-1]
    samples = entries // units if units else 0
    every, start = _even(samples, max(TOKENS_MIN, ENTRIES_MAX // max(1, units)), offset)
    kept = -(-(samples - start) // every)
    return Shape(entries, kept, units, 1, every * units, 1, 1, start * units)


def _even(count: int, most: int, offset: int) -> tuple[int, int]:
    """Return the distance between the kept ones, and the first."""
    every = max(1, -(-count // most))
    return every, offset % every


def taken(tensor: Tensor, shape: Shape) -> Tensor:
    """Return the entries as a view (samples, channels, positions)."""
    return torch.as_strided(
        tensor,
        (shape.samples, shape.channels, shape.positions),
        (shape.sample_stride, shape.channel_stride, shape.position_stride),
        tensor.storage_offset() + shape.start,
    )
