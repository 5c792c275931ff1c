"""A tiny autoregressive policy, its rewards, and one step of GRPO, on CPU.

A prompt is a number; a completion has up to `LENGTH` tokens and ends with the token 0. The tasks'
rewards are between 0 and 1 and can be verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

VOCABULARY, PROMPTS, LENGTH, END = 8, 8, 12, 0

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(prompts, tokens, lengths) → rewards; shapes (n,), (n, LENGTH), (n,), (n,)."""


class Policy(nn.Module):
    """Logits of the next token, given the prompt, the token before and the position."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.prompt = nn.Embedding(PROMPTS, width)
        self.token = nn.Embedding(VOCABULARY + 1, width)
        self.position = nn.Embedding(LENGTH, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, VOCABULARY))

    def forward(self, prompts: Tensor, before: Tensor, positions: Tensor) -> Tensor:
        """Return logits, shape of `before` + (VOCABULARY,)."""
        features = self.prompt(prompts) + self.token(before) + self.position(positions)
        logits: Tensor = self.body(features)
        return logits


class Rollout(NamedTuple):
    """Completions of a batch; n rows."""

    prompts: Tensor
    tokens: Tensor
    mask: Tensor
    """1 up to the end token and including it, shape (n, LENGTH)."""
    log_probabilities: Tensor
    """Of the sampled tokens, as the generator computed them."""
    truncated: Tensor
    """1 for a row without an end token, shape (n,)."""


@torch.no_grad()
def generate(policy: Policy, prompts: Tensor, *, temperature: float, end: bool = True) -> Rollout:
    """Sample a completion for each prompt; without `end`, no token ends it."""
    n = len(prompts)
    before = torch.full((n,), VOCABULARY)
    alive = torch.ones(n)
    tokens, mask, scores = [], [], []
    for at in range(LENGTH):
        logits = policy(prompts, before, torch.full((n,), at)) / temperature
        before = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        tokens.append(before)
        mask.append(alive)
        scores.append(logits.log_softmax(-1).gather(1, before[:, None])[:, 0])
        if end:
            alive = alive * (before != END)
    stacked = (torch.stack(part, 1) for part in (tokens, mask, scores))
    return Rollout(prompts, *stacked, truncated=alive)


def log_softmax_of(policy: Policy, rollout: Rollout) -> Tensor:
    """Return the log-probabilities of all tokens at each position, (n, LENGTH, VOCABULARY)."""
    n = len(rollout.tokens)
    start = torch.full((n, 1), VOCABULARY)
    before = torch.cat([start, rollout.tokens[:, :-1]], 1)
    positions = torch.arange(LENGTH).expand(n, LENGTH)
    scores: Tensor = policy(rollout.prompts[:, None], before, positions).log_softmax(-1)
    return scores


def _ended(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return 1 for completions with an end token: a truncated one has no answer."""
    return (tokens.gather(1, lengths.long()[:, None] - 1)[:, 0] == END).float()


def _contains_prompt(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    inside = torch.arange(LENGTH) < lengths[:, None]
    found = ((tokens == prompts[:, None] % (VOCABULARY - 1) + 1) & inside).any(1)
    return found * _ended(tokens, lengths)


def _first_is_prompt(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return (tokens[:, 0] == prompts % (VOCABULARY - 1) + 1) * _ended(tokens, lengths)


def _share_of_prompt(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    inside = torch.arange(LENGTH) < lengths[:, None]
    hits = (tokens == prompts[:, None] % (VOCABULARY - 1) + 1) & inside
    return hits.sum(1) / lengths * _ended(tokens, lengths)


def _length_is_prompt(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    return 1 - (lengths - 1 - prompts % 6).abs() / LENGTH


TASKS: Mapping[str, Reward] = MappingProxyType(
    {
        "contains": _contains_prompt,
        "first": _first_is_prompt,
        "share": _share_of_prompt,
        "length": _length_is_prompt,
    }
)


@dataclass(frozen=True)
class Recipe:
    """How a policy is trained; the defaults are healthy."""

    reward: Reward = _contains_prompt
    learning_rate: float = 3e-3
    kl_coefficient: float = 0.02
    entropy_coefficient: float = 0.0
    group: int = 8
    temperature: float = 1.0
    steps: int = 120
    normalised: bool = True
    """Divide advantages by the standard deviation of the group."""
    advantage_scale: float = 1.0
    end: bool = True
    masked: bool = False
    """No token counts in the loss."""
    reference_is_policy: bool = False
    synchronise_every: int = 1
    """Steps after which the generator gets the weights; 0: never."""
    generator_noise: float = 0.0
    """Standard deviation of errors in the generator's weights, as a share of theirs."""


def loss_of(
    policy: Policy, reference: Policy, rollout: Rollout, rewards: Tensor, recipe: Recipe
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of GRPO and the scalars that a trainer logs.

    Source: Shao et al., "DeepSeekMath", 2024, arXiv:2402.03300, with the KL estimator k3.
    """
    grouped = rewards.view(-1, recipe.group)
    spread = grouped.std(1, unbiased=False, keepdim=True)
    advantage = grouped - grouped.mean(1, keepdim=True)
    if recipe.normalised:
        advantage = advantage / (spread + 1e-4)
    advantage = recipe.advantage_scale * advantage.reshape(-1, 1)
    scores = log_softmax_of(policy, rollout)
    chosen = scores.gather(2, rollout.tokens[..., None])[..., 0]
    with torch.no_grad():
        other = policy if recipe.reference_is_policy else reference
        fixed = log_softmax_of(other, rollout).gather(2, rollout.tokens[..., None])[..., 0]
    entropy = -(scores.exp() * scores).sum(-1)
    difference = fixed - chosen
    kl = difference.exp() - difference - 1
    ratio = (chosen - chosen.detach()).exp()
    token = -ratio * advantage + recipe.kl_coefficient * kl - recipe.entropy_coefficient * entropy
    mask = torch.zeros_like(rollout.mask) if recipe.masked else rollout.mask
    loss = (token * mask).sum() / mask.sum().clamp_min(1)

    def mean(values: Tensor) -> float:
        return float((values.detach() * rollout.mask).sum() / rollout.mask.sum())

    return loss, {
        "reward": float(rewards.mean()),
        "reward_std": float(spread.mean()),
        "equal_groups_share": float((spread < 1e-6).float().mean()),
        "kl": mean(kl),
        "entropy": mean(entropy),
        "completion_length": float(rollout.mask.sum(1).mean()),
        "truncated_share": float(rollout.truncated.mean()),
        "rollout_gap": mean((chosen - rollout.log_probabilities).abs()),
    }
