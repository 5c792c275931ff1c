"""The Trainer of Hugging Face, really trained: what it knows reaches the run."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.ending import open_monitors
from trainvitals.integrations.huggingface import TrainvitalsCallback
from trainvitals.integrations.script import Unasked
from trainvitals.wire import EventKind

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


def trained(folder, *, callbacks=(), steps=12, **arguments):
    """Train a tiny language model, and return the Trainer."""
    torch.manual_seed(0)
    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(0, 64, (64, 12), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            **{
                "output_dir": str(folder),
                "per_device_train_batch_size": 8,
                "max_steps": steps,
                "logging_steps": 1,
                "report_to": [],
                "use_cpu": True,
                "disable_tqdm": True,
                "save_strategy": "no",
                "learning_rate": 1e-3,
                "seed": 0,
            }
            | arguments
        ),
        train_dataset=data,
        eval_dataset=data[:16],
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=arguments.get("resume"))
    return trainer


def losses_of(monitor, name="loss"):
    return monitor._diagnosis.history.scalar(name).values.tolist()


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_one_line_records_the_loss_the_plan_and_the_hyper_parameters(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    trainer = trained(tmp_path, callbacks=[callback])
    monitor = callback.monitor
    assert losses_of(monitor) == pytest.approx(logged(trainer), abs=1e-3)
    history = monitor._diagnosis.history
    assert history.total_steps == 12
    assert history.facts["optimizer"] == "AdamW"
    diagnosis = monitor.diagnosis()
    assert diagnosis.step == 11
    assert diagnosis.not_watched == {}
    assert "lm_head" in diagnosis.watched


def test_with_accumulation_the_loss_is_that_of_the_whole_step(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    trainer = trained(tmp_path, callbacks=[callback], gradient_accumulation_steps=4)
    assert losses_of(callback.monitor) == pytest.approx(logged(trainer), abs=1e-3)


def test_the_evaluation_loss_is_the_validation_split(tmp_path):
    callback = TrainvitalsCallback(collector="off")
    trainer = trained(tmp_path, callbacks=[callback], eval_strategy="steps", eval_steps=4)
    seen = losses_of(callback.monitor, "loss/validation")
    assert seen == pytest.approx(logged(trainer, "eval_loss")[: len(seen)], abs=1e-3)
    assert len(seen) >= 2


def test_epochs_are_recorded_and_saved_checkpoints_are_events(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    trained(tmp_path, callbacks=[callback], save_strategy="steps", save_steps=6)
    assert losses_of(callback.monitor, "log/epoch") == [1, 2]  # 8 steps each
    events = callback.monitor._diagnosis.history.events
    saved = [(e.step, e.text) for e in events if e.kind == EventKind.CHECKPOINT]
    assert saved == [(5, "checkpoint-6"), (11, "checkpoint-12")]


def test_a_resumed_training_continues_its_steps(tmp_path):
    trained(tmp_path, steps=6, save_strategy="steps", save_steps=6)
    callback = TrainvitalsCallback(collector="off", every=1)
    torch.manual_seed(0)
    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(0, 64, (64, 12), generator=torch.Generator().manual_seed(0))
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            max_steps=10,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    steps = callback.monitor._diagnosis.history.scalar("loss").steps.tolist()
    assert steps == [6, 7, 8, 9]


def test_the_training_is_the_same_bit_for_bit(tmp_path):
    plain = trained(tmp_path).model
    watched = trained(tmp_path, callbacks=[TrainvitalsCallback(collector="off", every=1)]).model
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_watch_alone_sees_the_loss_too(tmp_path):
    torch.manual_seed(0)
    found = []

    class Early(TrainvitalsCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            found.append(trainvitals.watch(model, collector="off", every=1))

    trainer = trained(tmp_path, callbacks=[Early()])
    assert losses_of_open(found[0]) == pytest.approx(logged(trainer), abs=1e-3)


def losses_of_open(monitor):
    monitor.close()
    return losses_of(monitor)


@pytest.mark.parametrize("model_takes_counts", [True, False])
def test_a_program_that_is_not_changed_has_the_loss_of_the_whole_step_too(
    tmp_path, monkeypatch, model_takes_counts
):
    monkeypatch.setattr(GPT2LMHeadModel, "accepts_loss_kwargs", model_takes_counts, raising=False)
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    made = torch.optim.Optimizer.__init__
    for left_open in [*open_monitors]:  # by a test before; a watched program is left alone
        left_open.close()
    unasked = Unasked({"collector": "off", "every": 1})
    unasked.install()
    try:
        trainer = trained(tmp_path, gradient_accumulation_steps=4)
    finally:
        monkeypatch.undo()
        torch.autograd.backward, torch.amp.GradScaler.scale = backward, scale
        torch.optim.Optimizer.__init__ = made
    unasked.monitor.close()
    assert losses_of(unasked.monitor) == pytest.approx(logged(trainer), abs=1e-3)


def test_a_training_that_raises_is_failed(tmp_path):
    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            raise RuntimeError("no more data")

    callback = TrainvitalsCallback(collector="off", every=1)
    with pytest.raises(RuntimeError, match="no more data"):
        trained(tmp_path, callbacks=[callback, Breaks()])
    assert (callback.monitor._closed, callback.monitor._state) == (True, "failed")
    assert callback.monitor._error == "RuntimeError: no more data"
