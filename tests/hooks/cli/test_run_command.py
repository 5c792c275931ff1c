"""`trainvitals run train.py` watches a program that does not mention trainvitals."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from helpers.warm_python import run_warm
from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("own_home")]

LOOP = """
import sys
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=float(sys.argv[1]) if sys.argv[1:] else 1e-2)
for step in range(120):
    x = torch.randn(32, 8)
    y = (x[:, 0] > 0).long()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(__name__, sys.argv[1:], loss.item().hex())
"""


@pytest.fixture
def run(tmp_path):
    """Run a program with python, or with `trainvitals run`; return the finished process."""

    def run(program, *args, watched=True, options=(), before=()):
        (tmp_path / "train.py").write_text(textwrap.dedent(program))
        command = ["-m", "trainvitals", "run", *options] if watched else []
        launcher = [*before] or [sys.executable]
        return subprocess.run(
            [*launcher, *command, "train.py", *args],
            cwd=tmp_path,
            env={**os.environ, "TRAINVITALS_REPORT": "line", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run


@pytest.fixture
def run_in_warm(tmp_path):
    """Run a program with `trainvitals run` in a process that has imported torch already."""

    def run(program, *args, options=(), target="train.py"):
        (tmp_path / "train.py").write_text(textwrap.dedent(program))
        command = "import runpy\nrunpy.run_module('trainvitals', None, '__main__', alter_sys=True)"
        environment = {**os.environ, "TRAINVITALS_REPORT": "line"}
        words = ["run", *options, target, *args]
        return run_warm(command, *words, cwd=tmp_path, env=environment)

    return run


def test_the_program_is_watched_and_gives_the_same_numbers(run):
    plain, watched = run_warm(LOOP), run(LOOP)
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout == plain.stdout
    assert "120 steps" in watched.stderr
    assert "blind" not in watched.stderr


def test_arguments_that_look_like_options_belong_to_the_program(run):
    program = "import sys; print(__name__, __file__, sys.argv)"
    plain, watched = (run(program, "--name", "-x", "--help", watched=w) for w in (False, True))
    assert watched.stdout == plain.stdout


def test_the_loss_is_found_so_that_no_rule_is_blind(run_in_warm):
    done = run_in_warm(LOOP, "30.0", options=["--name", "hot", "--fail-on", "warning"])
    assert done.returncode == 1
    assert "run hot" in done.stderr
    found = r"TV\d+ \w+.* since step \d+"
    assert re.search(rf"^{found}: ", done.stderr, re.MULTILINE), "the text, when it opens"
    assert re.search(
        rf"(WARNING|ERROR) {found}( \(and \d+ more findings?\))?\. Logged when it opened",
        done.stderr,
    )
    assert "blind" not in done.stderr


def test_a_finding_without_fail_on_leaves_the_exit_code(run_in_warm):
    done = run_in_warm(LOOP, "30.0")
    assert "WARNING TV" in done.stderr or "ERROR TV" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('stopped')", 1), ("raise KeyError(3)", 1)],
)
def test_it_ends_as_python_does(run, ending, code):
    plain, watched = (run(f"import sys\n{ending}\n", watched=w) for w in (False, True))
    assert watched.returncode == plain.returncode == code
    assert watched.stderr == plain.stderr


def test_a_failed_program_is_reported_as_failed(run_in_warm):
    assert (
        "failed after 120 steps: KeyError: 3" in run_in_warm(LOOP + "\nraise KeyError(3)\n").stderr
    )


def test_an_interrupt_ends_it_by_the_signal(tmp_path):
    program = LOOP.replace("range(120)", "range(10**9)").replace(
        "    optimizer.step()\n",
        "    optimizer.step()\n    if step == 5: print('on', flush=True)\n",
    )
    (tmp_path / "train.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainvitals", "run", "train.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRAINVITALS_REPORT": "line", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


def test_settings_before_torch_count_and_a_program_without_training_is_told_so(run):
    program = """
    import os, sys
    assert "torch" not in sys.modules
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    print(torch.get_num_threads())
    """
    done = run(program)
    assert done.stdout == "1\n"
    assert "no training was seen" in done.stderr


def test_a_gan_is_watched_with_both_models(run_in_warm):
    program = """
    import torch
    from torch import nn
    class Critic(nn.Sequential): pass
    class Maker(nn.Sequential): pass
    make, judge = Maker(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), Critic(nn.Linear(2, 1))
    a, b = (torch.optim.Adam(m.parameters(), 1e-3) for m in (judge, make))
    for _ in range(20):
        for optimizer, sign in ((a, 1), (b, -1)):
            optimizer.zero_grad()
            (sign * judge(make(torch.randn(8, 2))).mean()).backward()
            optimizer.step()
    import trainvitals.monitor
    [monitor] = trainvitals.monitor._open
    print(sorted({n.split(".")[0] for n in monitor.diagnosis().watched}))
    """
    done = run_in_warm(program)
    assert done.stdout == "['critic', 'maker']\n", done.stderr


def test_a_program_that_calls_watch_itself_is_left_to_it(run_in_warm):
    program = LOOP.replace(
        "for step",
        "import trainvitals\nmonitor = trainvitals.watch(model, optimizer, run='own')\nfor step",
    )
    done = run_in_warm(program, options=["--name", "ours"])
    assert "run own" in done.stderr
    assert "run ours" not in done.stderr


def test_the_loss_before_gradscaler_is_recorded(run_in_warm):
    program = LOOP.replace("for step", "scaler = torch.amp.GradScaler('cpu')\nfor step")
    program = program.replace("loss.backward()", "scaler.scale(loss).backward()")
    program = program.replace("optimizer.step()", "scaler.step(optimizer); scaler.update()")
    program += """
