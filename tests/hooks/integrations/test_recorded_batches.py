"""With `record=`, the integrations record which rows are in each batch, and change no training."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import keras
import lightning as L
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from ignite.engine import create_supervised_trainer
from skorch import NeuralNet
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.integrations.huggingface import TrainvitalsCallback as OfTheTrainer
from trainvitals.integrations.ignite import TrainvitalsHandler
from trainvitals.integrations.keras import TrainvitalsCallback as OfKeras
from trainvitals.integrations.lightning import TrainvitalsCallback as OfLightning
from trainvitals.integrations.skorch import TrainvitalsCallback as OfSkorch
from trainvitals.recorder import bundle
from trainvitals.replay import replay

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]

BAD = 77
SIZE = 16


def rows(bad=True):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    if bad:
        x[BAD, 3] = float("nan")
    return x, (x[:, 0] > 0).long()


def network(train=None):
    if train is of_keras:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((8,)), *layers])
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def loader(data):
    return DataLoader(TensorDataset(*data), batch_size=SIZE, shuffle=True)


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


class Net(L.LightningModule):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        return adam(self)


def of_lightning(model, data, **options):
    callback, given = OfLightning(**options), loader(data)
    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        callbacks=[callback] if options else [],
    )
    trainer.fit(Net(model), given)
    assert trainer.train_dataloader is given
    return callback.monitor


def of_ignite(model, data, **options):
    optimizer, criterion = adam(model), nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(model, optimizer, criterion)
    handler, given = TrainvitalsHandler(model, optimizer, loss=criterion, **options), loader(data)
    if options:
        handler.attach(trainer)
    trainer.run(given, max_epochs=2)
    return handler.monitor


def of_skorch(model, data, **options):
    callback = OfSkorch(**options)
    net = NeuralNet(
        model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=1e-2,
        batch_size=SIZE,
        max_epochs=2,
        train_split=None,
        iterator_train__shuffle=True,
        callbacks=[callback] if options else [],
        verbose=0,
    )
    net.fit(Dataset(data[0].numpy(), data[1].numpy()))
    assert "get_iterator" not in vars(net)
    model.load_state_dict(net.module_.state_dict())
    return callback.monitor


def of_accelerate(model, data, **options):
    accelerator = Accelerator(cpu=True)
    prepared, optimizer, given = accelerator.prepare(model, adam(model), loader(data))
    monitor = trainvitals.watch(prepared, optimizer, **options) if options else None
    for _ in range(2):
        for x, y in given if monitor is None else monitor.batches(given):
            loss = nn.functional.cross_entropy(prepared(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss if monitor is None else monitor.loss(loss))
            optimizer.step()
    if monitor is not None:
        monitor.close()
    return monitor


class WithLoss(nn.Module):
    """Returns its loss, as the models of transformers do."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x, labels):
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def of_the_trainer(model, data, **options):
    callback = OfTheTrainer(**options)
    arguments = TrainingArguments(
        "unused",
        num_train_epochs=2,
        per_device_train_batch_size=SIZE,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"x": x, "labels": y} for x, y in zip(*data, strict=True)]
    callbacks = [callback] if options else []
    Trainer(WithLoss(model), arguments, train_dataset=rows, callbacks=callbacks).train()
    return callback.monitor


def of_keras(model, data, **options):
    callback = OfKeras(**options)
    callbacks = [callback] if options else []
    model.compile(
        keras.optimizers.AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(*map(np.asarray, data), SIZE, epochs=2, callbacks=callbacks, verbose=0)
    return callback.monitor


FRAMEWORKS = [of_lightning, of_ignite, of_skorch, of_accelerate, of_the_trainer, of_keras]


@pytest.mark.parametrize("train", FRAMEWORKS)
def test_a_planted_bad_row_is_named_first(tmp_path, train):
    monitor = train(network(train), rows(), collector="off", every=1, record=tmp_path)
    [path] = monitor.recordings
    found = bundle.read(path)
    [indices] = found.contexts[found.description.step].batches
    assert (len(indices), BAD in indices) == (SIZE, True)
    again = replay(found, network(train), None, nn.CrossEntropyLoss(), TensorDataset(*rows()))
    assert again.samples[0].index == BAD


@pytest.mark.parametrize("train", FRAMEWORKS)
def test_the_training_is_the_same_bit_for_bit(tmp_path, train):
    plain, recorded = network(train), network(train)
    torch.manual_seed(1)
    train(plain, rows(bad=False))
    torch.manual_seed(1)
    train(recorded, rows(bad=False), collector="off", every=1, record=tmp_path)
    pairs = zip(plain.parameters(), recorded.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
