"""Layers that a model uses and PyTorch does not know, and an attribute that has no effect."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402

from helpers.wiring_runs import Run, mlp, train  # noqa: E402

STEPS = 8


class Blocks(nn.Module):
    """A classifier of the digits with two hidden layers, kept in a container."""

    def __init__(self, container: Callable[[list[nn.Module]], object]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = container([nn.Linear(32, 32), nn.Linear(32, 32)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for block in self.blocks.values() if isinstance(self.blocks, dict) else self.blocks:
            y = block(y.relu())
        return self.head(y.relu())


def named(layers: list[nn.Module]) -> dict[str, nn.Module]:
    return {str(i): layer for i, layer in enumerate(layers)}


@pytest.mark.parametrize("container", [list, tuple, named])
def test_layers_in_a_plain_container_are_named_at_the_second_loss(container):
    torch.manual_seed(0)
    seen = train(Run(Blocks(container)), STEPS)
    assert (seen.headline, seen.where, seen.first_alarm) == ("parameter_not_updated", "blocks", 1)


def test_layers_in_a_list_that_the_optimizer_knows_are_trained():
    model = Blocks(list)
    parameters = [*model.parameters(), *(p for b in model.blocks for p in b.parameters())]
    assert train(Run(model, parameters=parameters), STEPS).alarms == set()


class Taught(nn.Module):
    """A student that keeps its teacher in a list, so that it is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp(), [mlp()]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hint = self.teacher[0](x)
        return self.student(x) + 0.01 * hint


@pytest.mark.parametrize("model", [Taught, lambda: Blocks(nn.ModuleList)])
def test_a_teacher_in_a_list_and_a_module_list_are_met_with_silence(model):
    torch.manual_seed(0)
    assert train(Run(model()), STEPS).alarms == set()


@pytest.mark.parametrize(("meant", "headline"), [(True, "no_gradient"), (False, "")])
def test_the_attribute_requires_grad_of_a_module_has_no_effect(meant, headline):
    model = mlp()
    layer = model.get_submodule("0").requires_grad_(False)
    if meant:
        layer.requires_grad = True
    seen = train(Run(model, parameters=[p for p in model.parameters() if p.requires_grad]), STEPS)
    assert seen.headline == headline
