"""The torch optimizer is found inside wrappers or at its first step; several are distinguished."""

import numpy as np
import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.optimizers import unwrapped
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

X = torch.ones(6, 4)


class Accelerated(torch.optim.Optimizer):
    """As in Accelerate: an Optimizer by class only, with the real one inside."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none=None):
        self.optimizer.zero_grad()


class Wrapper:
    def __init__(self, inner):
        self._optimizer = inner

    def step(self):
        self._optimizer.step()

    def zero_grad(self):
        self._optimizer.zero_grad()


class Opaque:
    """Steps a torch optimizer that no attribute shows."""

    def __init__(self, inner):
        self.step, self.zero_grad = inner.step, inner.zero_grad


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def captured(model, optimizer=None, **options):
    history = History()
    return Capture(model, optimizer, emit=history.add, **options), history


def step(model, optimizer, capture=None):
    loss = model(X).square().mean()
    if capture:
        capture.loss(loss)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_wrappers_and_wrappers_around_wrappers_are_opened():
    real = sgd(network())
    assert unwrapped(real) is real
    assert unwrapped(Accelerated(real)) is real
    assert unwrapped(Wrapper(Accelerated(real))) is real
    assert unwrapped(Opaque(real)) is None
    circle = Wrapper(None)
    circle._optimizer = Wrapper(circle)
    assert unwrapped(circle) is None


def test_a_run_with_a_wrapped_optimizer_is_watched():
    model = network()
    for wrapped in (Accelerated(sgd(model)), [Wrapper(sgd(model))], {"all": sgd(model)}):
        capture, history = captured(model, wrapped)
        [optimizer] = capture.optimizers
        for _ in range(3):
            step(model, optimizer, capture)
        capture.detach()
        assert capture.step == 2
        assert np.isfinite(history.values(Stream.GRADIENT, Stat.L2)).all()
        assert not capture.not_watched


def test_a_wrapper_that_cannot_be_opened_is_found_when_it_steps():
    model = network()
    optimizer = Opaque(sgd(model))
    capture, history = captured(model, optimizer)
    for _ in range(3):
        step(model, optimizer, capture)
    capture.detach()
    assert capture.step == 2
    assert len(history.scalar("gradient_norm")) == 3
    assert not capture.not_watched


def test_a_wrapper_that_steps_copies_of_the_parameters_is_not_taken_for_another_models(caplog):
    model = network()
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]

    class Masters(Wrapper):
        def step(self):
            for master, parameter in zip(masters, model.parameters(), strict=True):
                master.grad, parameter.grad = parameter.grad, None
            super().step()
            with torch.no_grad():
                for master, parameter in zip(masters, model.parameters(), strict=True):
                    parameter.copy_(master)

    optimizer = Masters(torch.optim.SGD(masters, lr=0.1))
    capture, history = captured(model, optimizer)
    for _ in range(3):
        step(model, optimizer, capture)
    assert capture.step == 2
    assert not caplog.records
    assert "32-bit copies" in capture.not_watched["optimizer"]
    assert all(place.optimized for place in history.places(Stream.WEIGHT))


def test_a_wrapper_whose_attributes_raise_is_looked_for_at_its_step():
    class Raising:
        @property
        def optimizer(self):
            raise RuntimeError("not prepared")

    assert unwrapped(Raising()) is None


def test_an_optimizer_that_is_never_found_is_said():
    class ByHand:
        def step(self):
            pass

    capture, _ = captured(network(), ByHand())
    capture.detach()
    assert "ByHand contains no torch optimizer." in capture.not_watched["optimizer"]


def test_all_optimizers_of_the_models_are_found_and_no_other():
    g, d, other = network(), network(), network()
    first, second, foreign = sgd(g), sgd(d), sgd(other)
    capture, history = captured({"generator": g, "critic": d})
    for _ in range(3):
        step(other, foreign)
        step(g, first)
        step(d, second)
    assert capture.optimizers == [first, second]
    assert capture.step == 2
    assert len(history.scalar("learning_rate/1")) > 0


def test_an_optimizer_inside_a_found_one_is_not_counted_twice():
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, base):
            self.base = base
            super().__init__(base.param_groups, {})

        def step(self, closure=None):
            return self.base.step(closure)

    model = network()
    base = sgd(model)
    optimizer = Lookahead(base)
    capture, history = captured(model)
    step(model, optimizer, capture)
    assert capture.step == 0
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    np.testing.assert_allclose(history.scalar("gradient_norm").values, [float(norm)], rtol=1e-5)


def test_optimizers_that_step_alternately_record_no_norm_of_zero_and_lose_no_probe():
    g, d = network(), network()
    first, second = sgd(g), sgd(d)
    capture, history = captured({"generator": g, "critic": d}, [first, second])
    for at in range(12):
        for optimizer in (first, second):
            optimizer.zero_grad()
        model, optimizer = ((g, first), (d, second))[at % 2]
        step(model, optimizer)
    # Both step in turn; then the first steps without any gradient.
    for _ in range(3):
        first.zero_grad()
        first.step()
    assert capture.step == 8
    assert not capture._guard.off
    norms = history.scalar("gradient_norm").values
    assert (norms[np.isfinite(norms)] > 0).all()
    # The critic's last update belongs to the generator's next one; the last two have nothing.
    assert history.scalar("gradient_norm").steps.tolist() == list(range(7))


def test_it_is_said_when_only_another_than_the_first_optimizer_steps():
    g, d = network(), network()
    capture, _ = captured({"generator": g, "critic": d}, [sgd(g), sgd(d)])
    for _ in range(3):
        step(d, capture.optimizers[1])
    capture.detach()
    assert "the first optimizer never stepped" in capture.not_watched["steps"]


def test_an_optimizer_without_parameters_of_the_model_switches_no_probe_off():
    g, d = network(), network()
    first, second = sgd(g), sgd(d)
    capture, history = captured(g, [first, second])
    for _ in range(5):
        step(d, second)
        step(g, first)
    assert capture.step == 4
    assert not capture._guard._errors
    assert (history.scalar("gradient_norm").values > 0).all()


def test_updates_are_never_measured_against_copies_of_an_earlier_step():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)
    _, history = captured(model, optimizer, every=1000)
    for at in range(4):
        scale = float("nan") if at == 3 else 1.0

        def closure(scale=scale):
            optimizer.zero_grad()
            loss = model(X).square().mean() * scale
            loss.backward()
            return loss

        optimizer.step(closure)
    assert history.steps(Stream.UPDATE).tolist() == [0, 3]
    assert np.isnan(history.values(Stream.UPDATE, Stat.RMS)[-1]).all()
