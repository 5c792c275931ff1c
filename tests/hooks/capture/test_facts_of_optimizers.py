"""The facts of the optimizers that rules use."""

import pytest

import trainvitals

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("make", "momentum"),
    [
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.99), 0.99),
        (lambda p: torch.optim.SGD(p, 0.1), 0.0),
        (lambda p: torch.optim.AdamW(p, betas=(0.95, 0.999)), 0.95),
        (lambda p: torch.optim.Adagrad(p), 0.0),
    ],
)
def test_the_momentum_is_that_of_the_optimizer(make, momentum):
    model = torch.nn.Linear(2, 1)
    optimizer = make(model.parameters())
    with trainvitals.watch(model, optimizer, collector="off") as monitor:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        monitor.diagnosis()
        assert monitor._diagnosis.history.facts["momentum"] == momentum
