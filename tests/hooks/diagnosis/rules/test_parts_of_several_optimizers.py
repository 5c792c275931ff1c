"""TV103 finds the part that one of several optimizers steps without a gradient."""

import torch
from torch import nn
from torch.nn import functional

import trainvitals
from trainvitals.api.schema import Severity


def findings(*, detached=False, generator_steps=lambda _: True, runs=True, steps=40):
    """Train a generator and a critic; return the findings of TV103."""
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    of_critic = torch.optim.Adam(critic.parameters(), 1e-3)
    of_generator = torch.optim.Adam(generator.parameters(), 1e-3)
    monitor = trainvitals.watch(model, [of_critic, of_generator], every=1)
    right, wrong = torch.ones(16, 1), torch.zeros(16, 1)
    for step in range(steps):
        made = generator(torch.randn(16, 4)) if runs else torch.randn(16, 2)
        of_critic.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(critic(torch.randn(16, 2) + 2), right)
        loss = loss + functional.binary_cross_entropy_with_logits(critic(made.detach()), wrong)
        monitor.loss(loss).backward()
        of_critic.step()
        if generator_steps(step):
            of_generator.zero_grad()
            judged = critic(made.detach() if detached else made)
            functional.binary_cross_entropy_with_logits(judged, right).backward()
            of_generator.step()
    monitor.close()
    return [found for found in monitor.diagnosis().findings if found.rule == "no_gradient"]


def test_a_generator_whose_samples_are_detached_is_an_error():
    [found] = findings(detached=True)
    assert (found.where, found.severity) == ("generator.2", Severity.ERROR)
    assert "none in the last 20 measured steps" in found.summary


def test_twenty_steps_of_its_optimizer_are_needed():
    assert not findings(detached=True, steps=19)


def test_a_generator_with_gradients_is_silent():
    assert not findings()


def test_a_generator_that_is_stepped_now_and_then_is_silent():
    assert not findings(generator_steps=lambda step: step % 5 == 4, steps=120)


def test_a_generator_that_is_not_stepped_yet_is_silent():
    assert not findings(generator_steps=lambda _: False)


def test_a_part_that_does_not_run_is_silent():
    assert not findings(detached=True, runs=False)
