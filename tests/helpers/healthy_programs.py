"""Healthy programs that look like a fault: copies, autoencoders, fine-tuning, bootstrapped targets.

Each takes a seed, trains for a short time, watched by the real capture, and returns an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.small_runs import EXAMINE_EVERY, Outcome
from trainvitals.api.schema import Diagnosis
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import History
from trainvitals.wire import Record

TOKENS, LENGTH = 12, 10


def watched(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    every: int = 2,
    clip: float | None = None,
) -> Outcome:
    """Train with `loss(step)`, examining every ten steps."""
    torch.set_num_threads(1)
    history, engine, records = History(), Engine(), list[Record]()
    outcome, findings = Outcome(Diagnosis()), ()
    capture = Capture(model, optimizer, emit=records.append, every=every)
    history.facts |= capture.facts
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        capture.loss(value)
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if step % EXAMINE_EVERY and step < steps - 1:
            continue
        for record in records:
            history.add(record)
        records.clear()
        findings = engine.examine(history, findings)
        outcome.diagnosis = diagnose(history, findings)
        if outcome.headline and outcome.headline not in outcome.headlines:
            outcome.headlines.append(outcome.headline)
    capture.detach()
    return outcome


# Targets that are the input on purpose.


class Translator(nn.Module):
    """An encoder and a decoder, which is given the target so far."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS + 1, width)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.transformer = nn.Transformer(width, 2, 1, 1, 64, 0.0, batch_first=True)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        source, before = (self.embed(x) + self.place for x in (source, before))
        return self.head(self.transformer(source, before, tgt_mask=mask))


class Recurrent(nn.Module):
    """Two GRUs; the second one is given the target so far, or nothing (an autoencoder)."""

    def __init__(self, *, forced: bool = True, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS + 1, 16)
        self.reader = nn.GRU(16, width, batch_first=True)
        self.writer = nn.GRU(16 if forced else 1, width, batch_first=True)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, source: Tensor, before: Tensor | None = None) -> Tensor:
        state = self.reader(self.embed(source))[1]
        given = torch.zeros(*source.shape, 1) if before is None else self.embed(before)
        return self.head(self.writer(given, state)[0])


class WithLabels(nn.Module):
    """A model that shifts the labels itself and returns the loss, as those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Translator()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(input_ids, shifted(labels))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Autoencoder(nn.Module):
    """A recurrent encoder whose last state the decoder unfolds."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 16)
        self.encoder = nn.GRU(16, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(self.embed(x))[1][0]
        return self.head(self.decoder(state[:, None].expand(-1, x.shape[1], -1))[0])


def shifted(target: Tensor) -> Tensor:
    """Return the target so far: a start token, then all but the last token."""
    return torch.cat([torch.full_like(target[:, :1], TOKENS), target[:, :-1]], 1)


def flat_autoencoder() -> nn.Module:
    """Return an autoencoder whose latent vector has no positions."""
    return nn.Sequential(
        nn.Embedding(TOKENS, 8), nn.Flatten(), nn.Linear(8 * LENGTH, 32), nn.ReLU(),
        nn.Linear(32, LENGTH * TOKENS), nn.Unflatten(1, (LENGTH, TOKENS)),
    )  # fmt: skip


def tokens(rows: int = 32) -> Tensor:
    return torch.randint(0, TOKENS, (rows, LENGTH))


def of_logits(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def copying(
    make: Callable[[], nn.Module], *, forced: bool = False, backwards: bool = False
) -> Callable[[int], Outcome]:
    """Return a program that copies (or reverses) its tokens."""

    def program(seed: int) -> Outcome:
        torch.manual_seed(seed)
        model = make()

        def loss(_: int) -> Tensor:
            source = tokens()
            target = source.flip(1) if backwards else source
            if isinstance(model, WithLabels):
                return model(input_ids=source, labels=target)["loss"]
            return of_logits(model(source, shifted(target)) if forced else model(source), target)

        return watched(model, torch.optim.Adam(model.parameters(), 2e-3), loss, steps=120)

    return program


def autoencoder_of_numbers(seed: int) -> Outcome:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 12))
    mix = torch.randn(4, 12)

    def loss(_: int) -> Tensor:
        x = torch.randn(64, 4) @ mix / 2
        return F.mse_loss(model(x), x)

    return watched(model, torch.optim.Adam(model.parameters(), 3e-3), loss, steps=200)


COPIES = {
    "transformer_copy": copying(Translator, forced=True),
    "transformer_reverse": copying(Translator, forced=True, backwards=True),
    "recurrent_copy": copying(Recurrent, forced=True),
    "recurrent_reverse": copying(Recurrent, forced=True, backwards=True),
    "labels_shifted_by_the_model": copying(WithLabels),
    "recurrent_autoencoder": copying(Autoencoder),
    "flat_autoencoder": copying(flat_autoencoder),
    "autoencoder_of_numbers": autoencoder_of_numbers,
}
