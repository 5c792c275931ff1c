"""What trips other watchers: each trap of real training code, and what is right there."""

import copy
import io
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers.warm_python import run_warm
from trainvitals.capture import Capture
from trainvitals.capture.modules import WatchedModule
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))


def captured(model, optimizer=None, **options):
    history = History()
    return Capture(model, optimizer, emit=history.add, **options), history


def step(model, optimizer, capture=None, x=None):
    x = torch.ones(6, 4) if x is None else x
    loss = model(x).square().mean()
    if capture:
        capture.loss(loss)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def names(history, stream=Stream.WEIGHT):
    return [p.name for p in history.places(stream)]


def test_tied_weights_are_one_place_with_all_their_names():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimizer = sgd(model)
    _, history = captured(model, optimizer)
    step(model, optimizer)
    assert names(history) == ["0.weight", "0.bias", "2.bias"]
    assert history.places(Stream.WEIGHT)[0].aliases == ("2.weight",)


def test_a_frozen_tensor_is_a_place_without_gradient_or_update():
    model = network()
    model[0].requires_grad_(False)
    optimizer = sgd(model)
    _, history = captured(model, optimizer)
    step(model, optimizer)
    assert not history.places(Stream.WEIGHT)[0].trainable
    assert np.isnan(history.values(Stream.GRADIENT, Stat.L2)[-1][:2]).all()
    assert np.isnan(history.values(Stream.UPDATE, Stat.RMS)[-1][:2]).all()
    assert np.isfinite(history.values(Stream.WEIGHT, Stat.L2)[0]).all()


def test_a_layer_added_later_is_a_new_layout_and_the_old_course_stays():
    model = network()
    optimizer = sgd(model)
    _, history = captured(model, optimizer)
    step(model, optimizer)
    model.append(nn.Linear(2, 2))
    optimizer.add_param_group({"params": model[3].parameters()})
    step(model, optimizer)
    assert names(history)[-2:] == ["3.weight", "3.bias"]
    course = history.series(Stream.WEIGHT, Stat.L2, "0.weight")
    assert course.steps.tolist() == [0, 1]
    assert np.isfinite(course.values).all()


def test_micro_batches_are_one_step_with_their_mean_loss():
    model = network()
    optimizer = sgd(model)
    capture, history = captured(model, optimizer)
    for value in (1.0, 2.0, 6.0):
        loss = model(torch.ones(2, 4)).mean() * 0 + value
        capture.loss(loss)
        loss.backward()
    optimizer.step()
    assert capture.step == 0
    assert history.scalar("loss").values.tolist() == [3.0]


def test_a_closure_optimizer_is_one_step_with_the_gradients_of_its_last_evaluation():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    capture, history = captured(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.randn(6, 4)).square().mean()
        capture.loss(loss)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert capture.step == 2
    assert np.isfinite(history.values(Stream.GRADIENT, Stat.L2)).all()
    assert (history.values(Stream.UPDATE, Stat.RMS)[0] > 0).all()


def test_two_models_with_two_optimizers_are_in_one_run():
    g, d = network(), network()
    first, second = sgd(g), sgd(d)
    capture, history = captured({"generator": g, "critic": d}, [first, second])
    for _ in range(3):
        step(d, second)
        step(g, first)
    assert capture.step == 2
    assert {n.split(".")[0] for n in names(history)} == {"generator", "critic"}
    assert np.isfinite(history.values(Stream.GRADIENT, Stat.L2)[-1]).all()
    assert len(history.scalar("learning_rate/1")) == 3


def test_only_training_forwards_are_measured():
    model = network()
    optimizer = sgd(model)
    _, history = captured(model, optimizer)
    step(model, optimizer)
    model.eval()
    model(torch.full((6, 4), 1e6))
    model.train()
    with torch.no_grad():
        model(torch.full((6, 4), 1e6))
    step(model, optimizer)
    assert (history.values(Stream.ACTIVATION, Stat.MAX) < 1e3).all()


def test_forwards_repeated_by_activation_checkpointing_are_not_measured_again(monkeypatch):
    model = network()
    optimizer = sgd(model)
    calls = []
    monkeypatch.setattr(WatchedModule, "_measure", lambda *_: calls.append(1))
    captured(model, optimizer)
    out = checkpoint(model, torch.ones(6, 4), use_reentrant=False)
    before = len(calls)
    out.mean().backward()
    assert before == len(calls) == 3


