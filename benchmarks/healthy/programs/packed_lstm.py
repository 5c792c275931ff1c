"""A bidirectional LSTM on packed sequences of unequal length decides a sentiment-like question."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from healthy.program import Program, Watch

VOCABULARY, PAD, LONGEST = 40, 0, 20
GOOD, BAD, NOT = 1, 2, 3


class SentimentLSTM(nn.Module):
    def __init__(self, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, embedding_dim, padding_idx=PAD)
        self.rnn = nn.LSTM(
            embedding_dim, hidden_dim, num_layers=2, bidirectional=True, dropout=0.3,
            batch_first=True,
        )  # fmt: skip
        self.fc = nn.Linear(2 * hidden_dim, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, text: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.embedding(text))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.rnn(packed)
        return self.fc(self.dropout(torch.cat([hidden[-2], hidden[-1]], 1))).squeeze(1)


def reviews(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (text, lengths, labels): a word GOOD or BAD somewhere, turned round by NOT before."""
    text = torch.randint(4, VOCABULARY, (n, LONGEST))
    lengths = torch.randint(4, LONGEST + 1, (n,))
    place = 1 + (torch.rand(n) * (lengths - 1)).long()
    rows = torch.arange(n)
    good, turned = torch.rand(n) < 0.5, torch.rand(n) < 0.4
    text[rows, place] = torch.where(good, GOOD, BAD)
    text[rows, place - 1] = torch.where(turned, NOT, text[rows, place - 1])
    text[torch.arange(LONGEST)[None] >= lengths[:, None]] = PAD
    return text, lengths, (good ^ turned).float()


def train(
    watch: Watch, seed: int, hidden_dim: int = 32, batch_size: int = 64, lr: float = 4e-3
) -> float:
    torch.manual_seed(seed)
    model = SentimentLSTM(24, hidden_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    criterion = nn.BCEWithLogitsLoss()
    monitor = watch(model, optimizer)
    text, lengths, labels = reviews(4000)
    for _ in range(4):
        model.train()
        for rows in torch.randperm(len(text)).split(batch_size):
            optimizer.zero_grad()
            predictions = model(text[rows], lengths[rows])
            loss = monitor.loss(criterion(predictions, labels[rows]))
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()
    text, lengths, labels = reviews(1000)
    with torch.no_grad():
        return float(((model(text, lengths) > 0) == labels.bool()).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, chance 0.5",
    healthy=0.85,
    settings=({"seed": 0}, {"seed": 1, "hidden_dim": 48}),
)
