"""TV603 finds an optimizer that was given to watch and never steps, and no other."""

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

import trainvitals
from trainvitals.api.schema import Severity

BODY, HEAD = range(2)


def findings(
    *,
    steps=60,
    called=lambda _: (BODY,),
    loss_of=lambda body, head, x: head(body(x)).square().mean(),
    second=lambda parameters, _model: Adam(parameters, 1e-3),
    train=None,
):
    """Train a body and a head with an optimizer each; return the findings of TV603 at the end.

    `called` gives the optimizers whose step is called, of each step's number.
    """
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(6, 12), nn.Tanh()), nn.Linear(12, 1)
    model = nn.ModuleDict({"body": body, "head": head})
    optimizers = [SGD(body.parameters(), 1e-2), second(head.parameters(), model)]
    monitor = trainvitals.watch(model, optimizers, every=8)
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_of(body, head, torch.randn(16, 6))
        monitor.loss(loss).backward()
        for index in called(step):
            optimizers[index].step()
        if train is not None:
            train(head)
    monitor.close()
    return [found for found in monitor.diagnosis().findings if found.code == "TV603"]


@pytest.mark.parametrize("only", [BODY, HEAD])
def test_the_one_that_is_never_called_is_an_error_at_its_first_parameter(only):
    [found] = findings(called=lambda _: (only,))
    names = ("head.weight", "optimizer 1 (Adam)") if only == BODY else (
        "body.0.weight", "optimizer 0 (SGD)"
    )  # fmt: skip
    assert (found.where, found.severity, found.since_step) == (names[0], Severity.ERROR, 0)
    assert f"{names[1]} has made no step, while another optimizer made 30" in found.summary
    assert "2 of its parameters have gradients" in found.summary
    assert names[1] in found.advice


def test_thirty_steps_of_the_other_are_needed():
    assert not findings(steps=29)
    assert findings(steps=31)


def test_both_called_is_silent():
    assert not findings(called=lambda _: (BODY, HEAD))


def test_one_step_in_five_or_twenty_five_is_silent():
    assert not findings(called=lambda step: (BODY, HEAD) if step % 5 == 4 else (BODY,))
    assert not findings(called=lambda step: (BODY, HEAD) if step % 25 == 24 else (BODY,))


def test_a_part_without_gradients_yet_is_silent():
    assert not findings(loss_of=lambda body, _head, x: body(x).square().mean())


def test_a_part_whose_loss_has_the_weight_zero_until_it_begins_is_silent():
    assert not findings(
        loss_of=lambda body, head, x: body(x).square().mean() + 0.0 * head(body(x)).mean()
    )


def test_the_finding_ends_when_the_optimizer_begins_after_all():
    assert findings(steps=50, called=lambda step: (BODY, HEAD) if step >= 50 else (BODY,))
    assert not findings(steps=60, called=lambda step: (BODY, HEAD) if step >= 50 else (BODY,))


def test_parameters_that_another_optimizer_trains_are_silent():
    def joint(_parameters, model):
        return Adam(model["body"].parameters(), 1e-3)

    assert not findings(loss_of=lambda body, _head, x: body(x).square().mean(), second=joint)


def test_parameters_that_the_program_changes_itself_are_silent():
    def by_hand(head):
        with torch.no_grad():
            for parameter in head.parameters():
                parameter -= 1e-2 * parameter.grad

    assert not findings(train=by_hand)


def test_one_optimizer_with_a_closure_is_silent():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 1), torch.randn(32, 6)
    optimizer = LBFGS(model.parameters(), max_iter=2)
    monitor = trainvitals.watch(model, optimizer, every=1)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1].sin()).square().mean()
        monitor.loss(loss).backward()
        return loss

    for _ in range(40):
        optimizer.step(closure)
    monitor.close()
    assert not [found for found in monitor.diagnosis().findings if found.code == "TV603"]
