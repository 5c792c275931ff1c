"""The faults of post-training, each with the rules that name it, and the healthy recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from post_training.policy import END, TASKS, Recipe

NO_SIGNAL = "no_signal"


class Fault(NamedTuple):
    """A recipe with a fault, and the names of the rules that may report it."""

    recipe: Recipe
    rules: frozenset[str]


def _constant(value: float) -> Recipe:
    def reward(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
        return torch.full((len(prompts),), value)

    return Recipe(reward=reward)


def _longer_is_better(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return TASKS["contains"](prompts, tokens, lengths) + 0.2 * lengths


def _shorter_is_better(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return TASKS["contains"](prompts, tokens, lengths) - 0.3 * lengths


def _rare_token(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    return (tokens == END + 1).float().mean(1)


_healthy = Recipe()


def _fault(recipe: Recipe, *rules: str) -> Fault:
    return Fault(recipe, frozenset(rules))


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "every reward is 0": _fault(_constant(0.0), NO_SIGNAL),
        "every reward is 1": _fault(replace(_constant(1.0), kl_coefficient=0.0), NO_SIGNAL),
        "groups of one completion": _fault(replace(_healthy, group=1), NO_SIGNAL),
        "every token is masked": _fault(replace(_healthy, masked=True), NO_SIGNAL),
        "advantages are multiplied by 0": _fault(
            replace(_healthy, advantage_scale=0.0, kl_coefficient=0.0), NO_SIGNAL
        ),
        "learning rate 300 times too high": _fault(
            replace(_healthy, learning_rate=1.0), "entropy_collapse", "learning_rate_too_high"
        ),
        "entropy is penalised": _fault(
            replace(_healthy, entropy_coefficient=-3.0, kl_coefficient=0.0), "entropy_collapse"
        ),
        "advantages with the wrong sign": _fault(
            replace(_healthy, reward=TASKS["share"], advantage_scale=-1.0, kl_coefficient=0.0),
            "entropy_collapse",
            NO_SIGNAL,
            "length_drift",
        ),
        "the reference is the policy": _fault(
            replace(_healthy, reference_is_policy=True), "reward_without_kl"
        ),
        "a rare token is rewarded, without a KL term": _fault(
            replace(_healthy, reward=_rare_token, kl_coefficient=0.0, learning_rate=1e-2),
            "reward_without_kl",
        ),
        "the generator samples at temperature 0.5": _fault(
            replace(_healthy, temperature=0.5), "rollout_mismatch"
        ),
        "the generator samples at temperature 2": _fault(
            replace(_healthy, temperature=2.0), "rollout_mismatch"
        ),
        "the generator keeps its first weights": _fault(
            replace(_healthy, synchronise_every=0), "rollout_mismatch"
        ),
        "the generator's weights are rounded coarsely": _fault(
            replace(_healthy, generator_noise=0.3), "rollout_mismatch"
        ),
        "no token ends a completion": _fault(replace(_healthy, end=False), "length_drift"),
        "length is rewarded": _fault(
            replace(_healthy, reward=_longer_is_better, kl_coefficient=0.0),
            "length_drift",
        ),
        "length is punished": _fault(
            replace(_healthy, reward=_shorter_is_better, kl_coefficient=0.0),
            "length_drift",
        ),
    }
)

_VARIANTS: Mapping[str, Recipe] = MappingProxyType(
    {
        "default": _healthy,
        "without a KL term": replace(_healthy, kl_coefficient=0.0),
        "advantages not normalised": replace(_healthy, normalised=False),
        "entropy bonus and slow": replace(_healthy, entropy_coefficient=0.01, learning_rate=1e-3),
        "fast, large groups": replace(_healthy, learning_rate=1e-2, group=16),
        "generator with rounding, one step behind": replace(
            _healthy, generator_noise=0.01, synchronise_every=2
        ),
    }
)
HEALTHY: Mapping[str, Recipe] = MappingProxyType(
    {
        f"{task}, {name}": replace(recipe, reward=reward)
        for task, reward in TASKS.items()
        for name, recipe in _VARIANTS.items()
    }
)
"""Variants × tasks."""
