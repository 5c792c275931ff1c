"""TV107 and TV511 to TV514 on what trainers of post-training log, and on what looks similar."""

from types import MappingProxyType

import numpy as np
import pytest

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.post_training import NAMES, Quantity, logged
from trainvitals.diagnosis.rules.entropy_collapse import EntropyCollapse
from trainvitals.diagnosis.rules.length_drift import LengthDrift
from trainvitals.diagnosis.rules.no_signal import NoSignal
from trainvitals.diagnosis.rules.reward_without_kl import RewardWithoutKl
from trainvitals.diagnosis.rules.rollout_mismatch import RolloutMismatch

FALL = np.exp(-np.arange(60) / 10)


def run(n=60, **columns):
    """Return a history; `log__reward` is the logged scalar `reward`."""
    return Example(n).scalars(**{k: np.broadcast_to(v, n) for k, v in columns.items()}).history


def found(rule, **columns):
    return list(rule.check(run(**columns)))


class TestNames:
    @pytest.mark.parametrize("quantity", list(Quantity))
    def test_each_name_of_a_trainer_is_read(self, quantity):
        for name in NAMES[quantity]:
            history = Example(3).scalars(**{f"log/{name}": [1.0, 2.0, 3.0]}).history
            assert logged(history, quantity).values.tolist() == [1, 2, 3]

    @pytest.mark.parametrize(
        ("name", "quantity"),
        [
            ("critic/rewards/mean", Quantity.REWARD),
            ("critic/score/mean", Quantity.REWARD),
            ("response_length/mean", Quantity.LENGTH),
            ("response_length/clip_ratio", Quantity.TRUNCATED_SHARE),
            ("actor/pg_clipfrac", Quantity.CLIPPED_SHARE),
            ("actor/kl_loss", Quantity.KL),
            ("actor/reward_kl_penalty", Quantity.KL),
            ("actor/entropy", Quantity.ENTROPY),
        ],
    )
    def test_the_names_in_the_source_of_verl_are_read(self, name, quantity):
        history = run(**{f"log__{name.replace('/', '__')}": 0.5})
        assert f"log/{name}" in history.scalar_names()
        read = {q for q in Quantity if len(logged(history, q).values)}
        assert read == {quantity}

    @pytest.mark.parametrize(
        "name",
        ["actor/ppo_kl", "training/rollout_probs_diff_mean", "critic/rewards/max"],
    )
    def test_other_names_of_verl_are_no_quantity(self, name):
        history = run(**{f"log__{name.replace('/', '__')}": 0.5})
        assert f"log/{name}" in history.scalar_names()
        assert not [q for q in Quantity if len(logged(history, q).values)]

    def test_our_name_is_preferred_and_is_the_value_of_the_quantity(self):
        assert all(names[0] == quantity for quantity, names in NAMES.items())

    def test_the_level_of_a_policy_loss_is_no_evidence(self):
        loss = {"loss": np.abs(np.sin(np.arange(60)))}
        assert Course(run(**loss)).known
        assert not Course(run(**loss, log__reward=0.5, log__entropy=1.0)).known

    def test_rewards_of_a_preference_loss_leave_its_level_as_evidence(self):
        history = run(loss=FALL, **{"log/rewards/margins": 1 - FALL})
        assert Course(history).known


EQUAL = MappingProxyType({"loss": 0.0, "log__reward_std": 0.0, "log__reward": 0.0})


