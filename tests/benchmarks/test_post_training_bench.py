"""The benchmark of post-training trains as documented, and the diagnosis finds its faults."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from helpers.watching import own_home  # noqa: F401 - a fixture
from post_training.bench import is_found, train
from post_training.faults import FAULTS, HEALTHY, NO_SIGNAL
from post_training.policy import END, LENGTH, PROMPTS, generate, log_softmax_of
from post_training.reference import reference_policy

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.timeout(240)]


def test_the_trainer_computes_the_probabilities_with_which_tokens_were_sampled():
    torch.manual_seed(0)
    rollout = generate(reference_policy(), torch.arange(PROMPTS).repeat(4), temperature=1.0)
    scores = log_softmax_of(reference_policy(), rollout)
    chosen = scores.gather(2, rollout.tokens[..., None])[..., 0]
    assert torch.allclose(
        chosen * rollout.mask, rollout.log_probabilities * rollout.mask, atol=1e-5
    )


def test_a_completion_is_masked_after_its_end_token():
    torch.manual_seed(1)
    rollout = generate(reference_policy(), torch.zeros(64, dtype=torch.long), temperature=1.0)
    for tokens, mask, truncated in zip(
        rollout.tokens.tolist(),
        rollout.mask.sum(1).tolist(),
        rollout.truncated.tolist(),
        strict=True,
    ):
        ends = tokens.index(END) + 1 if END in tokens else LENGTH
        assert mask == ends
        assert bool(truncated) is (END not in tokens)


def test_equal_rewards_are_found_after_ten_steps():
    outcome = train(replace(FAULTS["every reward is 0"].recipe, steps=12), 0)
    assert outcome.alarms == {NO_SIGNAL: 10}


def test_a_healthy_policy_learns_and_has_no_alarm():
    outcome = train(HEALTHY["first, default"], 0)
    assert outcome.last_reward > outcome.first_reward + 0.3
    assert not outcome.alarms


def test_a_generator_with_other_weights_is_found():
    name = "the generator keeps its first weights"
    assert is_found(name, train(FAULTS[name].recipe, 0))
