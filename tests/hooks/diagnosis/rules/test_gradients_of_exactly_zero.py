"""TV103, TV107 and TV301 tell layers with gradients of exactly 0 from layers of equal units."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import trainvitals
from trainvitals.api.schema import Severity
from trainvitals.wire import Scalar

STEPS = 30


class Product(nn.Module):
    """Ratings: an offset for each user, and the product of two factors."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(20, 4), nn.Embedding(10, 4)
        self.offset = nn.Embedding(20, 1)

    def forward(self, pairs):
        user, item = pairs.unbind(1)
        return (self.user(user) * self.item(item)).sum(1) + self.offset(user)[:, 0]


class Pooled(nn.Module):
    """Attention with weights over the dimension `dim`, where 2 has a single entry."""

    def __init__(self, dim):
        super().__init__()
        self.score, self.embed, self.head = nn.Linear(8, 1), nn.Linear(8, 64), nn.Linear(64, 3)
        self.dim = dim

    def forward(self, x):
        return self.head((self.score(x).softmax(self.dim) * self.embed(x)).sum(1))


class Angle(nn.Module):
    """The angle of two outputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        y, x = self.body(x).unbind(1)
        return torch.atan2(y, x)


def findings(model, x, y, loss=functional.mse_loss):
    """Train for `STEPS` steps and return the findings by rule."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    monitor = trainvitals.watch(model, optimizer, every=1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        monitor.loss(loss(model(x), y)).backward()
        optimizer.step()
    monitor.close()
    return {found.rule: found for found in monitor.diagnosis().findings}


def ratings(*zeros):
    model = Product()
    for name in zeros:
        nn.init.zeros_(model.get_submodule(name).weight)
    pairs = torch.stack([torch.randint(20, (64,)), torch.randint(10, (64,))], 1)
    return findings(model, pairs, torch.randn(64))


def test_the_score_of_an_attention_over_one_score_is_a_warning_though_it_is_small():
    found = findings(Pooled(2), torch.randn(32, 6, 8), torch.randint(3, (32,)),
                     functional.cross_entropy)["no_gradient"]  # fmt: skip
    assert (found.where, found.severity, found.since_step) == ("score", Severity.WARNING, 0)
    assert "the loss does not depend on it" in found.summary


def test_an_attention_over_all_positions_is_silent():
    found = findings(Pooled(1), torch.randn(32, 6, 8), torch.randint(3, (32,)),
                     functional.cross_entropy)  # fmt: skip
    assert "no_gradient" not in found


def test_two_factors_of_zeros_get_no_gradient():
    found = ratings("user", "item")["no_gradient"]
    assert (found.where, found.severity) == ("item", Severity.ERROR)
    assert "two factors that are both 0" in found.summary


@pytest.mark.parametrize("zeros", [(), ("user",), ("item", "offset")])
def test_a_factor_of_zeros_beside_another_one_gets_a_gradient(zeros):
    assert "no_gradient" not in ratings(*zeros)


def test_layers_of_zeros_before_dead_units_are_not_factors():
    model = nn.Sequential(
        *(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 1)
    )
    for at in (0, 1):
        nn.init.zeros_(model[at].weight)
    nn.init.constant_(model[2].bias, -1e3)
    assert "no_gradient" not in findings(model, torch.randn(64, 8), torch.randn(64, 1))


def test_an_output_layer_of_zeros_without_any_gradient_is_no_symmetric_initialisation():
    model = Angle()
    for parameter in model.body[2].parameters():
        nn.init.zeros_(parameter)
    found = findings(model, torch.randn(64, 8), torch.rand(64))
    assert "symmetric_init" not in found
    assert found["no_signal"].severity is Severity.ERROR
    assert any(e.statistic == Scalar.GRADIENT_NORM for e in found["no_signal"].evidence)


def test_layers_of_zeros_stay_a_symmetric_initialisation():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert "symmetric_init" in findings(model, torch.randn(64, 8), torch.randn(64, 4))
