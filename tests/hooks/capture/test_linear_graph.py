"""Networks whose graph contains no nonlinear operation, and those that contain a hidden one."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from helpers.wiring_runs import Run, train  # noqa: E402
from trainvitals.capture.linear_graph import LinearGraph  # noqa: E402


class Hidden(nn.Module):
    """Three layers with a skip, norms and dropout, and a function behind each hidden layer."""

    def __init__(self, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.norm, self.drop = nn.LayerNorm(32), nn.Dropout(0.1)
        self.scale = nn.Parameter(torch.ones(32))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.norm(self.first(x)))
        y = y + self.function(self.drop(self.middle(y))) * self.scale
        return self.last(0.5 * y)


def event_of(model: nn.Module, x: Tensor):
    return LinearGraph({"": model}).event(0, model(x))


def test_the_layers_of_a_network_with_norms_and_a_skip_are_in_a_row():
    event = event_of(Hidden(), torch.randn(8, 64))
    assert event.text == "first.weight,middle.weight,last.weight"


def test_convolutions_and_pooling_by_the_mean_are_linear():
    convolutions = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.AvgPool2d(2)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3))
    assert event_of(model, torch.randn(4, 1, 8, 8)).text == "0.weight,2.weight,5.weight"


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.sin,
        torch.abs,
        lambda x: x * x,
        lambda x: x * torch.sigmoid(x),
        lambda x: x.softmax(-1) * 3,
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.maximum(x, 0.5 * x),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x + (x.sign() - x).detach(),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
        lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
        lambda x: x @ (x.T @ x),
    ],
)
def test_each_nonlinear_function_is_met_with_silence(function):
    assert event_of(Hidden(function), torch.randn(8, 64)) is None


def test_a_mask_that_depends_on_the_values_is_no_linear_operation():
    class Masked(Hidden):
        def forward(self, x: Tensor) -> Tensor:
            y = self.middle(self.first(x))
            return self.last(y * (y > 0))

    model = Masked()
    model.drop = nn.Identity()
    assert event_of(model, torch.randn(8, 64)) is None


def test_a_recurrent_layer_and_two_layers_are_met_with_silence():
    recurrent = nn.RNN(64, 32, batch_first=True)
    output, _ = recurrent(torch.randn(4, 3, 64))
    assert LinearGraph({"": recurrent}).event(0, output) is None
    factorised = nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 10))
    assert event_of(factorised, torch.randn(8, 64)) is None


def test_the_diagnosis_names_the_first_layer_and_no_activation_makes_it_silent():
    torch.manual_seed(0)
    seen = train(Run(Hidden()), 6)
    assert (seen.headline, seen.where, seen.first_alarm) == ("missing_nonlinearity", "first", 0)
    assert train(Run(Hidden(torch.relu)), 6).alarms == set()
