"""A GRU with additive attention reverses and shifts strings; teacher forcing half of the time."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn, optim

from healthy.program import Program, Watch

SYMBOLS, LENGTH = 12, 7
START = SYMBOLS


class Encoder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gru(self.dropout(self.embedding(tokens)))


class AttnDecoder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS + 1, hidden)
        self.Wa = nn.Linear(hidden, hidden)
        self.Ua = nn.Linear(hidden, hidden)
        self.Va = nn.Linear(hidden, 1)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, SYMBOLS)

    def forward(
        self, outputs: torch.Tensor, hidden: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        token = torch.full((len(outputs), 1), START)
        logits = []
        for i in range(LENGTH):
            query = hidden.transpose(0, 1)
            scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(outputs)))
            context = scores.softmax(1).transpose(1, 2) @ outputs
            step, hidden = self.gru(torch.cat([self.embedding(token), context], 2), hidden)
            logits.append(self.out(step))
            token = logits[-1].argmax(2).detach() if target is None else target[:, i : i + 1]
        return F.log_softmax(torch.cat(logits, 1), dim=-1)


def pairs(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.randint(SYMBOLS, (n, LENGTH))
    return source, (source.flip(1) + torch.arange(LENGTH)) % SYMBOLS


def train(
    watch: Watch, seed: int, hidden: int = 64, batch_size: int = 64, lr: float = 3e-3
) -> float:
    torch.manual_seed(seed)
    random.seed(seed)
    encoder, decoder = Encoder(hidden), AttnDecoder(hidden)
    encoder_optimizer = optim.Adam(encoder.parameters(), lr=lr)
    decoder_optimizer = optim.Adam(decoder.parameters(), lr=lr)
    criterion = nn.NLLLoss()
    monitor = watch(
        {"encoder": encoder, "decoder": decoder}, [encoder_optimizer, decoder_optimizer]
    )
    for _ in range(350):
        source, target = pairs(batch_size)
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        outputs, state = encoder(source)
        forced = target if random.random() < 0.5 else None
        log_probabilities = decoder(outputs, state, forced)
        loss = criterion(log_probabilities.view(-1, SYMBOLS), target.view(-1))
        monitor.loss(loss)
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
    encoder.eval()
    decoder.eval()
    with torch.no_grad():
        source, target = pairs(500)
        predicted = decoder(*encoder(source), None).argmax(2)
    return float((predicted == target).float().mean())


PROGRAM = Program(
    train,
    metric="share of right symbols without teacher forcing",
    healthy=0.6,
    settings=({"seed": 0}, {"seed": 1, "hidden": 96}, {"seed": 2, "batch_size": 32}),
)
