"""Keras 3 on torch, really fitted: what it knows reaches the run."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it at its import

import keras
import numpy as np
import pytest
import torch

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals import watch
from trainvitals.api.schema import Verdict
from trainvitals.integrations.keras import TrainvitalsCallback
from trainvitals.wire import Stat, Stream

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]

SIZE = 32


class Batches(keras.callbacks.Callback):
    """Collects the loss of each batch, from the running means of the epoch."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            self.total = 0.0
        total = logs["loss"] * (batch + 1)
        self.losses.append(total - self.total)
        self.total = total


def data():
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    return x[:384], (x[:384, 0] > 0).astype(np.int64)


def model(rate=1e-2, *, head=None, **optimizer):
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, activation="relu", name="first"),
            keras.layers.Dropout(0.1),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, activation=head, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=head is None)
    made.compile(optimizer=keras.optimizers.Adam(rate, **optimizer), loss=loss)
    return made


def fitted(made, *callbacks, epochs=3, on=None, **more):
    more = {"validation_data": data(), "batch_size": SIZE, "verbose": 0} | more
    made.fit(*(on or data()), epochs=epochs, callbacks=list(callbacks), **more)
    return made


def watching(**options):
    return TrainvitalsCallback(**({"collector": "off", "every": 1} | options))


def scalar(callback, name):
    return callback.monitor._diagnosis.history.scalar(name)


def values(callback, name):
    return scalar(callback, name).values.tolist()


def test_one_line_records_the_losses_the_epochs_and_the_plan():
    callback, batches = watching(), Batches()
    made = fitted(model(), callback, batches)
    assert values(callback, "loss") == pytest.approx(batches.losses, rel=1e-3)
    assert values(callback, "log/epoch") == [1, 2, 3]
    assert values(callback, "loss/validation") == pytest.approx(
        made.history.history["val_loss"][:-1], rel=1e-5
    )
    assert values(callback, "learning_rate/0") == pytest.approx([1e-2] * 36)
    history = callback.monitor._diagnosis.history
    assert history.total_steps == 36
    assert history.facts["optimizer"] == "Adam"


def test_weights_and_outputs_have_the_names_of_the_layers():
    callback = watching()
    fitted(model(), callback)
    diagnosis = callback.monitor.diagnosis()
    assert diagnosis.not_watched == {}
    weights = ["first.kernel", "first.bias", "norm.gamma", "norm.beta", "head.kernel", "head.bias"]
    outputs = ["first", "dropout", "norm", "head"]
    named = [name.split("_")[0] for name in diagnosis.watched]  # dropout_1 in a second model
    assert named == weights + outputs


def test_the_step_of_an_optimizer_that_accumulates_is_an_update():
    callback = watching()
    fitted(model(gradient_accumulation_steps=4), callback)
    assert len(values(callback, "loss")) == 9


def test_a_second_fit_continues_the_steps():
    made = fitted(model(), epochs=1)
    callback = watching()
    fitted(made, callback, epochs=1)
    assert scalar(callback, "loss").steps.tolist() == list(range(12, 24))


def test_a_prevented_update_changes_no_weight():
    made, seen = model(), []
    x, y = data()
    x[40] = np.nan  # in the second batch

    class Weights(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.layers[0].get_weights()[0])

    fitted(made, watching(guard="veto"), Weights(), epochs=1, on=(x, y), shuffle=False)
    assert np.array_equal(seen[0], seen[1])
    assert np.isfinite(seen[0]).all()


