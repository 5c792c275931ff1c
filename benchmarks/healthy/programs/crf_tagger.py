"""A tagger with a conditional random field: forward algorithm for the loss, then Viterbi."""

from __future__ import annotations

import torch
from torch import nn

from healthy.program import Program, Watch

WORDS, TAGS, LENGTH = 60, 5, 12


class CRF(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.randn(TAGS, TAGS) * 0.1)
        self.start = nn.Parameter(torch.randn(TAGS) * 0.1)

    def log_partition(self, emissions: torch.Tensor) -> torch.Tensor:
        alpha = self.start + emissions[:, 0]
        for t in range(1, emissions.shape[1]):
            alpha = torch.logsumexp(alpha[:, :, None] + self.transitions, 1) + emissions[:, t]
        return torch.logsumexp(alpha, 1)

    def score(self, emissions: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        emitted = emissions.gather(2, tags[:, :, None]).squeeze(2).sum(1)
        return emitted + self.start[tags[:, 0]] + self.transitions[tags[:, :-1], tags[:, 1:]].sum(1)

    def viterbi(self, emissions: torch.Tensor) -> torch.Tensor:
        best, back = self.start + emissions[:, 0], []
        for t in range(1, emissions.shape[1]):
            value, index = (best[:, :, None] + self.transitions).max(1)
            best = value + emissions[:, t]
            back.append(index)
        path = [best.argmax(1)]
        for index in reversed(back):
            path.append(index.gather(1, path[-1][:, None]).squeeze(1))
        return torch.stack(path[::-1], 1)


class Tagger(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.word_embeds = nn.Embedding(WORDS, dim)
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.hidden2tag = nn.Linear(dim, TAGS)
        self.crf = CRF()

    def emissions(self, words: torch.Tensor) -> torch.Tensor:
        x = self.word_embeds(words).transpose(1, 2)
        return self.hidden2tag(torch.tanh(self.conv(x)).transpose(1, 2))

    def neg_log_likelihood(self, words: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        emissions = self.emissions(words)
        return self.crf.log_partition(emissions) - self.crf.score(emissions, tags)


def sentences(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return words and tags: tags follow a chain, and two tags share each word."""
    tags = torch.empty(n, LENGTH, dtype=torch.long)
    tags[:, 0] = torch.randint(TAGS, (n,))
    for t in range(1, LENGTH):
        jump = torch.randint(TAGS, (n,))
        tags[:, t] = torch.where(torch.rand(n) < 0.85, (tags[:, t - 1] * 2 + 1) % TAGS, jump)
    group = (tags + torch.randint(2, tags.shape)) % TAGS
    return group * 12 + torch.randint(12, tags.shape), tags


def train(watch: Watch, seed: int, dim: int = 32, batch_size: int = 32, lr: float = 0.3) -> float:
    torch.manual_seed(seed)
    model = Tagger(dim, kernel=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=1e-4)
    monitor = watch(model, optimizer)
    for _ in range(500):
        words, tags = sentences(batch_size)
        model.zero_grad()
        loss = model.neg_log_likelihood(words, tags).mean() / LENGTH
        monitor.loss(loss)
        loss.backward()
        optimizer.step()
    words, tags = sentences(1000)
    with torch.no_grad():
        return float((model.crf.viterbi(model.emissions(words)) == tags).float().mean())


PROGRAM = Program(
    train,
    metric="share of right tags, 0.2 by chance, about 0.5 for a word alone",
    healthy=0.7,
    settings=({"seed": 0}, {"seed": 1, "dim": 48}, {"seed": 2, "batch_size": 16, "lr": 0.2}),
)
