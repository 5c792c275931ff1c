"""Data that was not observed is reported once, with the reason, and only if it is missing."""

import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.reasons import NAMES_MAX, UNSEEN_STEPS
from trainvitals.diagnosis.history import History
from trainvitals.wire import NotWatched, Stream

X = torch.ones(6, 4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def run(model, steps, *, watched=None, report=True, **options):
    history, records = History(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def emit(record):
        records.append(record)
        history.add(record)

    capture = Capture(watched or model, optimizer, emit=emit, **options)
    for _ in range(steps):
        loss = model(X).square().mean()
        if report:
            capture.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return capture, history, records


def said(records):
    return [r.reasons for r in records if isinstance(r, NotWatched)]


def test_nothing_is_said_of_a_run_that_is_seen_whole():
    capture, _, records = run(network(), 20)
    capture.detach()
    assert not said(records)


def test_a_run_that_reports_no_loss_is_told_what_to_do():
    capture, _, records = run(network(), UNSEEN_STEPS, report=False)
    assert "monitor.loss(loss)" in capture.not_watched["loss"]
    assert len(said(records)) == 1


def test_a_run_that_is_shorter_is_told_at_its_end():
    capture, _, records = run(network(), 2, report=False)
    assert not said(records)
    capture.detach()
    assert "loss" in capture.not_watched


def test_a_loss_that_comes_later_corrects_what_was_said():
    capture, _, _ = run(network(), 20, report=False)
    capture.loss(1.0)
    capture.loss(1.0)
    assert capture.not_watched["loss"] == "no loss was recorded before step 20"


def test_a_model_in_eval_mode_is_named_as_the_reason_for_absent_activations():
    capture, _, _ = run(network().eval(), 20)
    assert "model.train()" in capture.not_watched["activations"]


def test_a_model_that_is_not_called_is_named_as_the_reason_for_absent_activations():
    capture, _, _ = run(network(), 20, watched=network())
    assert "no watched module was called" in capture.not_watched["activations"]


def test_a_model_compiled_before_watching_has_no_activations_and_it_says_so():
    torch._dynamo.reset()
    model = network()
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    capture, _, _ = run(compiled, 20, watched=model)
    assert "torch.compile" in capture.not_watched["activations"]


def test_activations_that_are_not_wanted_are_not_missed():
    capture, _, _ = run(network(), 20, activations=False)
    assert not capture.not_watched


def test_activations_that_come_later_correct_what_was_said():
    model = network().eval()
    capture, _, _ = run(model, 20)
    model.train()
    model(X).sum().backward()
    capture.optimizers[0].step()
    assert capture.not_watched["activations"] == "no activation was measured before step 20"


def test_an_optimizer_of_another_model_is_said():
    capture, _, _ = run(network(), 1, watched=network())
    assert "it trains another model" in capture.not_watched["optimizer"]


def test_every_reason_fits_what_the_collector_stores():
    for capture in (
        run(network(), 9, report=False)[0],
        run(network().eval(), 9, watched=network())[0],
        run(network(), 9, overhead=0)[0],
    ):
        capture.detach()
        assert all(len(reason.encode()) <= 256 for reason in capture.not_watched.values())


def test_a_new_name_at_every_step_is_bounded_and_said_once():
    capture, history, records = run(network(), 1)
    optimizer = capture.optimizers[0]
    for at in range(3000):
        capture.log({f"name {at}": at})
        optimizer.step()
    places = len(history.places(Stream.SCALAR))
    assert NAMES_MAX <= places < NAMES_MAX + 20
    assert len(said(records)) == 1
    assert len(capture._guard._errors) == 0
    frames = [r for r in records if getattr(r, "stream", None) is Stream.SCALAR]
    assert frames[-1].values.shape[1] == places
    capture.detach()
    assert f"{3000 - NAMES_MAX:,} values" in capture.not_watched["log"]


def test_names_beyond_the_bound_do_not_stop_the_known_ones():
    capture, history, _ = run(network(), 1)
    for at in range(NAMES_MAX + 50):
        capture.log({f"name {at}": 1.0})
    capture.log({"name 0": 7.0})
    capture.optimizers[0].step()
    assert history.scalar("log/name 0").values[-1] == 7.0


def test_names_of_splits_are_bounded_too():
    capture, history, _ = run(network(), 1)
    for at in range(NAMES_MAX + 50):
        capture.loss(1.0, split=f"split {at}")
    capture.optimizers[0].step()
    assert len(history.places(Stream.SCALAR)) < NAMES_MAX + 20


def test_overhead_0_gives_vital_signals_and_no_full_step():
    capture, history, _ = run(network(), 100, overhead=0)
    capture.settle()
    assert not history.places(Stream.WEIGHT)
    assert not history.places(Stream.ACTIVATION)
    assert len(history.scalar("gradient_norm")) == 100
    assert len(history.scalar("loss")) == 100
    assert "overhead=0" in capture.not_watched["layers"]
    capture.finding_opened()
    capture.loss(float("nan"))
    capture.optimizers[0].step()
    assert not history.places(Stream.WEIGHT)
