"""The four reference models of the benchmarks, with data and loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Workload:
    """A model with one batch: inputs (samples, ...), and targets (samples, ...) of classes."""

    name: str
    model: nn.Module
    inputs: Tensor
    target: Tensor

    def loss(self) -> Tensor:
        """Return the mean cross-entropy of the batch; runs the forward pass."""
        return functional.cross_entropy(self._outputs(self.inputs), self.target.flatten())

    def losses(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each target of another batch, in the shape of `target`."""
        flat = functional.cross_entropy(self._outputs(inputs), target.flatten(), reduction="none")
        return flat.view(target.shape)

    def _outputs(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)
        return outputs.flatten(0, -2)


def mlp() -> Workload:
    """(a) 784-512-512-10, batch 128."""
    model = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    return Workload("a MLP 784-512-512-10", model, x, y)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.body(x) + self.skip(x))
        return out


def resnet() -> Workload:
    """(b) ResNet-18-like on 32×32, batch 32."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [_Residual(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    return Workload("b ResNet-18-like 32×32", model, x, y)


class _GPT(nn.Module):
    def __init__(self, vocabulary: int = 65, width: int = 384, layers: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(128, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, 6, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(128))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.blocks(self.tokens(ids) + self.positions, mask=self.mask)
        logits: Tensor = self.head(self.norm(x))
        return logits


def gpt() -> Workload:
    """(c) GPT with 10 M parameters, sequence 128, batch 8."""
    ids = torch.randint(65, (8, 129))
    return Workload("c GPT 10 M, 8 × 128", _GPT(), ids[:, :-1], ids[:, 1:])


class _Add(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(width, width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + 0.1 * self.activation(self.linear(x))
        return out


def narrow() -> Workload:
    """(d) deep and narrow: 500 small tensors."""
    model = nn.Sequential(nn.Linear(16, 64), *(_Add(64) for _ in range(248)), nn.Linear(64, 10))
    x, y = torch.randn(64, 16), torch.randint(10, (64,))
    return Workload("d 500 small tensors", model, x, y)


WORKLOADS: dict[str, Callable[[], Workload]] = {"a": mlp, "b": resnet, "c": gpt, "d": narrow}
