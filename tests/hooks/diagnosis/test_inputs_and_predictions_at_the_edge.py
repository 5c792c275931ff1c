"""Constant first arguments and mixed targets have no alarm; unbounded predictions end no rule."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import trainvitals  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.rules.loss_oscillation import LossOscillation  # noqa: E402
from trainvitals.diagnosis.trained_before import trained_before  # noqa: E402
from trainvitals.wire import Event, EventKind, Stat, Stream  # noqa: E402


class OfTimeAndState(nn.Module):
    """The right side of an ordinary differential equation, dy/dt = f(t, y)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t, y):
        return self.net(torch.cat([t.expand(len(y), 1), y], 1))


def boundary_condition():
    """A network that solves du/dx = -2u; its last call is the boundary, one sample."""
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss():
        x = torch.rand(64, 1).requires_grad_()
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (slope + 2 * u).square().mean() + (net(torch.zeros(1, 1)) - 1).square().mean()

    return net, loss


def neural_equation():
    """A network whose first argument is the time 0 in each step."""
    net = OfTimeAndState()
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    def loss():
        y = torch.randn(64, 2)
        return F.mse_loss(net(torch.zeros(()), y), y @ turn)

    return net, loss


def frozen_loader():
    """A loader that returns zeros."""
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    return net, lambda: F.mse_loss(net(torch.zeros(64, 4)), torch.randn(64, 1))


@pytest.mark.parametrize(
    ("program", "found"),
    [(boundary_condition, False), (neural_equation, False), (frozen_loader, True)],
)
def test_a_constant_input_is_an_error_only_if_no_sample_differs(program, found):
    torch.manual_seed(0)
    net, loss = program()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    with trainvitals.watch(net, optimizer, collector="off", every=2, total_steps=60) as monitor:
        for _ in range(60):
            optimizer.zero_grad()
            monitor.loss(loss()).backward()
            optimizer.step()
    rules = {f.rule for f in monitor.diagnosis().alarms}
    assert ("constant_or_duplicate_input" in rules) == found
    assert "monitor_degraded" not in {f.rule for f in monitor.diagnosis().findings}


@pytest.mark.parametrize(("lowest", "found"), [(0.28, False), (0.4, True)])
def test_the_noise_of_mixed_targets_is_no_oscillation(lowest, found):
    sick = LossOscillation.sick()
    columns = {"loss": sick.scalar("loss").values, "target_std": np.linspace(lowest, 0.4, 240)}
    ratio = sick.values(Stream.UPDATE, Stat.RATIO)
    places = sick.places(Stream.UPDATE)
    mixed = {"classes": 5.0, "target_shape": "(32, 5)", "target_type": "float32"}
    example = Example(240).scalars(**columns)
    example.stream(
        Stream.UPDATE, places, {p.name: {Stat.RATIO: ratio[:, i]} for i, p in enumerate(places)}
    )
    history = example.history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", mixed))
    assert bool(list(LossOscillation().check(history))) == found


def test_logits_of_any_size_in_an_nll_loss_can_be_judged():
    large = {"prediction_min": -900.0, "prediction_max": 900.0}
    scalars = large | {"prediction_mean": 0.0, "prediction_std": 300.0}
    scalars |= {"target_mean": 4.5, "target_std": 2.9, "loss": -12.0}
    columns = {name: np.full(20, value) for name, value in scalars.items()}
    history = Example(20).scalars(**columns).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "NLLLoss", {"classes": 10.0}))
    assert trained_before(history, 1.0)
    assert not trained_before(history, 2.3)
