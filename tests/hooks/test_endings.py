"""How a watched program ends: with an error, a signal, a fork or nothing at all."""

import os
import subprocess
import sys
import textwrap

import torch

import trainvitals
from helpers.watching import network, own_home, train, watched  # noqa: F401 - own_home is a fixture


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
    head = "import torch, trainvitals\nfrom torch import nn\nmodel = nn.Linear(4, 2)\n"
    head += "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
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
