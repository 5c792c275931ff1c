"""Masked-token training of a Transformer encoder with a linear warm-up, as BERT is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

VOCABULARY, LENGTH, MASK, IGNORED = 24, 16, 24, -100


class BertEmbeddings(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY + 1, d_model)
        self.position_embeddings = nn.Embedding(LENGTH, d_model)
        self.LayerNorm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1])
        x = self.word_embeddings(tokens) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class BertForMaskedLM(nn.Module):
    def __init__(self, d_model: int, layers: int) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(d_model)
        block = nn.TransformerEncoderLayer(
            d_model, 4, 4 * d_model, dropout=0.1, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(block, layers)
        self.transform = nn.Sequential(
            nn.Linear(d_model, d_model), nn.GELU(), nn.LayerNorm(d_model)
        )
        self.decoder = nn.Linear(d_model, VOCABULARY)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(0.0, 0.02)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(self.encoder(self.embeddings(tokens))))


def sentences(n: int) -> torch.Tensor:
    """Return arithmetic progressions modulo the vocabulary, with a step of 1 to 3."""
    start = torch.randint(VOCABULARY, (n, 1))
    step = torch.randint(1, 4, (n, 1))
    return (start + step * torch.arange(LENGTH)) % VOCABULARY


def mask_tokens(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (inputs, labels): of the chosen 20 %, 80 % are masked and 10 % are random."""
    chosen = torch.rand(tokens.shape) < 0.2
    labels = torch.where(chosen, tokens, IGNORED)
    draw = torch.rand(tokens.shape)
    inputs = torch.where(chosen & (draw < 0.8), MASK, tokens)
    noise = torch.randint(VOCABULARY, tokens.shape)
    return torch.where(chosen & (draw > 0.9), noise, inputs), labels


def train(
    watch: Watch, seed: int, d_model: int = 64, layers: int = 2, batch_size: int = 48
) -> float:
    torch.manual_seed(seed)
    steps, warmup = 350, 50
    model = BertForMaskedLM(d_model, layers)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=3e-3,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, max(0.0, (steps - s) / (steps - warmup)))
    )
    monitor = watch(model, optimizer)
    model.train()
    for _ in range(steps):
        inputs, labels = mask_tokens(sentences(batch_size))
        logits = model(inputs)
        loss = F.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1), ignore_index=IGNORED)
        monitor.loss(loss)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
    model.eval()
    inputs, labels = mask_tokens(sentences(500))
    with torch.no_grad():
        right = (model(inputs).argmax(2) == labels)[labels != IGNORED]
    return float(right.float().mean())


PROGRAM = Program(
    train,
    metric=f"accuracy on masked tokens, chance {1 / VOCABULARY:.2f}",
    healthy=0.5,
    settings=({"seed": 0}, {"seed": 1, "d_model": 48, "layers": 3}),
)