import trainvitals.monitor
[monitor] = trainvitals.monitor._open
monitor.diagnosis()
losses = monitor._diagnosis.history.scalar("loss").values
print(max(losses) < 10, len(losses))
"""
    assert run_in_warm(program).stdout.splitlines()[-1] == "True 120"


def test_the_annotations_of_the_program_are_objects(run):
    program = "class Options:\n    rate: float = 1\nprint(Options.__annotations__)"
    assert run(program).stdout == "{'rate': <class 'float'>}\n"


def test_the_exception_hook_of_the_program_is_called(run):
    program = """
    import sys
    print(sys.excepthook is sys.__excepthook__)
    sys.excepthook = lambda kind, error, _: print("hook", kind.__name__, error)
    raise ValueError(3)
    """
    plain, watched = (run(program, watched=w) for w in (False, True))
    assert watched.stdout == plain.stdout == "True\nhook ValueError 3\n"
    assert watched.returncode == 1
    assert watched.stderr == ""


# A program that ends with its last line: test_the_loss_is_found_so_that_no_rule_is_blind.
@pytest.mark.parametrize(
    "ending", ["sys.exit(0)", pytest.param("sys.exit()", marks=pytest.mark.slow), "monitor.close()"]
)
def test_a_sick_run_whose_program_ends_with_0_gives_1(run_in_warm, ending):
    assert run_in_warm(ended_by(ending), "30.0", options=["--fail-on", "warning"]).returncode == 1


@pytest.mark.slow  # a program without these endings is shorter
@pytest.mark.parametrize("ending", ["sys.exit(0)", "sys.exit()", "monitor.close()"])
def test_a_sick_run_without_fail_on_keeps_the_0_of_its_program(run_in_warm, ending):
    assert run_in_warm(ended_by(ending), "30.0").returncode == 0


def ended_by(ending):
    program = LOOP + f"\n{ending}\n"
    if "monitor" in ending:
        begin = "import trainvitals\nmonitor = trainvitals.watch(model, optimizer)\nfor step"
        program = program.replace("for step", begin)
        program = program.replace("loss.backward()", "monitor.loss(loss).backward()")
    return program


def test_a_program_that_calls_watch_and_raises_is_reported_as_failed(run_in_warm):
    begin = "import trainvitals\nmonitor = trainvitals.watch(model, optimizer)\nfor step"
    done = run_in_warm(LOOP.replace("for step", begin) + "\nraise KeyError(3)\n")
    assert done.returncode == 1
    assert "failed after 120 steps: KeyError: 3" in done.stderr
    assert "no training was seen" not in done.stderr


def test_fail_on_without_a_watched_training_gives_5(run_in_warm):
    assert run_in_warm("import torch", options=["--fail-on", "error"]).returncode == 5


def test_fail_on_leaves_the_exit_code_where_trainvitals_is_switched_off(run_in_warm, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_DISABLED", "1")
    assert run_in_warm(LOOP, "30.0", options=["--fail-on", "error"]).returncode == 0


@pytest.mark.slow  # the script and the module without torchrun are shorter
def test_torchrun_starts_it_as_a_module(run):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = run(LOOP, before=torchrun)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("__main__") == 2


def test_a_module_is_run_by_its_name(run_in_warm, tmp_path):
    (tmp_path / "program.py").write_text(LOOP)
    assert run_in_warm("", "1e-2", options=["-m"]).returncode == 1  # train.py is no module's name
    done = run_in_warm("", "1e-2", options=["-m"], target="program")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("__main__ ['1e-2']")
    assert "120 steps" in done.stderr


def test_a_program_without_torch_is_not_told_that_no_training_was_seen(run):
    assert run("print(1)").stderr == ""


def test_a_second_training_of_a_program_is_named_as_not_watched(run_in_warm):
    again = LOOP.split("torch.set_num_threads(1)\n")[1].split("print(")[0]
    shown = f"""
{LOOP}
import trainvitals.monitor
[monitor] = trainvitals.monitor._open
print(monitor.diagnosis().not_watched.get("later trainings"))
{again}
print(monitor.diagnosis().not_watched.get("later trainings"))
"""
    done = run_in_warm(shown)
    _, before, after = done.stdout.splitlines()
    assert before == "None", done.stderr
    assert after.startswith("after step 119, AdamW that was created later trains; ")


def test_a_framework_with_its_own_optimizers_is_told_of_its_callback(run_in_warm):
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs keras")
    program = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(np.zeros((8, 4)), np.zeros((8, 1)), verbose=0)
"""
    said = run_in_warm(program).stderr
    assert "no training was seen: the optimizers of keras are not torch's" in said
    assert "model.fit(…, callbacks=[TrainvitalsCallback()])" in said


@pytest.mark.parametrize("program", [[], ["no_such_file.py"]])
def test_wrong_usage_gives_2(program):
    command = [sys.executable, "-m", "trainvitals", "run", *program]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 2
