"""Tiny language models on a Markov chain, trained on aligned and on shifted targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.healthy_programs import watched
from helpers.small_runs import Outcome

VOCABULARY, LENGTH, BATCH = 16, 24, 16
_SUCCESSORS = torch.randint(VOCABULARY, (VOCABULARY, 3), generator=torch.Generator().manual_seed(3))


class Transformer(nn.Module):
    """One causal block."""

    def __init__(self, classes: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        y = self.embedding(x) + self.place[:length]
        return self.head(self.block(y, src_mask=mask, is_causal=True))


class Gru(nn.Module):
    """A recurrent language model; `classes` is the size of its output."""

    def __init__(self, classes: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(VOCABULARY, 32), nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(x))[0])


def text(length: int = LENGTH + 8) -> Tensor:
    """Return random sequences, shape (BATCH, length): each token has three successors."""
    out = torch.randint(VOCABULARY, (BATCH, length))
    for i in range(1, length):
        choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), BATCH, True)
        out[:, i] = _SUCCESSORS[out[:, i - 1], choice]
    return out


def of_all(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def shifted(shift: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and targets: target i is token i + shift. The first target of −1 is random."""
    start = max(0, -shift)
    x = rows[:, start : start + LENGTH]
    return x, rows[:, start + shift : start + shift + LENGTH]


def trained(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 12, every: int = 1
) -> Outcome:
    """Train `model` on `loss(model)` and return what the diagnosis says."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return watched(model, optimizer, lambda _: loss(model), steps=steps, every=every)
