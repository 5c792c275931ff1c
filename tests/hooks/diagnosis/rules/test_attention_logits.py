"""TV203 on small language models: growing logits are found, healthy transformers are silent."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.short_and_slow import parameters  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.attention_logit_growth import AttentionLogitGrowth  # noqa: E402

TOKENS = 16


class Attention(nn.Module):
    def __init__(self, width, *, normed, fused):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
            self.v_proj = nn.Linear(width, width)
        if normed:
            self.q_norm, self.k_norm = nn.LayerNorm(width // 4), nn.LayerNorm(width // 4)
        self.out, self.fused, self.normed = nn.Linear(width, width), fused, normed

    def forward(self, x):
        parts = self.qkv(x).chunk(3, -1) if self.fused else None
        q, k, v = parts or (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in (q, k, v))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, *, width=32, depth=2, normed=False, fused=False):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.place = nn.Parameter(0.02 * torch.randn(24, width))
        options = {"normed": normed, "fused": fused}
        self.attentions = nn.ModuleList(Attention(width, **options) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, TOKENS))

    def forward(self, tokens):
        x = self.embed(tokens) + self.place
        for attention, norm in zip(self.attentions, self.norms, strict=True):
            x = x + attention(norm(x))
        return self.head(x)


def copied():
    half = torch.randint(0, TOKENS, (32, 13))
    return torch.cat([half, half], 1)[:, :25]


def chain():
    tokens = [torch.randint(0, TOKENS, (32,))]
    for _ in range(24):
        tokens.append((tokens[-1] * 3 + torch.randint(0, 3, (32,))) % TOKENS)
    return torch.stack(tokens, 1)


def findings(rate=3e-3, *, data=copied, warm_up=1, seed=0, steps=150, **options):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model, history = Model(**options), History()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    capture = Capture(model, optimizer, emit=history.add, every=5)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / warm_up)
        tokens = data()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    return list(AttentionLogitGrowth().check(history))


@pytest.mark.parametrize("fused", [pytest.param(False, marks=pytest.mark.slow), True])
def test_logits_that_grow_at_a_high_learning_rate_are_found(fused):
    [found] = findings(0.1, fused=fused)
    assert found.severity is Severity.WARNING
    assert found.where.startswith("attentions.")
    assert found.evidence[0].seen > 30


HEALTHY = {
    "usual": {},
    "another_seed": {"seed": 1},
    "slow": {"rate": 1e-3},
    "fast": {"rate": 6e-3},
    "warm_up": {"rate": 1e-2, "warm_up": 50},
    "chain": {"data": chain},
    "chain_at_a_high_rate": {"data": chain, "rate": 1e-2},
    "deeper": {"depth": 4},
    "wide": {"width": 64},
    "one_projection": {"fused": True},
    "one_projection_chain": {"fused": True, "data": chain},
    "normed_at_a_high_rate": {"normed": True, "rate": 0.1},
}
SLOW = {"another_seed", "deeper", "slow", "fast", "chain", "wide", "one_projection_chain"}


@pytest.mark.parametrize("options", parameters(HEALTHY, slow=SLOW))
def test_healthy_transformers_are_silent(options):
    assert findings(**options) == []