class TestNoSignal:
    def test_ten_steps_are_enough_where_rewards_are_logged(self):
        [finding] = found(NoSignal(), n=10, gradient_norm=0.0, **EQUAL)
        assert "rewards of each group are equal" in finding.summary
        assert not found(NoSignal(), n=9, gradient_norm=0.0, **EQUAL)

    def test_a_gradient_of_the_kl_term_does_not_hide_equal_rewards(self):
        [finding] = found(NoSignal(), n=20, gradient_norm=0.1, **EQUAL)
        assert finding.since_step == 0

    def test_zero_gradients_with_different_rewards_point_to_a_mask(self):
        [finding] = found(NoSignal(), n=20, gradient_norm=0.0, loss=0.0, log__reward_std=0.4)
        assert "mask" in finding.summary

    def test_a_clipped_ratio_is_named(self):
        [finding] = found(NoSignal(), n=20, gradient_norm=0.0, loss=0.1, log__clip_ratio=1.0)
        assert "clipped" in finding.summary

    def test_a_solved_task_has_equal_rewards_and_is_healthy(self):
        reward = 1 - FALL
        reward[30:] = 1
        spread = np.where(np.arange(60) < 30, 0.4, 0.0)
        for norm in (0.0, 0.1):
            columns = {"loss": 0.0, "gradient_norm": norm, "log__reward": reward}
            assert not found(NoSignal(), log__reward_std=spread, **columns)
            assert found(NoSignal(), **columns | {"log__reward": reward[::-1]},
                         log__reward_std=spread)  # fmt: skip

    def test_rare_rewards_are_a_signal(self):
        spread = np.where(np.arange(60) % 9 == 0, 0.1, 0.0)
        assert not found(NoSignal(), gradient_norm=spread, loss=0.0, log__reward_std=spread)

    def test_a_loss_of_0_with_gradients_is_healthy_in_grpo(self):
        history = run(loss=0.0, gradient_norm=0.3, log__reward=0.4, log__reward_std=0.4)
        assert not [f for f in Engine().examine(history) if f.is_alarm]


class TestEntropyCollapse:
    def test_it_is_relative_to_the_start_of_the_run(self):
        low = {"log__reward": 0.3, "log__reward_std": 0.4}
        assert not found(EntropyCollapse(), log__entropy=0.02, **low)
        assert found(EntropyCollapse(), log__entropy=0.02 * FALL, **low)

    def test_without_a_reward_nothing_is_said(self):
        assert not found(EntropyCollapse(), log__entropy=FALL)

    def test_it_explains_the_equal_rewards_that_follow(self):
        spread = np.where(np.arange(60) < 30, 0.4, 0.0)
        history = run(loss=0.0, gradient_norm=spread, log__reward=0.3, log__reward_std=spread,
                      log__entropy=FALL)  # fmt: skip
        by_code = {f.code: f for f in Engine().examine(history) if f.is_alarm}
        assert by_code["TV107"].explained_by == "TV511"


class TestRewardWithoutKl:
    def test_a_reference_that_is_the_policy_has_a_kl_of_exactly_0(self):
        [finding] = found(RewardWithoutKl(), gradient_norm=0.1, log__kl=0.0)
        assert "policy itself" in finding.summary

    def test_a_kl_of_0_without_gradients_is_another_fault(self):
        assert not found(RewardWithoutKl(), gradient_norm=0.0, log__kl=0.0)

    def test_the_limit_is_relative_to_the_entropy_at_the_start(self):
        for entropy, expected in ((0.4, True), (2.0, False)):
            assert bool(found(RewardWithoutKl(), log__kl=1.0, log__entropy=entropy)) is expected


class TestRolloutMismatch:
    def test_rounding_is_not_reported_and_one_bad_step_is_not(self):
        gap = np.full(60, 0.04)
        gap[30] = 1.0
        assert not found(RolloutMismatch(), log__rollout_gap=gap)

    def test_the_step_at_which_it_began_is_named(self):
        gap = np.r_[np.full(40, 0.01), np.full(20, 0.5)]
        [finding] = found(RolloutMismatch(), log__rollout_gap=gap)
        assert finding.since_step == 40
        assert "after 0.01 at the start" in finding.summary


class TestLengthDrift:
    def test_completions_that_never_end_are_reported_from_the_start(self):
        [finding] = found(LengthDrift(), n=12, log__truncated_share=1.0)
        assert finding.since_step == 0

    def test_a_truncated_share_that_was_high_at_the_start_is_left_alone_below_its_limit(self):
        assert not found(LengthDrift(), log__truncated_share=0.7)
        grown = np.r_[np.full(20, 0.1), np.full(40, 0.7)]
        assert found(LengthDrift(), log__truncated_share=grown)

    def test_empty_completions_are_reported_even_if_the_reward_rises(self):
        columns = {"log__reward": 1 - FALL, "log__reward_std": 0.3}
        assert found(LengthDrift(), log__completion_length=1 + 20 * FALL, **columns)
        assert not found(LengthDrift(), log__completion_length=10 + 10 * FALL, **columns)