@pytest.mark.parametrize("order", ["channels_last", "channels_first"])
def test_a_unit_of_an_image_is_a_channel(order):
    keras.utils.set_random_seed(0)
    size = (6, 6, 2) if order == "channels_last" else (2, 6, 6)
    dead = keras.initializers.Constant(np.repeat([-50.0, 0.0], [3, 9]))
    conv = keras.layers.Conv2D(
        12, 3, activation="relu", name="conv", data_format=order, bias_initializer=dead
    )
    made = keras.Sequential(
        [keras.Input(size), conv, keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback, x = watching(), np.random.default_rng(0).normal(size=(384, *size))
    fitted(made, callback, on=(x, data()[1]), validation_data=None)
    history = callback.monitor._diagnosis.history
    dead_share = history.series(Stream.ACTIVATION, Stat.DEAD_SHARE, "conv")
    assert dead_share.values[-1] == pytest.approx(0.25)


@pytest.mark.parametrize("head", [None, "softmax"])
def test_a_healthy_fit_is_healthy(head):
    callback = watching()
    fitted(model(head=head), callback, epochs=12)
    assert callback.monitor.diagnosis().verdict is Verdict.HEALTHY


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(20, 16, name="embed")
        self.cell = keras.layers.LSTM(24, name="memory")
        self.head = keras.layers.Dense(2, name="head")

    def call(self, tokens):
        return self.head(self.cell(self.embed(tokens)))


def attention():
    tokens = keras.Input((10,))
    x = keras.layers.Embedding(20, 16, name="embed")(tokens)
    x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(2, 8)(x, x))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(32, activation="gelu")(x))
    return keras.Model(tokens, keras.layers.Dense(2, name="head")(x))


@pytest.mark.parametrize("build", [Own, attention])
def test_a_model_of_another_kind_is_healthy_too(build):
    keras.utils.set_random_seed(0)
    tokens = np.random.default_rng(0).integers(0, 20, size=(384, 10))
    made, callback = build(), watching()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.AdamW(3e-3), loss)
    on = tokens, (tokens == 3).any(1).astype(np.int64)
    fitted(made, callback, epochs=12, on=on, validation_data=on)
    diagnosis = callback.monitor.diagnosis()
    assert diagnosis.verdict is Verdict.HEALTHY
    assert {"embed.embeddings", "head.kernel", "embed", "head"} <= set(diagnosis.watched)
    assert diagnosis.not_watched == {}


def test_a_learning_rate_far_too_high_is_named():
    callback = watching()
    fitted(model(rate=30.0), callback, epochs=12)
    assert callback.monitor.diagnosis().headline.rule == "learning_rate_too_high"


def test_the_fit_is_the_same_bit_for_bit_and_leaves_nothing_on_the_model():
    plain, watched = fitted(model()), fitted(model(), watching())
    pairs = zip(plain.get_weights(), watched.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert plain.history.history == watched.history.history
    assert "compute_loss" not in vars(watched)
    assert "apply" not in vars(watched.optimizer)
    assert all(not layer._forward_hooks for layer in watched.layers)


def test_a_fit_that_raises_leaves_its_parts_to_the_next_one():
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("no more data")

    callback, made = watching(), model()
    with pytest.raises(RuntimeError, match="no more data"):
        fitted(made, callback, Breaks())
    first = callback.monitor
    assert (first._state, first._error) == ("failed", "RuntimeError: no more data")
    assert "apply" not in vars(made.optimizer)
    assert "compute_loss" not in vars(made)
    fitted(made, callback)
    assert first._closed
    assert len(values(callback, "loss")) == 36
    assert "apply" not in vars(made.optimizer)


def test_an_exception_in_the_data_or_in_a_step_closes_the_monitor_as_failed():
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise OSError("file 2 is gone")
            return data()[0][:SIZE], data()[1][:SIZE]

    callback = watching()
    with pytest.raises(OSError, match="file 2 is gone"):
        model().fit(Data(), callbacks=[callback], shuffle=False, verbose=0)
    monitor = callback.monitor
    assert (monitor._closed, monitor._state) == (True, "failed")
    assert monitor._error == "OSError: file 2 is gone"


def test_a_monitor_of_the_program_stays_open_when_a_fit_raises():
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("no more data")

    net = torch.nn.Linear(2, 1)
    own = watch(net, torch.optim.SGD(net.parameters(), 0.1), collector="off")
    with pytest.raises(RuntimeError, match="no more data"):
        fitted(model(), watching(), Breaks())
    assert not own._closed
    own.close()


def test_another_backend_is_named(monkeypatch, caplog):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    callback = watching()
    callback.set_model(model())
    callback.on_train_begin()
    assert callback.monitor is None
    assert "KERAS_BACKEND=torch" in caplog.text
    assert torch.is_grad_enabled()
