"""What trainers of post-training log (policy gradients with rewards), by quantity.

Comes in: a history with scalars of `monitor.log`, or of the logs of a Hugging Face Trainer.
Goes out: one curve for each `Quantity`, under any of its known names.
Promise:  pure; a quantity that is not logged is an empty curve.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from trainvitals.diagnosis.history import History, Series, once
from trainvitals.diagnosis.signals import middle

LOGGED: Final = "log/"
"""Prefix of the scalars that a program logs."""


class Quantity(StrEnum):
    """A quantity of a policy and its rewards in one step; the value is the name to log."""

    REWARD = "reward"
    """Mean reward of the completions."""
    REWARD_STD = "reward_std"
    """Standard deviation of the rewards: within the groups, or over the batch."""
    EQUAL_GROUPS_SHARE = "equal_groups_share"
    """Share of groups whose rewards are all equal, 0 to 1."""
    KL = "kl"
    """Mean KL divergence from the reference policy, nats per token."""
    ENTROPY = "entropy"
    """Mean entropy of the policy, nats per token."""
    CLIPPED_SHARE = "clip_ratio"
    """Share of tokens whose probability ratio is clipped, 0 to 1."""
    LENGTH = "completion_length"
    """Mean number of tokens of a completion."""
    TRUNCATED_SHARE = "truncated_share"
    """Share of completions that reach the maximum length without an end token, 0 to 1."""
    ROLLOUT_GAP = "rollout_gap"
    """Mean |difference| of the log-probabilities of sampled tokens, between the program that
    generated them and the trainer, nats per token."""


NAMES: Final = MappingProxyType(
    {
        Quantity.REWARD: ("reward", "critic/rewards/mean", "critic/score/mean"),
        Quantity.REWARD_STD: ("reward_std",),
        Quantity.EQUAL_GROUPS_SHARE: ("equal_groups_share", "frac_reward_zero_std"),
        Quantity.KL: ("kl", "actor/kl_loss", "actor/reward_kl_penalty"),
        Quantity.ENTROPY: ("entropy", "actor/entropy", "actor/entropy_loss"),
        Quantity.CLIPPED_SHARE: ("clip_ratio", "clip_ratio/region_mean", "actor/pg_clipfrac"),
        Quantity.LENGTH: (
            "completion_length",
            "completions/mean_length",
            "response_length/mean",
        ),
        Quantity.TRUNCATED_SHARE: (
            "truncated_share",
            "completions/clipped_ratio",
            "response_length/clip_ratio",
        ),
        Quantity.ROLLOUT_GAP: ("rollout_gap", "sampling/sampling_logp_difference/mean"),
    }
)
"""Quantity → names, the first that is logged counts: ours, then those of TRL and veRL.

veRL's names are those in its source: `compute_data_metrics`, `DataParallelPPOActor` and
`apply_kl_penalty`. Its `training/rollout_probs_diff_mean` compares probabilities, not their
logarithms, and is no ROLLOUT_GAP.
"""


def name_of(history: History, quantity: Quantity) -> str:
    """Return the full name under which the quantity is logged; "" if it is not."""
    known = set(history.scalar_names())
    return next((LOGGED + n for n in NAMES[quantity] if LOGGED + n in known), "")


def logged(history: History, quantity: Quantity) -> Series:
    """Return the finite values of a quantity, oldest first; empty if it is not logged."""
    return history.scalar(name_of(history, quantity)).finite()


@once
def optimises_reward(history: History) -> bool:
    """Whether the run is a policy gradient: a reward is logged with its spread, KL or entropy.

    The level of such a loss is no evidence: it is near 0 by construction, with live gradients.
    """
    others = (
        Quantity.REWARD_STD,
        Quantity.EQUAL_GROUPS_SHARE,
        Quantity.KL,
        Quantity.ENTROPY,
        Quantity.CLIPPED_SHARE,
    )
    return bool(name_of(history, Quantity.REWARD)) and any(name_of(history, q) for q in others)


def gain_of_reward(history: History, observations: int) -> float | None:
    """Return the rise of the reward since the start, in standard deviations of the first rewards.

    Medians of the newest `observations` values and of the first half as many. The unit is the
    spread of single rewards at the start, at least 1e-6 of their size; None if reward or spread is
    not logged.
    """
    reward = logged(history, Quantity.REWARD).values.astype(np.float64)
    spread = logged(history, Quantity.REWARD_STD).values.astype(np.float64)
    if len(reward) < 2 * observations or len(spread) < observations:
        return None
    first = max(1, observations // 2)
    start, now = middle(reward[:first]), middle(reward[-observations:])
    unit = max(middle(spread[:first]), 1e-6 * abs(start), 1e-12)
    return (now - start) / unit


def is_solved(history: History, observations: int) -> bool:
    """Whether the reward has risen and is now at its best level: equal rewards are then expected.

    The levels are medians of `observations` values.
    """
    reward = logged(history, Quantity.REWARD).values.astype(np.float64)
    if len(reward) < 2 * observations:
        return False
    blocks = np.array_split(reward, max(2, len(reward) // observations))
    start, best = (
        middle(reward[: max(1, observations // 2)]),
        max(middle(block) for block in blocks),
    )
    now = middle(reward[-observations:])
    return bool(now > start and now >= best - 1e-3 * abs(best - start))
