"""The policy that all trainings start from: it ends completions and prefers some tokens."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from post_training.policy import END, LENGTH, PROMPTS, VOCABULARY, Policy

STEPS = 200


@cache
def reference_policy() -> Policy:
    """Return a policy fitted to random sequences: END with 0.2, token 1 rare, others alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = Policy()
    shares = torch.ones(VOCABULARY)
    shares[END], shares[END + 1] = 0.2 * VOCABULARY, 0.03
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(STEPS):
        tokens = torch.multinomial(shares, 64 * LENGTH, replacement=True, generator=generator)
        tokens = tokens.view(64, LENGTH)
        before = torch.cat([torch.full((64, 1), VOCABULARY), tokens[:, :-1]], 1)
        prompts = torch.randint(PROMPTS, (64, 1), generator=generator)
        logits = policy(prompts, before, torch.arange(LENGTH).expand(64, LENGTH))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy
