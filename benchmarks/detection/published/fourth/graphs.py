"""Small graphs and graph convolutions that programs of this list share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detection import data
from detection.program import Data

NODES, FEATURES, CLASSES = 24, 8, 3


class Convolutions(nn.Module):
    """Graph convolutions after Kipf and Welling; the input holds the features and the edges."""

    def __init__(
        self, layers: int, width: int = 32, *, normalise: bool = True, skip: bool = False
    ) -> None:
        super().__init__()
        self.inputs = nn.Linear(FEATURES, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, CLASSES)
        self.normalise, self.skip = normalise, skip

    def forward(self, x: Tensor) -> Tensor:
        h, edges = self.inputs(x[..., :FEATURES]), x[..., FEATURES:]
        if self.normalise:
            edges = edges / edges.sum(-1, keepdim=True)
        for layer in self.layers:
            new = layer(edges @ h).relu()
            h = h + new if self.skip else new
        return self.head(h).transpose(1, 2)  # type: ignore[no-any-return]


def community(seed: int, count: int = 600, *, noise: float = 1.5) -> Data:
    """Graphs of 24 nodes in three groups with more edges inside; the class of a node is its group.

    The features of a node are those of its group plus noise.
    """
    y = torch.randint(CLASSES, (count, NODES))
    centre = torch.randn(CLASSES, FEATURES)
    x = centre[y] + noise * torch.randn(count, NODES, FEATURES)
    same = y[:, :, None] == y[:, None, :]
    edge = (torch.rand(count, NODES, NODES) < torch.where(same, 0.6, 0.05)).float().triu(1)
    edges: Any = edge + edge.transpose(1, 2) + torch.eye(NODES)
    return data.split(torch.cat([x, edges], 2), y, seed)


def community_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of nodes in the wrong class."""
    return (output.argmax(1) != target).float().mean()
