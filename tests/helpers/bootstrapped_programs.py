"""Healthy reinforcement learning with bootstrapped targets: the loss rises while the agent learns.

The targets r + γ·max Q(s') grow with the values that the model has learned; so does the error.
Each program takes a seed and returns an `Outcome`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.healthy_programs import watched
from helpers.small_runs import Outcome, layers

ENVIRONMENTS, GAMMA = 16, 0.99


class Transition(NamedTuple):
    state: Tensor
    action: Tensor
    reward: Tensor
    after: Tensor
    ended: Tensor


class Poles:
    """A pole on a cart, 16 times (Barto, Sutton & Anderson 1983); a reward of 1 for each step."""

    def __init__(self) -> None:
        self.state = torch.empty(ENVIRONMENTS, 4).uniform_(-0.05, 0.05)

    def step(self, action: Tensor) -> Transition:
        """Apply actions, shape (16,), 0 or 1; a pole that fell is set up again."""
        before = self.state
        _, speed, angle, turn = before.unbind(1)
        sine, cosine = angle.sin(), angle.cos()
        push = (20.0 * action - 10.0 + 0.05 * turn**2 * sine) / 1.1
        bend = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        pull = push - 0.05 * bend * cosine / 1.1
        after = before + 0.02 * torch.stack([speed, pull, turn, bend], 1)
        ended = (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 0.21)
        fresh = torch.empty_like(after).uniform_(-0.05, 0.05)
        self.state = torch.where(ended[:, None], fresh, after)
        return Transition(before, action, torch.ones(ENVIRONMENTS), after, ended.float())


def q_learning(
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
    *,
    double: bool = False,
    soft: bool = False,
    sarsa: bool = False,
    rate: float = 1e-3,
    steps: int = 600,
    reward: float = 1.0,
) -> Callable[[int], Outcome]:
    """Return a program of deep Q-learning (Mnih et al. 2015) with one of its variants."""

    def program(seed: int) -> Outcome:
        torch.manual_seed(seed)
        model, poles, memory = layers(4, 64, 64, 2), Poles(), list[Transition]()
        slow = copy.deepcopy(model)

        def target_of(t: Transition) -> Tensor:
            with torch.no_grad():
                values = slow(t.after)
                if double:
                    best = values.gather(1, model(t.after).argmax(1, keepdim=True))[:, 0]
                elif sarsa:
                    best = values.mean(1)
                else:
                    best = values.amax(1)
                return reward * t.reward + GAMMA * (1 - t.ended) * best

        def loss(step: int) -> Tensor:
            random = torch.rand(ENVIRONMENTS) < max(0.1, 1 - step / 300)
            with torch.no_grad():
                chosen = model(poles.state).argmax(1)
            action = torch.where(random, torch.randint(0, 2, chosen.shape), chosen)
            memory.append(poles.step(action))
            del memory[:-500]
            picked = [memory[i] for i in torch.randint(0, len(memory), (8,)).tolist()]
            t = Transition(*(torch.cat(part) for part in zip(*picked, strict=True)))
            if soft:
                with torch.no_grad():
                    for old, new in zip(slow.parameters(), model.parameters(), strict=True):
                        old.lerp_(new, 0.02)
            elif step % 50 == 0:
                slow.load_state_dict(model.state_dict())
            return loss_function(model(t.state).gather(1, t.action[:, None])[:, 0], target_of(t))

        optimizer = torch.optim.Adam(model.parameters(), rate)
        return watched(model, optimizer, loss, steps=steps)

    return program


BOOTSTRAPPED = {
    "q_learning": q_learning(),
    "q_learning_for_longer": q_learning(steps=1200),
    "q_learning_at_a_higher_rate": q_learning(rate=3e-3),
    "large_rewards": q_learning(reward=5.0),
    "smooth_absolute_error": q_learning(F.smooth_l1_loss),
    "huber": q_learning(F.huber_loss),
    "double": q_learning(double=True),
    "slow_target": q_learning(soft=True),
    "expected_sarsa": q_learning(sarsa=True),
}
