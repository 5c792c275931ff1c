"""The facts of the optimizers that rules use."""

import math

import pytest

import trainvitals
from trainvitals.wire import EventKind

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


def test_a_hyperparameter_that_is_no_number_is_no_failure():
    class Odd(torch.optim.SGD):
        pass

    model = torch.nn.Linear(2, 1)
    optimizer = Odd(model.parameters(), torch.tensor(0.1), momentum=0.5)
    optimizer.param_groups[0] |= {"odd": object(), "far": math.inf, "name": "head"}
    with trainvitals.watch(model, optimizer, collector="off") as monitor:
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        monitor.diagnosis()
        events = monitor._diagnosis.history.events
    [event] = [e for e in events if e.kind == EventKind.OPTIMIZER]
    assert (event.step, event.text) == (0, "Odd")
    assert event.attributes["lr/0"] == pytest.approx(0.1)
    assert event.attributes["nesterov/0"] == "False"
    assert event.attributes["name/0"] == "head"
    assert not {"odd/0", "far/0", "params/0"} & set(event.attributes)
