"""Faults of the architecture or of the plan, in real trainings of small networks."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainvitals
from helpers.small_runs import digits
from helpers.watching import own_home  # noqa: F401 - a fixture


def train(model, loss, data, *, steps=150, planned=None, lr=1e-2):
    """Train with Adam on batches of 32; return the diagnosis at the end."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    monitor = trainvitals.watch(model, optimizer, collector="off", total_steps=planned)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (32,))
        value = loss(model(data[0][rows]), data[1][rows])
        optimizer.zero_grad()
        monitor.loss(value).backward()
        optimizer.step()
    monitor.close()
    return monitor.diagnosis()


def sums(offset: float) -> tuple[Tensor, Tensor]:
    """Return eight numbers around 0, and their sum plus an offset."""
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True) / 8**0.5 + offset


def linear(*sizes: int, bias: bool = True, norm: bool = False) -> nn.Sequential:
    model = nn.Sequential()
    for a, b in pairwise(sizes):
        model.append(nn.Linear(a, b, bias=bias))
        if b != sizes[-1]:
            model.append(nn.LayerNorm(b) if norm else nn.Identity())
            model.append(nn.Tanh())
    return model


# Targets with an offset, and no bias.


def test_targets_with_an_offset_and_no_bias_are_named():
    found = train(linear(8, 32, 32, 1, bias=False), F.mse_loss, sums(3.0))
    assert found.headline.rule == "target_not_scaled"
    assert "no layer has a bias" in found.headline.summary
    assert "y_train" in found.headline.fix


@pytest.mark.parametrize(
    ("model", "offset"),
    [
        (linear(8, 32, 32, 1), 3.0),
        (linear(8, 32, 32, 1, bias=False), 0.0),
        (linear(8, 32, 32, 1, bias=False, norm=True), 3.0),
    ],
    ids=["biases", "no offset", "the biases of norm layers"],
)
def test_an_offset_that_can_be_represented_is_not_reported(model, offset):
    assert train(model, F.mse_loss, sums(offset)).headline is None


# A hidden layer of one unit.


def test_a_hidden_layer_of_one_unit_is_named_and_the_fix_widens_it():
    torch.manual_seed(0)
    model = linear(64, 1, 32, 10)
    found = train(model, F.cross_entropy, digits())
    assert (found.headline.rule, found.headline.where) == ("loss_plateau", "0")
    optimizer = torch.optim.Adam(model.parameters())
    exec(found.headline.fix, {"model": model, "optimizer": optimizer})
    assert [layer.weight.shape for layer in model if isinstance(layer, nn.Linear)] == [
        (64, 64),
        (32, 64),
        (10, 32),
    ]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held >= {id(p) for p in model.parameters()}


def test_a_code_of_one_number_is_allowed_in_an_autoencoder():
    torch.manual_seed(0)
    x = torch.rand(512, 1) * torch.ones(1, 8) + 0.3 * torch.randn(512, 8)
    assert train(linear(8, 16, 1, 16, 8), F.mse_loss, (x, x), lr=3e-3).headline is None


def test_one_unit_that_suffices_is_not_reported():
    torch.manual_seed(0)
    assert train(linear(8, 1, 16, 1), F.mse_loss, sums(0.0)).headline is None


# A plan of few steps.


@pytest.mark.parametrize(("lr", "severity"), [(2.5e-3, "warning"), (1e-2, "info")])
def test_a_short_plan_at_whose_end_the_loss_falls_fast_is_named(lr, severity):
    torch.manual_seed(0)
    found = train(linear(64, 64, 10), F.cross_entropy, digits(), steps=24, planned=24, lr=lr)
    [finding] = [f for f in found.findings if f.rule == "undertrained"]
    assert finding.severity == severity
    assert "the plan has only 24 steps" in finding.summary


