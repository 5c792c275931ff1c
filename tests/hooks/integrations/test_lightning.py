"""The Trainer of Lightning, really fitted: what it knows reaches the run."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Verdict
from trainvitals.integrations.lightning import TrainvitalsCallback
from trainvitals.wire import EventKind

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


class Net(L.LightningModule):
    def __init__(self, rate=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        self.losses = []

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, _):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self.body(x), y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.hparams.rate)


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    return TensorDataset(x, (x[:, 0] > 0).long())


def fitted(net, *, callbacks=(), epochs=3, checkpoint=None, **more):
    torch.manual_seed(1)
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=list(callbacks),
        **({"enable_checkpointing": False} | more),
    )
    loaders = (DataLoader(data(), 32, shuffle=True), DataLoader(data(), 64))
    trainer.fit(net, *loaders, ckpt_path=checkpoint)
    return trainer


def net():
    torch.manual_seed(0)
    return Net()


def scalar(callback, name):
    return callback.monitor._diagnosis.history.scalar(name).values.tolist()


def test_one_line_records_the_loss_the_plan_and_the_hyper_parameters():
    callback, model = TrainvitalsCallback(collector="off", every=1), net()
    fitted(model, callbacks=[callback])
    assert scalar(callback, "loss") == pytest.approx(model.losses, rel=1e-5)
    history = callback.monitor._diagnosis.history
    assert history.total_steps == 24
    assert history.facts["optimizer"] == "AdamW"
    assert callback.monitor.diagnosis().not_watched == {}


def test_the_logged_validation_loss_is_the_validation_split():
    callback = TrainvitalsCallback(collector="off")
    trainer = fitted(net(), callbacks=[callback])
    seen = scalar(callback, "loss/validation")
    assert 2 <= len(seen) <= 3  # that of the last epoch has no step after it
    assert seen[0] > float(trainer.callback_metrics["val_loss"])


def test_epochs_are_recorded_and_saved_checkpoints_are_events(tmp_path):
    callback = TrainvitalsCallback(collector="off", every=1)
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_epochs=1)
    fitted(net(), callbacks=[callback, saver], enable_checkpointing=True)
    assert scalar(callback, "log/epoch") == [1, 2, 3]
    events = callback.monitor._diagnosis.history.events
    saved = [(e.step, e.text) for e in events if e.kind == EventKind.CHECKPOINT]
    assert saved == [(7, "epoch 1"), (15, "epoch 2"), (23, "epoch 3")]


def test_with_accumulation_the_micro_batches_are_averaged():
    callback, model = TrainvitalsCallback(collector="off", every=1), net()
    fitted(model, callbacks=[callback], accumulate_grad_batches=2)
    pairs = zip(model.losses[::2], model.losses[1::2], strict=True)
    assert scalar(callback, "loss") == pytest.approx([(a + b) / 2 for a, b in pairs], rel=1e-5)


def test_a_resumed_fit_continues_its_steps(tmp_path):
    trainer = fitted(net(), epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    callback = TrainvitalsCallback(collector="off", every=1)
    fitted(net(), epochs=2, callbacks=[callback], checkpoint=tmp_path / "half.ckpt")
    assert callback.monitor._diagnosis.history.scalar("loss").steps.tolist() == list(range(8, 16))


def test_a_fit_that_raises_is_failed():
    class Breaks(Net):
        def training_step(self, batch, index):
            if index == 5:
                raise RuntimeError("no more data")
            return super().training_step(batch, index)

    callback = TrainvitalsCallback(collector="off")
    with pytest.raises(RuntimeError, match="no more data"):
        fitted(Breaks(), callbacks=[callback])
    diagnosis = callback.monitor.diagnosis()
    assert diagnosis.verdict is Verdict.FAILED
    assert diagnosis.error == "RuntimeError: no more data"


def test_the_fit_is_the_same_bit_for_bit():
    plain, watched = net(), net()
    fitted(plain)
    fitted(watched, callbacks=[TrainvitalsCallback(collector="off", every=1)])
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
