"""TV303: norms with a scale of 0 and vectors near 0; TV102, TV408: terms with a small weight."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.first_steps import found, record, the_same_weights_every_time, train  # noqa: F401
from trainvitals.diagnosis.rules.exploding_gradient import ExplodingGradient
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.rules.loss_term_inactive import LossTermInactive

# Norms.


def network(norm: nn.Module, *, gain: float) -> nn.Sequential:
    nn.init.constant_(norm.weight, gain)
    return nn.Sequential(nn.Linear(16, 32), norm, nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(32), nn.LayerNorm(32), nn.GroupNorm(4, 32)])
def test_a_norm_whose_scale_starts_at_0_is_the_cause_of_dead_units(norm):
    finding = found(InitScaleTooSmall, train(network(norm, gain=0.0)))
    assert (finding.severity, finding.where) == ("error", "1")
    model = network(norm, gain=0.0)
    exec(finding.fix, {"model": model, "nn": nn})
    assert bool((model[1].weight == 1).all())


class Residual(nn.Module):
    """A branch whose last norm starts at 0, as in a ResNet, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.norm = nn.Linear(16, 32), nn.Linear(32, 32), nn.LayerNorm(32)
        self.act, self.head = nn.ReLU(), nn.Linear(32, 10)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(self.act(h + self.norm(self.inner(h))))


@pytest.mark.parametrize("model", [Residual(), network(nn.LayerNorm(32), gain=1.0)])
def test_a_branch_that_starts_at_0_beside_a_skip_connection_is_silent(model):
    assert found(InitScaleTooSmall, train(model)) is None


# Embeddings.


class Bag(nn.Module):
    """The mean of the vectors of some tokens, and two layers."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(50, 16, mode="mean")
        nn.init.normal_(self.words.weight, std=deviation)
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.words(x))


def topics() -> tuple[Tensor, Tensor]:
    y = torch.randint(3, (1000,))
    own = torch.randint(16, (1000, 4)) + 16 * y[:, None]
    return torch.cat([own, torch.randint(48, (1000, 4))], 1), y


def by_sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def by_adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


@pytest.mark.parametrize(
    ("deviation", "make", "is_found"),
    [(1e-4, by_sgd, True), (0.1, by_sgd, False), (1e-4, by_adam, False)],
    ids=["near 0", "usual", "Adam enlarges them at once"],
)
def test_vectors_near_0_that_biases_hide_are_found(deviation, make, is_found):
    model = Bag(deviation)
    history = record(model, F.cross_entropy, *topics(), make(model.parameters()), steps=60)
    finding = found(InitScaleTooSmall, history)
    assert (finding is not None) is is_found
    if is_found:
        assert finding.where == "words.weight"


# A second head with a small weight.


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.kind, self.image = nn.Linear(32, 10), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        return self.kind(h), self.image(h), x


def with_a_small_reconstruction(output, y: Tensor) -> Tensor:
    kind, image, x = output
    return F.cross_entropy(kind, y) + 1e-3 * F.mse_loss(image, 20 * x)


@pytest.mark.parametrize("rule", [ExplodingGradient, LossTermInactive])
def test_a_head_that_has_a_small_weight_on_purpose_is_silent(rule):
    history = train(TwoHeads(), with_a_small_reconstruction, steps=16)
    assert found(rule, history) is None


def test_a_gradient_that_grows_through_depth_is_found():
    layers = [m for _ in range(5) for m in (nn.Linear(16, 16), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(16, 10))
    with torch.no_grad():
        for m in model[2:]:
            if isinstance(m, nn.Linear):
                m.weight.mul_(12)
        model[0].weight.mul_(1e-4)
    assert found(ExplodingGradient, train(model, steps=12, rate=1e-9)) is not None
