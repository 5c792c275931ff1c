"""Gentle fine-tuning: a trained model goes on with small steps, and its loss stays level.

Each program takes a seed, trains unwatched, fine-tunes watched and returns an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from helpers.healthy_programs import watched
from helpers.small_runs import Outcome, digits, layers

Loss = Callable[[Tensor, Tensor], Tensor]
Data = tuple[Tensor, Tensor]


class NextToken(nn.Module):
    """A recurrent language model over eight tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.cells = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.embed(tokens))[0]).flatten(0, 1)


@cache
def noisy_digits() -> Data:
    """Return digits of which 15 % have a random label: a loss far above 0 is the minimum."""
    inputs, labels = digits()
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=draw) < 0.15
    return inputs, torch.where(wrong, torch.randint(0, 10, labels.shape, generator=draw), labels)


@cache
def noisy_numbers() -> Data:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 8, generator=draw)
    clean = inputs[:, :1] * 0.8 + torch.tanh(inputs[:, 1:2])
    return inputs, clean + 0.5 * torch.randn(2000, 1, generator=draw)


@cache
def two_classes() -> Data:
    inputs, numbers = noisy_numbers()
    return inputs, (numbers > 0).float()


@cache
def chain() -> Data:
    """Return sequences of a Markov chain of eight tokens, and the next tokens."""
    draw = torch.Generator().manual_seed(0)
    odds = (2 * torch.randn(8, 8, generator=draw)).softmax(1)
    tokens = [torch.randint(0, 8, (500,), generator=draw)]
    for _ in range(16):
        tokens.append(torch.multinomial(odds[tokens[-1]], 1, generator=draw)[:, 0])
    whole = torch.stack(tokens, 1)
    return whole[:, :-1], whole[:, 1:]


def of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets.flatten())


def fine_tuning(
    make: Callable[[], nn.Module],
    data: Callable[[], Data],
    loss_function: Loss = F.cross_entropy,
    optimizer: Callable[..., Optimizer] = Adam,
    *,
    rate: float = 1e-5,
    before: int = 1000,
    steps: int = 350,
    batch: int = 64,
) -> Callable[[int], Outcome]:
    """Return a program that trains with Adam for `before` steps, then gently with `optimizer`."""

    def program(seed: int) -> Outcome:
        torch.manual_seed(seed)
        model, (inputs, targets) = make(), data()

        def loss(_: int) -> Tensor:
            at = torch.randint(len(inputs), (batch,))
            return loss_function(model(inputs[at]), targets[at])

        first = Adam(model.parameters(), 3e-3)
        for step in range(before):
            for group in first.param_groups:
                group["lr"] = 3e-3 * (1 - step / before)
            first.zero_grad()
            loss(step).backward()
            first.step()
        first.zero_grad()
        return watched(model, optimizer(model.parameters(), lr=rate), loss, steps=steps)

    return program


def mlp() -> nn.Module:
    return layers(64, 24, 10)


def regressor() -> nn.Module:
    return layers(8, 32, 1)


FINE_TUNING = {
    "classes": fine_tuning(mlp, noisy_digits),
    "classes_at_a_tiny_rate": fine_tuning(mlp, noisy_digits, rate=1e-6),
    "classes_sgd": fine_tuning(mlp, noisy_digits, optimizer=SGD, rate=1e-4),
    "classes_nearly_converged": fine_tuning(mlp, noisy_digits, before=300, rate=1e-6),
    "large_batches": fine_tuning(mlp, noisy_digits, batch=512, rate=1e-6),
    "numbers": fine_tuning(regressor, noisy_numbers, F.mse_loss, AdamW),
    "numbers_sgd": fine_tuning(regressor, noisy_numbers, F.mse_loss, SGD, rate=1e-5, batch=256),
    "numbers_huber": fine_tuning(regressor, noisy_numbers, F.huber_loss, rate=1e-6, batch=256),
    "two_classes": fine_tuning(
        regressor, two_classes, F.binary_cross_entropy_with_logits, rate=1e-6, batch=256
    ),
    "language_model": fine_tuning(NextToken, chain, of_tokens, rate=1e-6, before=600),
}
