"""Train each recipe under `watch`, and compare the findings with the fault."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

import trainvitals
from post_training.faults import FAULTS, HEALTHY
from post_training.policy import PROMPTS, Policy, Recipe, generate, loss_of
from post_training.reference import reference_policy

RULES = frozenset(
    {"no_signal", "entropy_collapse", "reward_without_kl", "rollout_mismatch", "length_drift"}
)
EARLY = 15
"""Steps after each of which the diagnosis is computed; then after every 15th."""


class Outcome(NamedTuple):
    """The outcome of one training."""

    alarms: Mapping[str, int]
    """Rule → number of finished steps when its warning or error was first open."""
    first_reward: float
    last_reward: float


def train(recipe: Recipe, seed: int) -> Outcome:
    """Train one policy; everything random follows from `seed`."""
    torch.manual_seed(seed)
    policy = copy.deepcopy(reference_policy())
    fixed, generator = copy.deepcopy(policy), copy.deepcopy(policy)
    optimizer = torch.optim.Adam(policy.parameters(), recipe.learning_rate)
    alarms: dict[str, int] = {}
    rewards: list[float] = []
    monitor = trainvitals.watch(policy, optimizer, collector="off", every=4)
    for step in range(recipe.steps):
        if recipe.synchronise_every and step % recipe.synchronise_every == 0:
            _synchronise(generator, policy, recipe.generator_noise)
        prompts = torch.arange(PROMPTS).repeat_interleave(recipe.group)
        rollout = generate(generator, prompts, temperature=recipe.temperature, end=recipe.end)
        given = recipe.reward(prompts, rollout.tokens, rollout.mask.sum(1))
        loss, scalars = loss_of(policy, fixed, rollout, given, recipe)
        monitor.loss(loss)
        monitor.log(**scalars)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(scalars["reward"])
        done = step + 1
        if done <= EARLY or done % EARLY == 0 or done == recipe.steps:
            for finding in monitor.diagnosis().findings:
                if finding.is_alarm:
                    alarms.setdefault(finding.rule, done)
    monitor.close()
    return Outcome(alarms, sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5)


def _synchronise(generator: Policy, policy: Policy, noise: float) -> None:
    generator.load_state_dict(policy.state_dict())
    if noise:
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(1 + noise * torch.randn_like(parameter))


def measure_faults(seeds: Iterable[int]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each fault, one for each seed."""
    chosen = list(seeds)
    return {name: [train(f.recipe, seed) for seed in chosen] for name, f in FAULTS.items()}


def measure_healthy(seeds: Iterable[int]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each healthy recipe, one for each seed."""
    chosen = list(seeds)
    return {name: [train(recipe, seed) for seed in chosen] for name, recipe in HEALTHY.items()}


def is_found(name: str, outcome: Outcome) -> bool:
    """Whether a rule that names the fault was an open alarm at one of the checks."""
    return bool(FAULTS[name].rules & set(outcome.alarms))