@pytest.mark.parametrize(
    ("steps", "planned", "lr"), [(24, 2400, 3e-3), (90, 90, 1e-2)], ids=["at its start", "learned"]
)
def test_a_plan_that_is_not_over_or_long_enough_is_not_reported(steps, planned, lr):
    torch.manual_seed(0)
    model = linear(64, 64, 10)
    found = train(model, F.cross_entropy, digits(), steps=steps, planned=planned, lr=lr)
    assert found.headline is None


class Sum(nn.Module):
    """Two branches of linear layers with a skip between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs, self.first, self.second = (
            nn.Linear(64, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inputs(x)
        return self.head(y + self.second(F.silu(self.first(F.silu(y)))))


def test_one_unit_in_all_hidden_layers_is_named_where_they_are_no_chain():
    torch.manual_seed(0)
    headline = train(Sum(1), F.cross_entropy, digits()).headline
    assert (headline.rule, headline.where) == ("loss_plateau", "inputs")
    assert "each of the 3 hidden layers has a single unit" in headline.summary
    torch.manual_seed(0)
    assert train(Sum(32), F.cross_entropy, digits()).headline is None


@pytest.mark.parametrize(("width", "reported"), [(1, True), (16, False)])
def test_one_channel_in_all_hidden_layers_is_named(width, reported):
    """Each pixel is to give its four neighbours."""
    torch.manual_seed(0)
    images = digits()[0].view(-1, 1, 8, 8)
    shifts = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    neighbours = torch.cat([images.roll(shift, (2, 3)) for shift in shifts], 1)
    model = nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(width, width, 3, padding=1), nn.Tanh()),
        nn.Conv2d(width, 4, 3, padding=1),
    )
    found = train(model, F.mse_loss, (images, neighbours)).headline
    assert (found is not None and "single channel" in found.summary) is reported


class LastState(nn.Module):
    """A recurrent layer over the rows of an image, and a layer that reads its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(-1, 8, 8))[0][:, -1])


def test_a_state_of_two_numbers_is_named_while_the_loss_is_that_of_a_constant():
    torch.manual_seed(0)
    headline = train(LastState(2), F.cross_entropy, digits(), lr=1e-3).headline
    assert (headline.rule, headline.where) == ("loss_plateau", "rnn")
    assert "rnn keeps 2 numbers" in headline.summary


def test_a_state_of_two_numbers_that_learns_is_not_reported():
    torch.manual_seed(0)
    found = train(LastState(2), F.cross_entropy, digits(), lr=3e-2)
    assert not [f for f in found.findings if f.rule == "loss_plateau" and f.is_alarm]


# Tokens in an order that the model cannot tell.


class Tokens(nn.Module):
    """A block with self-attention over 10 tokens, with a vector for each position if `placed`."""

    def __init__(self, *, placed: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 16), nn.Linear(16, 8)
        self.place = nn.Parameter(0.3 * torch.randn(10, 16)) if placed else None
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) if self.place is None else self.embed(x) + self.place
        return self.head(self.block(h).mean(1))


def tokens(y) -> tuple[Tensor, Tensor]:
    """Return sequences of 10 tokens out of 8, and their classes."""
    x = torch.randint(8, (2048, 10), generator=torch.Generator().manual_seed(0))
    return x, y(x)


def test_a_model_without_positions_is_named_if_the_order_matters():
    third = tokens(lambda x: x[:, 2])
    found = train(Tokens(placed=False), F.cross_entropy, third, steps=300, lr=3e-3)
    assert found.headline.rule == "loss_plateau"
    assert "same for its tokens in any order" in found.headline.summary


@pytest.mark.parametrize(
    ("placed", "target"),
    [(True, lambda x: x[:, 2]), (False, lambda x: (x == 3).sum(1))],
    ids=["with positions", "the order does not matter"],
)
def test_a_model_that_learns_its_tokens_is_silent(placed, target):
    found = train(Tokens(placed=placed), F.cross_entropy, tokens(target), steps=300, lr=3e-3)
    assert found.headline is None
