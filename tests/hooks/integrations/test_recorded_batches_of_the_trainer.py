"""With `record=`, the rows that the Trainer of Hugging Face trains in a step are those recorded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainingArguments

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.integrations.huggingface import TrainvitalsCallback

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]

ROWS = 40


class Rows(Dataset):
    """Row i contains i, and noise from torch's generator."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        x = torch.rand(4)
        x[0] = index
        return {"x": x, "labels": torch.tensor(0.5)}


class Net(nn.Module):
    """Notes the rows that it is called with."""

    def __init__(self):
        super().__init__()
        self.body, self.seen = nn.Linear(4, 1), []

    def forward(self, x, labels):
        self.seen.append(x[:, 0].long().tolist())
        output = nn.functional.dropout(self.body(x / ROWS), 0.2)[:, 0]
        return {"loss": (output - labels).square().mean(), "logits": output}


def trained(folder, *callbacks, resume=None, kind=Trainer, **arguments):
    torch.manual_seed(0)
    found = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 6,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    model, arguments = Net(), TrainingArguments(**(found | arguments))
    trainer = kind(model, arguments, train_dataset=Rows(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return model


def recording(folder):
    return TrainvitalsCallback(collector="off", record=folder / "recordings")


class Kept(TrainvitalsCallback):
    """Keeps the contexts of the ring, which are gone after the training."""

    def on_epoch_end(self, args, state, control, **_):
        self.contexts = self.monitor._recorder._ring.freeze().contexts


def recorded(folder, **arguments):
    """Return the rows of each step as recorded, those that the model saw, and the contexts."""
    callback = Kept(collector="off", record=folder / "recordings")
    model = trained(folder, callback, **arguments)
    rows = [[list(batch) for batch in context.batches] for context in callback.contexts]
    assert callback.monitor.diagnosis().not_watched == {}
    return rows, model.seen, callback.contexts


def grouped(seen, sizes):
    batches = iter(seen)
    return [[next(batches) for _ in range(size)] for size in sizes]


def test_a_step_has_the_rows_of_its_micro_batches(tmp_path):
    rows, seen, contexts = recorded(tmp_path, gradient_accumulation_steps=2)
    assert rows == grouped(seen, [2, 2, 2, 1] * 2)
    assert sorted(row for batch in seen[:7] for row in batch) == list(range(ROWS))
    assert all(context.of_torch is not None for context in contexts)


@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes_change_nothing(tmp_path, persistent):
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}
    rows, seen, _ = recorded(tmp_path, **workers)
    assert rows == [[batch] for batch in seen]
    assert len(seen) == 14
    plain = trained(tmp_path, **workers)
    assert plain.seen == seen


def test_a_resume_in_the_middle_of_an_epoch_has_the_rows_that_are_left(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    trained(tmp_path, **saving)
    resume = str(tmp_path / "checkpoint-3")
    rows, seen, contexts = recorded(tmp_path, resume=resume)
    plain = trained(tmp_path, resume=resume)
    assert rows == [[batch] for batch in seen]
    assert seen == plain.seen
    assert [context.step for context in contexts] == list(range(3, 14))


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}])
def test_the_training_is_the_same_bit_for_bit(tmp_path, options):
    plain = trained(tmp_path, **options)
    state = torch.get_rng_state()
    watched = trained(tmp_path, recording(tmp_path), **options)
    assert torch.equal(state, torch.get_rng_state())
    assert plain.seen == watched.seen
    assert torch.equal(plain.body.weight, watched.body.weight)


class Streams(Trainer):
    def get_train_dataloader(self):
        return [self.data_collator([Rows()[i] for i in range(4)])] * 3


def test_batches_of_another_iterator_are_trained_and_the_reason_is_given(tmp_path):
    callback = recording(tmp_path)
    model = trained(tmp_path, callback, kind=Streams)
    assert model.seen == [[0, 1, 2, 3]] * 6
    assert "list_iterator" in callback.monitor.diagnosis().not_watched["sample indices"]


# Accelerate.


def epochs_of(loader, given, numbers):
    found = []
    for number in numbers:
        given.set_epoch(number)
        found.append([row for (rows,) in loader for row in rows[:, 0].tolist()])
    return found


def test_an_epoch_that_the_program_sets_on_its_own_loader_counts(tmp_path):
    def prepared():
        torch.manual_seed(0)
        seeded = DataLoaderConfiguration(use_seedable_sampler=True)
        accelerator = Accelerator(cpu=True, dataloader_config=seeded)
        data = DataLoader(TensorDataset(torch.arange(12.0)[:, None]), 4, shuffle=True)
        return accelerator.prepare(data)

    plain, given = prepared(), prepared()
    monitor = trainvitals.watch(nn.Linear(1, 1), collector="off", record=tmp_path)
    observed = monitor.batches(given)
    assert epochs_of(observed, given, [5, 2, 2]) == epochs_of(plain, plain, [5, 2, 2])
    assert list(map(str, observed)) == list(map(str, plain))
    assert given.iteration == plain.iteration == 4
    assert epochs_of(observed, observed, [7]) == epochs_of(plain, plain, [7])
    monitor.close()
