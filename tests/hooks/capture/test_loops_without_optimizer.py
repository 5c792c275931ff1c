"""Without a torch optimizer, each training loss is a step; what is not observed is reported."""

import numpy as np
import pytest
import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.loss_steps import LOSSES_MAX
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

X = torch.ones(6, 4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def captured(model, optimizer=None, **options):
    history = History()
    return Capture(model, optimizer, emit=history.add, **options), history


def in_place(parameter):
    with torch.no_grad():
        parameter -= 0.1 * parameter.grad


def through_data(parameter):
    parameter.data -= 0.1 * parameter.grad


def hand_written_steps(model, capture, steps, update=in_place):
    losses = []
    for _ in range(steps):
        loss = model(X).square().mean()
        capture.loss(loss)
        model.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            update(parameter)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("update", [in_place, through_data])
def test_every_loss_of_a_hand_written_loop_is_a_step(update):
    model = network()
    capture, history = captured(model)
    losses = hand_written_steps(model, capture, 20, update)
    assert capture.step == 19
    np.testing.assert_allclose(history.scalar("loss").values, losses, rtol=1e-6)
    assert history.scalar("loss").steps.tolist() == list(range(20))
    assert "no torch optimizer" in capture.not_watched["gradients and updates"]
    capture.detach()
    assert set(capture.not_watched) == {"gradients and updates"}


def test_weights_and_outputs_are_measured_without_an_optimizer():
    model = network()
    capture, history = captured(model)
    hand_written_steps(model, capture, 20)
    assert np.isfinite(history.values(Stream.WEIGHT, Stat.L2)[-1]).all()
    assert np.isfinite(history.values(Stream.ACTIVATION, Stat.STD)[-1]).all()
    assert all(place.optimized for place in history.places(Stream.WEIGHT))


def test_a_short_hand_written_loop_is_counted_when_the_diagnosis_is_asked_for():
    model = network()
    capture, history = captured(model)
    hand_written_steps(model, capture, 2)
    capture.settle()
    assert capture.step == 1
    assert len(history.scalar("loss")) == 2


def test_a_loop_of_one_loss_is_counted_at_the_end():
    model = network()
    capture, history = captured(model)
    hand_written_steps(model, capture, 1)
    capture.detach()
    assert capture.step == 0
    assert len(history.scalar("loss")) == 1


def test_losses_of_accumulated_micro_batches_wait_for_the_optimizers_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture, history = captured(model)
    for _ in range(3):
        for value in range(100):
            loss = model(X).square().mean() * 0 + value
            capture.loss(loss)
            loss.backward()
            capture.settle()
        optimizer.step()
    assert capture.step == 2
    assert history.scalar("loss").values.tolist() == [49.5] * 3
    assert "gradients and updates" not in capture.not_watched


def test_no_loss_is_counted_twice_when_an_optimizer_steps_later():
    model = network()
    capture, history = captured(model)
    losses = hand_written_steps(model, capture, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        loss = model(X).square().mean()
        capture.loss(loss)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = history.scalar("loss").values
    np.testing.assert_allclose(seen[np.isfinite(seen)], losses, rtol=1e-6)
    # The first loss before the optimizer's first step had ended a step of its own.
    assert capture.step == 15


def test_an_optimizer_that_is_given_and_never_steps_does_not_hide_the_losses():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture, history = captured(model, optimizer)
    losses = hand_written_steps(model, capture, 20)
    assert capture.step == 19
    np.testing.assert_allclose(history.scalar("loss").values, losses, rtol=1e-6)
    assert "Call optimizer.step()" in capture.not_watched["gradients and updates"]


def test_losses_before_a_first_step_that_fails_are_no_steps():
    model = network()
    capture, _ = captured(model, torch.optim.SGD(model.parameters(), lr=0.1))
    capture.loss(model(X).square().mean())
    capture.detach()
    assert capture.step == -1


def test_weights_that_never_change_do_not_hold_the_losses_back_for_ever():
    capture, history = captured(network())
    for at in range(LOSSES_MAX + 10):
        capture.loss(float(at))
    assert capture.step == LOSSES_MAX + 9
    capture.settle()
    assert history.scalar("loss").values[-1] == LOSSES_MAX + 9


def test_a_loss_that_a_module_and_the_program_report_is_one_step():
    model, criterion = network(), nn.MSELoss()
    capture, history = captured(model, loss=criterion)
    for _ in range(10):
        loss = criterion(model(X), torch.zeros(6, 2))
        capture.loss(loss)
        model.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            in_place(parameter)
    assert capture.step == 9
    assert len(history.scalar("loss")) == 10


def test_losses_of_a_watched_module_are_steps_too():
    model, criterion = network(), nn.MSELoss()
    capture, history = captured(model, loss=criterion)
    for _ in range(10):
        model.zero_grad()
        criterion(model(X), torch.zeros(6, 2)).backward()
        for parameter in model.parameters():
            in_place(parameter)
    assert capture.step == 9
    assert len(history.scalar("loss")) == 10


def test_a_callback_can_stop_a_hand_written_loop():
    class Stop(Exception):
        pass

    def stop(step):
        if step == 5:
            raise Stop

    model = network()
    capture, _ = captured(model, on_step=stop)
    with pytest.raises(Stop):
        hand_written_steps(model, capture, 10)


def test_a_hand_written_loop_trains_bit_identically():
    def weights(*, watch):
        model = network()
        capture, _ = captured(model) if watch else (None, None)
        for _ in range(20):
            loss = model(torch.randn(6, 4)).square().mean()
            if capture:
                capture.loss(loss)
            model.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                in_place(parameter)
        return [p.detach() for p in model.parameters()], torch.get_rng_state()

    (plain, rng), (seen, rng_seen) = weights(watch=False), weights(watch=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert torch.equal(rng, rng_seen)
