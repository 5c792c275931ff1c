"""Skip-gram with negative sampling; the rate falls linearly, the loss is summed over samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

TOPICS, WORDS_OF_TOPIC, NEGATIVES = 8, 25, 5
WORDS = TOPICS * WORDS_OF_TOPIC


class SkipGramModel(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.u_embeddings = nn.Embedding(WORDS, dim)
        self.v_embeddings = nn.Embedding(WORDS, dim)
        self.u_embeddings.weight.data.uniform_(-0.5 / dim, 0.5 / dim)
        self.v_embeddings.weight.data.zero_()

    def forward(
        self, centre: torch.Tensor, context: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        u, v = self.u_embeddings(centre), self.v_embeddings(context)
        score = F.logsigmoid((u * v).sum(1).clamp(-10, 10))
        noise = torch.bmm(self.v_embeddings(negative), u[:, :, None]).squeeze(2)
        return -(score + F.logsigmoid(-noise.clamp(-10, 10)).sum(1)).mean()


def windows(n: int, frequency: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (centre, context) words; three of four pairs share a topic."""
    topic = torch.randint(TOPICS, (n,))
    other = torch.where(torch.rand(n) < 0.75, topic, torch.randint(TOPICS, (n,)))
    words = torch.multinomial(frequency, 2 * n, replacement=True).view(2, n)
    return topic * WORDS_OF_TOPIC + words[0], other * WORDS_OF_TOPIC + words[1]


def train(watch: Watch, seed: int, dim: int = 32, lr: float = 0.01, batch_size: int = 256) -> float:
    torch.manual_seed(seed)
    frequency = 1 / torch.arange(1, WORDS_OF_TOPIC + 1).float()  # Zipf within a topic
    noise = frequency.repeat(TOPICS) ** 0.75
    model = SkipGramModel(dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = 1500
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    monitor = watch(model, optimizer)
    for _ in range(steps):
        centre, context = windows(batch_size, frequency)
        negative = torch.multinomial(noise, batch_size * NEGATIVES, replacement=True)
        loss = model(centre, context, negative.view(batch_size, NEGATIVES))
        monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    vectors = F.normalize(model.u_embeddings.weight.detach())
    similar = vectors @ vectors.T - 2 * torch.eye(WORDS)
    topic = torch.arange(WORDS) // WORDS_OF_TOPIC
    return float((topic[similar.topk(5).indices] == topic[:, None]).float().mean())


PROGRAM = Program(
    train,
    metric="share of the five nearest words with the same topic, 0.12 by chance",
    healthy=0.7,
    settings=({"seed": 0}, {"seed": 1, "dim": 64}, {"seed": 2, "lr": 5e-3, "batch_size": 512}),
)
