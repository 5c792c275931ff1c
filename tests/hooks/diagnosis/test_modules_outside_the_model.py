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


class Stack:
    """Layers that are called one after the other, in a class that is no Module."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x.relu())
        return x


class Other(nn.Module):
    """A classifier whose hidden layers are in an object, or in lists inside of a list."""

    def __init__(self, keep: Callable[[list[nn.Module]], object]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.body = keep([nn.Linear(32, 32), nn.Linear(32, 32)])

    def forward(self, x: Tensor) -> Tensor:
        body = self.body if callable(self.body) else Stack([m for part in self.body for m in part])
        return self.head(body(self.stem(x)).relu())


@pytest.mark.parametrize("keep", [Stack, lambda layers: [layers[:1], layers[1:]]])
def test_layers_in_an_object_or_in_nested_lists_are_named(keep):
    torch.manual_seed(0)
    seen = train(Run(Other(keep)), STEPS)
    assert (seen.headline, seen.where, seen.first_alarm) == ("parameter_not_updated", "body", 1)


class Owner:
    """An object that holds a network and is not called, as a trainer does."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network


def test_a_network_of_an_object_that_is_no_layer_is_not_a_part_of_the_model():
    torch.manual_seed(0)
    model = mlp()
    model.trainer = Owner(nn.Linear(2, 2))
    model.trainer.network(torch.ones(1, 2)).sum().backward()
    assert train(Run(model), STEPS).alarms == set()


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
