"""Small architectures with the names that users give: fc0, act0, …, head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def mlp(*sizes: int, activation: Activation = nn.ReLU, he: bool = False) -> nn.Sequential:
    """Linear layers fc0, fc1, … with activations between, and `head`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(sizes[:-1])):
        layers[f"fc{i}"] = linear = nn.Linear(inputs, outputs)
        if he:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        layers[f"act{i}"] = activation()
    layers["head"] = nn.Linear(sizes[-2], sizes[-1])
    return nn.Sequential(layers)


def cnn(classes: int = 10) -> nn.Sequential:
    """Two convolutions with BatchNorm on 8 × 8 images."""
    return nn.Sequential(
        OrderedDict(
            conv0=nn.Conv2d(1, 12, 3, padding=1, bias=False),
            bn0=nn.BatchNorm2d(12),
            act0=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv1=nn.Conv2d(12, 24, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(24),
            act1=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(24 * 16, 32),
            act2=nn.ReLU(),
            head=nn.Linear(32, classes),
        )
    )


class ResidualBlock(nn.Module):
    """x + a branch of two convolutions with GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act0, self.act1 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv0(self.act0(self.norm0(x)))
        return x + self.conv1(self.act1(self.norm1(y)))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A stem, residual blocks and a head on the mean over positions."""

    def __init__(self, classes: int, channels: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.act = nn.ReLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.blocks(self.stem(x)))
        return self.head(y.amax((2, 3)))  # type: ignore[no-any-return]


class ResMLP(nn.Module):
    """Residual linear blocks with LayerNorm before each."""

    def __init__(self, inputs: int, outputs: int, width: int = 40, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    norm=nn.LayerNorm(width),
                    up=nn.Linear(width, 2 * width),
                    act=nn.GELU(),
                    down=nn.Linear(2 * width, width),
                )
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM, GRU or tanh RNN with a head on the last state, or on every state."""

    def __init__(
        self, kind: type[nn.RNNBase], inputs: int, width: int, outputs: int, *, every: bool = False
    ) -> None:
        super().__init__()
        self.rnn = kind(inputs, width, batch_first=True)  # type: ignore[call-arg,arg-type]
        self.head = nn.Linear(width, outputs)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        return self.head(states if self.every else states[:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal self-attention, written out as in small language models."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        shape = (samples, length, self.heads, width // self.heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x))
        return x + self.down(self.act(self.up(self.norm1(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A causal language model; the output has shape (samples, length, tokens)."""

    def __init__(self, tokens: int, length: int, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(tokens, width), nn.Embedding(length, width)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(y)))  # type: ignore[no-any-return]
