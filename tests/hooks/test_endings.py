"""How a watched program ends: with an error, a signal, a fork or nothing at all."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

import trainvitals
from helpers.warm_python import run_warm
from helpers.watching import network, own_home, train, watched  # noqa: F401 - own_home is a fixture
from trainvitals.capture import Capture
from trainvitals.wire import Event, EventKind, Frame


def ending_of(monkeypatch, monitor):
    """Return the state in which the monitor is closed at the interpreter's exit."""
    from trainvitals import monitor as module

    states = []
    monkeypatch.setattr(monitor, "_close", lambda state, error="": states.append(state))
    module._close_all()
    return states


def test_an_old_error_of_a_notebook_does_not_make_a_run_failed(monkeypatch):
    monkeypatch.setattr(sys, "last_value", ValueError("an old cell"), raising=False)
    assert ending_of(monkeypatch, watched(steps=1)) == ["finished"]


def test_an_error_that_a_notebook_showed_during_the_run_does_not_make_it_failed(monkeypatch):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    monkeypatch.setattr(sys, "last_value", ValueError("a typing error"), raising=False)
    train(model, optimizer, monitor, steps=1)
    assert ending_of(monkeypatch, monitor) == ["finished"]


def test_an_error_after_the_last_step_makes_the_run_failed(monkeypatch):
    monitor = watched(steps=1)
    monkeypatch.setattr(sys, "last_value", ValueError("mine"), raising=False)
    assert ending_of(monkeypatch, monitor) == ["failed"]


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    head = "import torch, trainvitals\nfrom torch import nn\ntorch.manual_seed(0)\n"
    head += "model = nn.Linear(4, 2)\n"
    head += "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    return run_warm(
        head + textwrap.dedent(script),
        env={**os.environ, "TRAINVITALS_REPORT": "line", **environment},
    )


STEP = "monitor.loss(model(torch.ones(3, 4)).square().sum()).backward(); optimizer.step()\n"


def test_a_script_that_never_closes_still_ends_with_its_verdict():
    done = run_script(f"monitor = trainvitals.watch(model, optimizer, collector='off')\n{STEP}")
    assert done.returncode == 0
    assert "trainvitals: " in done.stderr


def test_a_script_that_dies_keeps_its_traceback_and_exit_code():
    done = run_script(
        f"monitor = trainvitals.watch(model, optimizer, collector='off')\n{STEP}1 / 0\n"
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_an_unreachable_collector_neither_fails_nor_holds_the_script():
    done = run_script(
        f"""
        import time
        monitor = trainvitals.watch(model, optimizer, collector='http://127.0.0.1:9')
        for _ in range(20):
            {STEP}
        start = time.monotonic()
        monitor.close()
        print(time.monotonic() - start)
        """
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.5


def test_a_forked_child_is_silent_and_the_parent_goes_on():
    done = run_script(
        f"""
        import os
        monitor = trainvitals.watch(model, optimizer, collector='http://127.0.0.1:9')
        {STEP}
        child = os.fork()
        if child == 0:
            {STEP}
            os._exit(0 if monitor.diagnosis().step <= 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
        {STEP}
        assert monitor.diagnosis().step == 1
        """
    )
    assert done.returncode == 0, done.stderr


TRAINING = """
monitor = trainvitals.watch(model, optimizer, collector='off')
for step in range(300):
    x = torch.randn(16, 4)
    y = x[:, :2] - x[:, 2:]
    if step == {bad}:
        x[3, 1] = float('nan')
    optimizer.zero_grad()
    output = model(x)
    loss = monitor.loss(nn.functional.mse_loss(output, y))
    if not torch.isfinite(loss):
        {end}
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("bad", "end", "said"),
    [
        (0, "raise ValueError('not finite')", "failed after 0 steps: ValueError: not finite."),
        (30, "raise ValueError('not finite')", "failed after 30 steps: ValueError: not finite."),
        (30, "sys.exit(1)", "Non-finite input"),
    ],
)
def test_a_program_that_ends_itself_at_a_nan_loss_is_diagnosed(bad, end, said):
    """The last step has no update; its loss, weights and outputs are recorded nevertheless."""
    done = run_script("import sys" + TRAINING.format(bad=bad, end=end))
    assert said in done.stderr
    assert f"ERROR TV902 non_finite_input since step {bad}" in done.stderr


def test_a_nan_loss_of_a_step_without_captured_outputs_is_reported_as_such():
    end = "raise ValueError('not finite')"
    script = TRAINING.format(bad=200, end=end).replace("'off')", "'off', every=64)")
    done = run_script(script)
    assert "failed after 200 steps" in done.stderr
    assert "TV901 non_finite_value since step 200" in done.stderr
    assert "the origin was not observed" in done.stderr


def test_a_forward_pass_that_raises_leaves_what_was_measured_before():
    """The binary cross entropy of torch raises when a prediction is NaN."""
    done = run_script(
        """
        model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = trainvitals.watch(model, optimizer, collector='off')
        x = torch.ones(3, 4)
        x[1, 2] = float('nan')
        nn.functional.binary_cross_entropy(model(x), torch.ones(3, 1))
        """
    )
    assert "failed after 0 steps: RuntimeError: all elements of input" in done.stderr
    assert "ERROR TV902 non_finite_input at 0 since step 0" in done.stderr


def test_a_program_that_fails_before_its_first_step_is_not_told_to_pass_the_optimizer_it_passed():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    monitor.close()
    reason = monitor.diagnosis().not_watched["optimizer"]
    assert reason.startswith("the optimizer never stepped: the run ended before its first step")


def test_a_run_that_ends_well_has_no_unfinished_step():
    records = []
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=records.append, every=1)
    model(torch.ones(3, 8))  # an evaluation after the last step
    capture.abandon_step(failed=False)
    assert not [r for r in records if isinstance(r, Event | Frame)]
    capture.abandon_step(failed=True)
    kinds = [r.kind for r in records if isinstance(r, Event)]
    assert kinds == [EventKind.STEP_UNFINISHED]
    capture.detach()
