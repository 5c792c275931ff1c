"""The architectures of the third part, with the names that users give.

Shapes are (samples, …); images and series have the channels first.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MixerBlock(nn.Module):
    """A mixing of the patches and one of the channels, each with LayerNorm and a skip."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches = mixing(patches, 2 * patches)
        self.channels = mixing(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.patches(self.norm0(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm1(x))  # type: ignore[no-any-return]


def mixing(width: int, hidden: int) -> nn.Sequential:
    """Return two linear layers over the last dimension with a GELU between."""
    return nn.Sequential(
        OrderedDict(up=nn.Linear(width, hidden), act=nn.GELU(), down=nn.Linear(hidden, width))
    )


class Mixer(nn.Module):
    """An MLP-Mixer on images of 12 × 12 with patches of 3 × 3."""

    def __init__(self, classes: int, width: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, stride=3)
        self.blocks = nn.ModuleList(MixerBlock(16, width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y).mean(1))  # type: ignore[no-any-return]


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Return a depthwise 3 × 3 convolution with stride 2 and a pointwise one, with SiLU."""
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False),
            bn0=nn.BatchNorm2d(inputs),
            act0=nn.SiLU(),
            pointwise=nn.Conv2d(inputs, outputs, 1, bias=False),
            bn1=nn.BatchNorm2d(outputs),
            act1=nn.SiLU(),
        )
    )


class Counter(nn.Module):
    """Depthwise-separable convolutions; the output is the logarithm of an expected number."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(width), nn.SiLU()
        self.stages = nn.Sequential(separable(width, 2 * width), separable(2 * width, 2 * width))
        self.fc, self.act_fc = nn.Linear(2 * width, 24), nn.SiLU()
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stages(self.act(self.bn(self.stem(x))))
        return self.head(self.act_fc(self.fc(y.mean((2, 3)))))  # type: ignore[no-any-return]


class GatedBlock(nn.Module):
    """A causal dilated convolution with a gate; returns the residual and the skip output."""

    def __init__(self, width: int, dilation: int, kernel: int = 2) -> None:
        super().__init__()
        self.past = dilation * (kernel - 1)
        self.filter = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.gate = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.tanh, self.sigmoid = nn.Tanh(), nn.Sigmoid()
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (self.past, 0))
        y = self.tanh(self.filter(padded)) * self.sigmoid(self.gate(padded))
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    """Causal dilated convolutions with gates; `outputs` values for each time."""

    def __init__(self, outputs: int, width: int = 16, kernel: int = 2) -> None:
        super().__init__()
        self.input = nn.Conv1d(1, width, 1)
        self.blocks = nn.ModuleList(GatedBlock(width, 2**i, kernel) for i in range(3))
        self.act, self.fc, self.act_fc = nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU()
        self.head = nn.Conv1d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.input(x), torch.zeros(())
        for block in self.blocks:
            y, skip = block(y)
            total = total + skip
        return self.head(self.act_fc(self.fc(self.act(total))))  # type: ignore[no-any-return]


class GraphNet(nn.Module):
    """A graph convolutional network; the inputs hold the adjacency and then the features."""

    self_loops = True

    def __init__(
        self, nodes: int, features: int, classes: int, width: int = 32, hidden: int = 1
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.fc0, self.act0, self.dropout = nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.1)
        self.layers = nn.ModuleList(
            nn.Sequential(OrderedDict(fc=nn.Linear(width, width), act=nn.ReLU()))
            for _ in range(hidden)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        edges = self.normalised(x[..., : self.nodes])
        y = self.dropout(self.act0(edges @ self.fc0(x[..., self.nodes :])))
        for layer in self.layers:
            y = layer(edges @ y)
        return self.head(y)  # type: ignore[no-any-return]

    def normalised(self, edges: Tensor) -> Tensor:
        """Return the adjacency divided by the square roots of both degrees."""
        if self.self_loops:
            edges = edges + torch.eye(self.nodes)
        root = edges.sum(2).sqrt()
        return edges / root[:, :, None] / root[:, None, :]


def tower(inputs: int, outputs: int, width: int = 48) -> nn.Sequential:
    """Return two hidden layers and a projection."""
    return nn.Sequential(
        OrderedDict(
            fc0=nn.Linear(inputs, width),
            act0=nn.ReLU(),
            fc1=nn.Linear(width, width),
            act1=nn.ReLU(),
            project=nn.Linear(width, outputs),
        )
    )


class TwoTowers(nn.Module):
    """A tower for queries and one for items; the output is their similarity, (samples, samples).

    The similarity is the cosine over a temperature that is learned.
    """

    def __init__(self, query: int, item: int, width: int = 16) -> None:
        super().__init__()
        self.split = query
        self.query, self.item = tower(query, width), tower(item, width)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        query = F.normalize(self.query(x[:, : self.split]), dim=1)
        item = F.normalize(self.item(x[:, self.split :]), dim=1)
        return self.log_scale.exp() * query @ item.T


class UNet(nn.Module):
    """A strided encoder, a transposed convolution back and a concatenated skip connection."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = normed(nn.Conv2d(1, width, 3, padding=1, bias=False))
        self.down = normed(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False))
        self.middle = normed(nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge = normed(nn.Conv2d(2 * width, width, 3, padding=1, bias=False))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x)
        y = self.up(self.middle(self.down(skip)))
        return self.head(self.merge(torch.cat((y, skip), 1)))  # type: ignore[no-any-return]


def normed(conv: nn.Conv2d) -> nn.Sequential:
    """Return `conv` with BatchNorm and LeakyReLU."""
    norm = nn.BatchNorm2d(conv.out_channels)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm, act=nn.LeakyReLU(0.1)))


class RotaryAttention(nn.Module):
    """Causal self-attention whose queries and keys are rotated by their position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        shape = (samples, length, self.heads, width // self.heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~self.visible(length), -torch.inf).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    def visible(self, length: int) -> Tensor:
        """Return which keys (columns) a query (row) sees."""
        return torch.ones(length, length, dtype=torch.bool).tril()


def rotated(x: Tensor) -> Tensor:
    """Return pairs of features turned by angles that grow with the position."""
    first, second = x.chunk(2, -1)
    speed = 100.0 ** -(torch.arange(first.shape[-1]) / first.shape[-1])
    angle = torch.arange(x.shape[-2])[:, None] * speed
    turned = (
        first * angle.cos() - second * angle.sin(),
        first * angle.sin() + second * angle.cos(),
    )
    return torch.cat(turned, -1)


class DecoderBlock(nn.Module):
    """Pre-norm attention and a gated MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = RotaryAttention(width, heads)
        self.gate, self.act = nn.Linear(width, 2 * width, bias=False), nn.SiLU()
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x))
        y = self.norm1(x)
        return x + self.down(self.act(self.gate(y)) * self.up(y))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A decoder-only language model with RMSNorm and no biases."""

    def __init__(self, tokens: int, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.blocks = nn.ModuleList(DecoderBlock(width, 4) for _ in range(blocks))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x)
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))  # type: ignore[no-any-return]


class TwoHeads(nn.Module):
    """A trunk of two layers; the output holds the logits of the labels and then a number."""

    def __init__(self, inputs: int, labels: int, width: int = 48) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict(
                fc0=nn.Linear(inputs, width),
                act0=nn.ReLU(),
                fc1=nn.Linear(width, width),
                act1=nn.ReLU(),
            )
        )
        self.value, self.labels = nn.Linear(width, 1), nn.Linear(width, labels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x)
        return torch.cat((self.labels(y), self.value(y)), 1)


class QNet(nn.Module):
    """Values of the actions in a state, and in the next state without a gradient, side by side."""

    def __init__(self, features: int, actions: int, width: int = 48) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                fc0=nn.Linear(features, width),
                act0=nn.ReLU(),
                fc1=nn.Linear(width, width),
                act1=nn.ReLU(),
                head=nn.Linear(width, actions),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        state, following = x.chunk(2, 1)
        return torch.cat((self.net(state), self.after(following)), 1)

    def after(self, following: Tensor) -> Tensor:
        """Return the values of the next state, which are a target."""
        with torch.no_grad():
            return self.net(following)  # type: ignore[no-any-return]