def test_a_function_as_nonlinearity_is_seen_like_a_module():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 10), nn.Linear(10, 2)
            with torch.no_grad():
                self.a.bias[:5] = -100.0

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    model = Functional()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    _, history = captured(model, optimizer)
    for _ in range(25):
        step(model, optimizer, x=torch.rand(64, 4) + 1)
    [place] = [p for p in history.places(Stream.ACTIVATION) if p.name == "a"]
    assert place.nonlinearity == "relu"
    dead = history.series(Stream.ACTIVATION, Stat.DEAD_SHARE, "a")
    assert np.isnan(dead.values[0])
    assert dead.values[-1] >= 0.5


def test_a_nan_gradient_makes_that_very_step_a_full_one():
    model = network()
    optimizer = sgd(model)
    _, history = captured(model, optimizer, every=1000)
    for at in range(6):
        step(model, optimizer, x=torch.full((6, 4), float("nan") if at == 4 else 1.0))
    assert history.steps(Stream.GRADIENT).tolist() == [0, 4, 5]
    assert history.scalar("nonfinite_gradients").values[4] == 4


def test_a_copy_loads_where_trainvitals_is_not_installed(tmp_path):
    model = network()
    capture, _ = captured(model, sgd(model))
    copy.deepcopy(model)(torch.ones(6, 4))
    assert not capture._outputs._written
    torch.save(model, tmp_path / "model.pt")
    script = (
        "import sys; sys.modules['trainvitals'] = None\n"
        "import torch\n"
        f"m = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "m(torch.ones(6, 4)).sum().backward(); print(sorted(m.state_dict()))"
    )
    done = run_warm(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(network().state_dict()))


def test_the_state_dict_of_model_and_optimizer_are_untouched():
    model = network()
    optimizer = sgd(model)
    keys = list(model.state_dict()), list(optimizer.state_dict())
    captured(model, optimizer)
    step(model, optimizer)
    assert (list(model.state_dict()), list(optimizer.state_dict())) == keys
    torch.save(optimizer.state_dict(), io.BytesIO())


@pytest.mark.parametrize(
    "odd",
    [
        nn.Embedding(5, 4, sparse=True),
        nn.LazyLinear(3),
        nn.Linear(2, 2, device="meta"),
        nn.Linear(2, 2, dtype=torch.complex64),
        nn.Linear(2, 0),
    ],
    ids=["sparse", "lazy", "meta", "complex", "empty"],
)
def test_odd_tensors_are_measured_or_named_and_never_raise(odd):
    model = network()
    model.add_module("odd", odd)
    trained = [p for m in (model[0], model[2]) for p in m.parameters()]
    if odd.__class__ is nn.Embedding:
        trained += list(odd.parameters())
    optimizer = torch.optim.SGD(trained, lr=0.1)
    capture, history = captured(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        (model[2](model[1](model[0](torch.ones(6, 4)))).sum()).backward()
        if odd.__class__ is nn.Embedding:
            odd(torch.tensor([1])).sum().backward()
        optimizer.step()
    assert capture.step == 2
    assert not capture._guard.off
    for parameter, _ in odd.named_parameters():
        assert f"odd.{parameter}" in {*names(history), *capture.not_watched}


def test_a_probe_of_ours_that_fails_three_times_is_off_and_told(caplog, monkeypatch):
    def broken(*_):
        raise ValueError("our own bug")

    model = network()
    optimizer = sgd(model)
    capture, history = captured(model, optimizer)
    monkeypatch.setattr("trainvitals.capture.optimizers.Optimizers.scaling", broken)
    for _ in range(5):
        step(model, optimizer, capture)
    assert capture.step == 4
    assert len(history.scalar("loss")) == 5
    assert history.not_watched["gradients"].startswith("monitor degraded: gradients failed 3 times")
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_an_error_without_a_text_is_counted_like_any_other(monkeypatch):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def broken(*_):
        raise Unprintable

    model = network()
    optimizer = sgd(model)
    capture, history = captured(model, optimizer)
    monkeypatch.setattr("trainvitals.capture.optimizers.Optimizers.scaling", broken)
    for _ in range(5):
        step(model, optimizer, capture)
    assert capture.step == 4
    assert "Unprintable" in history.not_watched["gradients"]


def test_an_exception_of_the_users_callback_passes():
    model = network()
    optimizer = sgd(model)

    def stop(_step):
        raise KeyboardInterrupt

    captured(model, optimizer, on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        step(model, optimizer)


def test_compiling_a_watched_model_works():
    model = network()
    optimizer = sgd(model)
    capture, history = captured(model, optimizer)
    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        step(compiled, optimizer, capture)
    assert capture.step == 2
    assert np.isfinite(history.values(Stream.GRADIENT, Stat.L2)).all()
