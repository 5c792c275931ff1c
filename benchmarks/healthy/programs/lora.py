"""LoRA: a causal Transformer learns another corpus through low-rank matrices on a frozen base."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

VOCABULARY, CONTEXT = 16, 24


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r: int, alpha: int) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = alpha / r
        self.lora_dropout = nn.Dropout(0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        update = self.lora_dropout(x) @ self.lora_A.T @ self.lora_B.T
        return self.base(x) + update * self.scaling


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).chunk(3, -1)
        x = x + self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, d: int, layers: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, d), nn.Embedding(CONTEXT, d)
        self.h = nn.ModuleList(Block(d) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(d), nn.Linear(d, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def corpus(n: int, table: torch.Tensor) -> torch.Tensor:
    """Return sequences of a second-order Markov chain with the given favourite successors."""
    tokens = torch.randint(VOCABULARY, (n, CONTEXT + 1))
    for i in range(2, CONTEXT + 1):
        favourite = table[tokens[:, i - 2], tokens[:, i - 1]]
        tokens[:, i] = torch.where(torch.rand(n) < 0.85, favourite, tokens[:, i])
    return tokens


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train(watch: Watch, seed: int, r: int = 4, layers: int = 2, lr: float = 5e-3) -> float:
    torch.manual_seed(seed)
    model = GPT(48, layers)
    base_table = torch.arange(VOCABULARY)[:, None].repeat(1, VOCABULARY).add(1) % VOCABULARY
    new_table = (base_table + 4) % VOCABULARY
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(model, corpus(32, base_table)).backward()
        optimizer.step()

    for parameter in model.parameters():
        parameter.requires_grad = False
    for block in model.h:
        block.c_attn = LoRALinear(block.c_attn, r, alpha=2 * r)
        block.mlp[0] = LoRALinear(block.mlp[0], r, alpha=2 * r)
        block.mlp[2] = LoRALinear(block.mlp[2], r, alpha=2 * r)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    monitor = watch(model, optimizer)
    model.train()
    for _ in range(220):
        loss = loss_of(model, corpus(32, new_table))
        monitor.loss(loss)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    tokens = corpus(400, new_table)
    with torch.no_grad():
        right = model(tokens[:, :-1]).argmax(2)[:, 1:] == tokens[:, 2:]
    return float(right.float().mean())


PROGRAM = Program(
    train,
    metric="accuracy of the next token in the new corpus, 0.06 by chance, at most 0.86",
    healthy=0.5,
    settings=({"seed": 0}, {"seed": 1, "r": 8, "layers": 3}, {"seed": 2, "lr": 1e-2}),
)
