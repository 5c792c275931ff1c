"""The trainers of TRL, really trained: rewards, KL divergence and lengths reach the run."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest

pytest.importorskip("trl", reason="TRL is in the dependency group `dev`")

from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from helpers.trl_models import WORDS, common, policy, tokenizer
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.diagnosis.post_training import Quantity, logged
from trainvitals.integrations.huggingface import TrainvitalsCallback
from trainvitals.recorder import bundle
from trainvitals.replay import replay

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


def grpo(folder, reward, steps=14):
    callback = TrainvitalsCallback(collector="off", every=1)
    arguments = common(folder, steps)
    trainer = GRPOTrainer(
        model=policy(folder),
        reward_funcs=reward,
        args=GRPOConfig(**arguments, num_generations=4, max_completion_length=6, beta=0.04),
        train_dataset=Dataset.from_list([{"prompt": "a b"}, {"prompt": "c d"}] * 16),
        processing_class=tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    return callback.monitor, trainer


def share_of_a(completions, **_):
    return [text.split().count("a") / 6 for text in completions]


def test_grpo_records_what_the_trainer_computes_and_has_no_alarm(tmp_path):
    monitor, trainer = grpo(tmp_path, share_of_a)
    history = monitor._diagnosis.history
    for quantity, name in (
        (Quantity.REWARD, "reward"),
        (Quantity.REWARD_STD, "reward_std"),
        (Quantity.EQUAL_GROUPS_SHARE, "frac_reward_zero_std"),
        (Quantity.KL, "kl"),
        (Quantity.ENTROPY, "entropy"),
        (Quantity.CLIPPED_SHARE, "clip_ratio/region_mean"),
        (Quantity.LENGTH, "completions/mean_length"),
        (Quantity.TRUNCATED_SHARE, "completions/clipped_ratio"),
    ):
        shown = [entry[name] for entry in trainer.state.log_history if name in entry]
        seen = logged(history, quantity)
        assert len(seen) >= 12, quantity
        assert seen.values == pytest.approx(shown[: len(seen)], rel=1e-3, abs=1e-4), quantity
    rules = {f.rule for f in monitor.diagnosis().findings if f.is_alarm}
    assert not rules & {"no_signal", "entropy_collapse", "rollout_mismatch", "no_learning"}


def test_grpo_with_equal_rewards_has_no_signal_although_the_kl_term_has_gradients(tmp_path):
    monitor, _ = grpo(tmp_path, lambda completions, **_: [0.0] * len(completions))
    found = {f.rule: f for f in monitor.diagnosis().findings if f.is_alarm}
    assert "rewards of each group are equal" in found["no_signal"].summary


def test_dpo_records_its_margins(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    row = {"prompt": "a b", "chosen": "c d e", "rejected": "f g h"}
    DPOTrainer(
        model=policy(tmp_path),
        args=DPOConfig(**common(tmp_path, 6)),
        train_dataset=Dataset.from_list([row] * 32),
        processing_class=tokenizer(),
        callbacks=[callback],
    ).train()
    history = callback.monitor._diagnosis.history
    margins = history.scalar("log/rewards/margins").values
    assert margins[-1] > margins[0]
    assert len(history.scalar("loss")) == 6


def test_sft_records_its_token_accuracy(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    SFTTrainer(
        model=policy(tmp_path),
        args=SFTConfig(**common(tmp_path, 6), max_length=16),
        train_dataset=Dataset.from_list([{"text": "a b c d e"}] * 32),
        processing_class=tokenizer(),
        callbacks=[callback],
    ).train()
    history = callback.monitor._diagnosis.history
    assert len(history.scalar("log/mean_token_accuracy")) >= 5
    loss = history.scalar("loss").values
    assert loss[-1] < loss[0]


BAD = 19


def test_sft_names_the_row_that_the_model_cannot_read_first(tmp_path):
    texts = [" ".join((WORDS[3 + i % 8], WORDS[3 + i // 8], "l")) for i in range(32)]
    texts[BAD] = "a b m"

    def model():
        made, word = policy(tmp_path), WORDS.index("m")

        def broken(_, given, output):
            return output.masked_fill((given[0] == word).any(1)[:, None, None], float("nan"))

        made.get_input_embeddings().register_forward_hook(broken)
        return made

    callback = TrainvitalsCallback(collector="off", every=1, record=tmp_path / "recordings")
    trainer = SFTTrainer(
        model=model(),
        args=SFTConfig(**common(tmp_path, 4), max_length=16),
        train_dataset=Dataset.from_list([{"text": text} for text in texts]),
        processing_class=tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    [path] = callback.monitor.recordings
    data = DataLoader(trainer.train_dataset, collate_fn=trainer.data_collator)
    again = replay(bundle.read(path), model(), None, None, data)
    assert len(again.samples) == 8
    assert again.samples[0].index == BAD
