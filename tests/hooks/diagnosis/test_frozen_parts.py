"""Layers that are frozen although they were never trained, and freezing that has a reason."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.wiring_runs import Run, normed, train  # noqa: E402

STEPS = 8


def three_layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def frozen(model: nn.Sequential, layers: int = 4) -> nn.Sequential:
    model[:layers].requires_grad_(False)
    return model


def drawn(model: nn.Sequential, initialise: object) -> nn.Sequential:
    for module in model:
        if isinstance(module, nn.Linear):
            initialise(module.weight)
    return model


def pretrained(model: nn.Sequential) -> nn.Sequential:
    x = torch.randn(256, 64)
    y = x[:, :10].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


class Distilled(nn.Module):
    """A predictor of a random network, next to a classifier: random network distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.predictor = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.target.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.target(x) + self.predictor(x)


class Adapted(nn.Module):
    """A frozen layer and a trained product of two small matrices beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(inputs, 4) / 8)
        self.b = nn.Parameter(torch.zeros(4, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a @ self.b


def adapted() -> nn.Sequential:
    return nn.Sequential(Adapted(64, 64), nn.ReLU(), Adapted(64, 32), nn.ReLU(), nn.Linear(32, 10))


def only_norms_and_the_last_layer() -> nn.Sequential:
    model = normed().requires_grad_(False)
    for module in (*(m for m in model if isinstance(m, nn.BatchNorm1d)), model[-1]):
        module.requires_grad_(True)
    return model


def run_of(model: nn.Module) -> Run:
    return Run(model, parameters=[p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize(
    "initialise",
    [lambda _: None, nn.init.xavier_uniform_, nn.init.kaiming_uniform_, nn.init.orthogonal_],
)
def test_layers_frozen_before_any_training_are_named(initialise):
    torch.manual_seed(0)
    seen = train(run_of(frozen(drawn(three_layers(), initialise))), STEPS)
    assert (seen.headline, seen.where) == ("parameter_not_updated", "0.weight")
    assert seen.first_alarm <= 4


@pytest.mark.parametrize(
    "model",
    [
        lambda: frozen(pretrained(three_layers())),
        lambda: frozen(three_layers(), layers=2),
        three_layers,
        Distilled,
        adapted,
        only_norms_and_the_last_layer,
    ],
    ids=["pretrained", "first layer", "nothing", "distillation", "low rank", "norms trained"],
)
def test_freezing_with_a_reason_is_met_with_silence(model):
    torch.manual_seed(0)
    assert "parameter_not_updated" not in train(run_of(model()), STEPS).alarms
