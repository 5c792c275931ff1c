"""Layers that are dead from the first step: their name, and the fix for their biases."""

import functools

import pytest

import trainvitals

torch = pytest.importorskip("torch")
nn = torch.nn


class Dense(nn.Module):
    """A layer and its activation in one module, as a Dense layer of Keras."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias).relu()


def headline(model: nn.Sequential, *, inside: bool = False):
    """Return the headline of a training whose first layer has biases of −10.

    `inside`: the monitor is attached inside the first optimizer step, which reads its gradients
    from a closure, as `trainvitals run` attaches to Lightning.
    """
    model[0].bias.data.fill_(-10.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    attach = functools.cache(lambda: trainvitals.watch(model, optimizer, collector="off"))
    if not inside:
        attach()

    def closure():
        at = torch.randint(512, (64,))
        loss = nn.functional.cross_entropy(model(x[at]), y[at])
        optimizer.zero_grad()
        loss.backward()
        return attach().loss(loss)

    for _ in range(100):
        optimizer.step(closure)
    attach().close()
    return attach().diagnosis().headline


@pytest.mark.parametrize("inside", [False, True])
def test_the_fix_is_for_the_biases(inside):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    found = headline(model, inside=inside)
    assert (found.code, found.where) == ("TV201", "1")
    assert "nn.init.zeros_(m.bias)" in found.fix


def test_outputs_that_are_all_zero_do_not_show_a_constant_input():
    torch.manual_seed(0)
    model = nn.Sequential(Dense(16, 32), nn.Linear(32, 4))
    found = headline(model)
    assert (found.code, found.where) == ("TV201", "0")
