"""With `record=`, the rows that a trainer of TRL trains in a step are those recorded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch

pytest.importorskip("trl", reason="TRL is in the dependency group `dev`")

from datasets import Dataset
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from helpers.trl_models import WORDS, common, policy, tokenizer
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.integrations.huggingface import TrainvitalsCallback

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]

ROWS, STEPS, FIRST = 32, 6, 3
"""Rows of the data, steps, and the index of the first letter in WORDS."""


def words_of(row):
    """Return the first two words of a row; no other row begins with them."""
    return f"{WORDS[FIRST + row % 8]} {WORDS[FIRST + row // 8]}"


def rows_in(tokens):
    """Return the row of each sequence of a batch; padding is token 0."""
    begins = [[token for token in sequence if token][:2] for sequence in tokens.tolist()]
    return [(first - FIRST) + 8 * (second - FIRST) for first, second in begins]


def of_sft(model, folder, callbacks, **arguments):
    return SFTTrainer(
        model=model,
        args=SFTConfig(**common(folder, STEPS) | arguments, max_length=16),
        train_dataset=Dataset.from_list([{"text": f"{words_of(i)} l"} for i in range(ROWS)]),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def of_dpo(model, folder, callbacks, **arguments):
    rows = [{"prompt": words_of(i), "chosen": " c d e", "rejected": " f g"} for i in range(ROWS)]
    return DPOTrainer(
        model=model,
        args=DPOConfig(**common(folder, STEPS) | arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def of_grpo(model, folder, callbacks, kind=GRPOTrainer, config=GRPOConfig, **arguments):
    def reward(completions, **_):
        return [text.split().count("a") / 6 for text in completions]

    own = {"num_generations": 4, "max_completion_length": 6, "beta": 0.04}
    return kind(
        model=model,
        reward_funcs=reward,
        args=config(**common(folder, STEPS) | own | arguments),
        train_dataset=Dataset.from_list([{"prompt": words_of(i)} for i in range(ROWS)]),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def of_rloo(*given, **arguments):
    return of_grpo(*given, kind=RLOOTrainer, config=RLOOConfig, **arguments)


class Kept(TrainvitalsCallback):
    """Keeps the contexts of the ring, which are gone after the training."""

    def on_train_end(self, args, state, control, **_):
        self.contexts = self.monitor._recorder._ring.freeze().contexts
        super().on_train_end(args, state, control)


def trained(kind, folder, *callbacks, **arguments):
    """Train, and return the rows of each batch that had gradients, the weights and the states."""
    model, seen = policy(folder), []

    def note(_, given, __):
        if torch.is_grad_enabled() and model.training:
            seen.append(rows_in(given[0]))

    model.get_input_embeddings().register_forward_hook(note)
    torch.manual_seed(0)
    trainer = kind(model, folder, list(callbacks), **arguments)
    trainer.train()
    return seen, [p.detach().clone() for p in model.parameters()], torch.get_rng_state()


ACCUMULATED = {"gradient_accumulation_steps": 2}
FOUR_PARTS = {"steps_per_generation": 4}
TWICE = {"steps_per_generation": 2, "num_iterations": 2}
CASES = [
    (of_sft, {}),
    (of_sft, ACCUMULATED),
    (of_dpo, {}),
    (of_dpo, ACCUMULATED),
    (of_grpo, {}),
    (of_grpo, ACCUMULATED),
    (of_grpo, FOUR_PARTS),
    (of_grpo, TWICE),
    (of_grpo, ACCUMULATED | FOUR_PARTS),
    (of_rloo, TWICE),
    (of_rloo, ACCUMULATED | FOUR_PARTS),
]


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_the_rows_of_each_step_are_recorded_and_the_training_is_bit_identical(
    tmp_path, kind, arguments
):
    callback = Kept(collector="off", every=1, record=tmp_path / "recordings")
    seen, weights, state = trained(kind, tmp_path, callback, **arguments)
    plain = trained(kind, tmp_path, **arguments)
    assert seen == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(weights, plain[1], strict=True))
    assert torch.equal(state, plain[2])

    if kind is of_dpo:  # the chosen and the rejected answers of the same rows
        assert all(rows[: len(rows) // 2] == rows[len(rows) // 2 :] for rows in seen)
        seen = [rows[: len(rows) // 2] for rows in seen]
    batches = iter(seen)
    size = arguments.get("gradient_accumulation_steps", 1)
    steps = [[next(batches) for _ in range(size)] for _ in range(STEPS)]
    assert [[list(b) for b in c.batches] for c in callback.contexts] == steps
    assert len({row for rows in seen for row in rows}) >= 6
    assert callback.monitor.diagnosis().not_watched == {}
