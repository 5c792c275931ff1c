"""The checks of R12, R15 and R16 find no problem in trainvitals, and one in each broken build."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch

from helpers import odd_tensors
from helpers.endings import ENDINGS, exit_code, monitors_in_spawned_workers, problems_of_fork
from helpers.unchanged_training import PROGRAMS, changes
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.capture import hooks, modules, plan
from trainvitals.capture.backends import members, native
from trainvitals.capture.capture import Capture
from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import Hooked, OutputHook
from trainvitals.capture.modules import WatchedModule
from trainvitals.capture.optimizers import Optimizers
from trainvitals.monitor import Monitor
from trainvitals.ship import Shipper
from trainvitals.structure import parameters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def also(monkeypatch, owner, name, more):
    """Make a method of trainvitals call `more`, with its arguments, after its own work."""
    sound = getattr(owner, name)

    def broken(*arguments, **options):
        result = sound(*arguments, **options)
        more(*arguments)
        return result

    monkeypatch.setattr(owner, name, broken)


def raises(*_arguments, **_options):
    raise ValueError("a bug of trainvitals")


# R15: the training is unchanged.


def unguarded_hook(patch):
    patch.setattr(WatchedModule, "_measure", raises)
    patch.setattr(WatchedModule, "returned", lambda self, _module, _args, out: self._measure(out))


def guard_that_lets_exceptions_through(patch):
    patch.setattr(WatchedModule, "_measure", raises)
    patch.setattr(Guard, "failed", raises)


def sampling_with_torchs_generator(patch):
    also(patch, WatchedModule, "_measure", lambda *_: torch.randint(9, (1,)))


def sampling_with_numpys_generator(patch):
    also(patch, native.NativeGroup, "weights", lambda *_: np.random.permutation(3))


def sampling_with_pythons_generator(patch):
    also(patch, native.NativeGroup, "gradients", lambda *_: random.random())


def hook_that_returns_another_output(patch):
    patch.setattr(OutputHook, "__call__", lambda self, _module, _args, out: _scaled(out))


def _scaled(output):
    return output * (1 + 1e-6) if isinstance(output, torch.Tensor) else output


def update_kernel_that_writes_into_the_weights(patch):
    also(patch, native.NativeGroup, "updates", lambda group, _: _write(group._members[0].tensor))


def _write(tensor):
    tensor.detach()[..., :1].mul_(1 + 1e-6)


def gradients_unscaled_in_place(patch):
    also(patch, native.NativeGroup, "norm", lambda group, *_: _write(group._members[0].gradient))


def detach_that_leaves_the_modules_hooks(patch):
    patch.setattr(Hooked, "remove", lambda self: None)


def detach_that_leaves_the_optimizers_hooks(patch):
    patch.setattr(Optimizers, "detach", lambda self: None)


def hook_that_copies_keep(patch):
    patch.setattr(hooks, "HookTable", hooks.OrderedDict)


def hook_that_keeps_the_outputs(patch):
    kept = []
    also(patch, WatchedModule, "_measure", lambda _self, output: kept.append(output))


def buffer_registered_on_the_model(patch):
    def register(capture, _loss):
        capture.models[""].register_buffer("seen", torch.zeros(1))

    also(patch, Capture, "_attach", register)


def warnings_silenced(patch):
    also(patch, Capture, "_attach", lambda *_: warnings.simplefilter("ignore"))


BROKEN_TRAININGS = {
    unguarded_hook: "exception",
    guard_that_lets_exceptions_through: "exception",
    sampling_with_torchs_generator: "torch's random numbers",
    sampling_with_numpys_generator: "NumPy's random numbers",
    sampling_with_pythons_generator: "Python's random numbers",
    hook_that_returns_another_output: "losses",
    update_kernel_that_writes_into_the_weights: "weights",
    gradients_unscaled_in_place: "gradients",
    detach_that_leaves_the_modules_hooks: "hooks left",
    detach_that_leaves_the_optimizers_hooks: "hooks left",
    hook_that_copies_keep: "hooks of a copy",
    hook_that_keeps_the_outputs: "outputs kept",
    buffer_registered_on_the_model: "keys of the state",
    warnings_silenced: "settings",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_monitor_changes_nothing(program):
    assert changes(program) == []


def test_a_probe_that_fails_changes_nothing(monkeypatch):
    monkeypatch.setattr(WatchedModule, "_measure", raises)
    monkeypatch.setattr(native.NativeGroup, "weights", raises)
    assert changes() == []


@pytest.mark.parametrize(("break_it", "found"), BROKEN_TRAININGS.items())
def test_a_build_that_changes_the_training_is_found(break_it, found, monkeypatch):
    break_it(monkeypatch)
    assert found in changes()


# R16: odd tensors.


def complex_parameters_in_the_kernels(patch):
    def reason(tensor):
        return None if tensor.is_complex() else parameters.reason_not_measured(tensor)

    for part in (members, plan):
        patch.setattr(part, "reason_not_measured", reason)


def output_hook_that_takes_nested_tensors(patch):
    sound = modules._is_plain
    patch.setattr(modules, "_is_plain", lambda tensor: tensor.is_nested or sound(tensor))


def report_that_says_nothing(patch):
    patch.setattr(Capture, "report", lambda *_: None)


def strided_outputs_read_as_if_they_were_contiguous(patch):
    # Not those with stride 0: the kernel would read beyond their memory.
    patch.setattr(modules, "is_dense", lambda tensor: 0 not in tensor.stride())


def sums_in_float16(patch):
    also(patch, native.NativeGroup, "weights", _overflow)


def _overflow(group, step):
    from trainvitals.wire import STATISTICS, Stat, Stream

    for member in group._members:
        if member.tensor.dtype is torch.float16:
            squares = member.tensor.detach().square().sum()
            column = STATISTICS[Stream.WEIGHT].index(Stat.L2)
            step.matrix(Stream.WEIGHT)[member.row, column] = squares.sqrt()


BROKEN_FOR_ODD_TENSORS = {
    unguarded_hook: "exception",
    complex_parameters_in_the_kernels: "counted",
    output_hook_that_takes_nested_tensors: "counted",
    report_that_says_nothing: "unnamed",
    strided_outputs_read_as_if_they_were_contiguous: "number: the mean",
    sums_in_float16: "number: the norm",
}


@pytest.mark.parametrize(("break_it", "found"), BROKEN_FOR_ODD_TENSORS.items())
def test_a_build_that_fails_on_odd_tensors_is_found(break_it, found, monkeypatch):
    break_it(monkeypatch)
    assert any(problem.startswith(found) for problem in odd_tensors.problems())


# R12: forks, spawned workers and exits.


def thread_started_in_the_fork_hook(patch):
    also(patch, Monitor, "_forget", lambda _: _start_thread())


def _start_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def child_that_stays_watched(patch):
    patch.setattr(Monitor, "_forget", lambda self: None)


def descriptors_left_open_in_the_child(patch):
    patch.setattr(Shipper, "forget", lambda self: None)


BROKEN_FORKS = {
    thread_started_in_the_fork_hook: "a thread in the child",
    child_that_stays_watched: "the child hangs",
    descriptors_left_open_in_the_child: "the lock of the spool in the child",
}


def test_a_fork_is_sound(tmp_path):
    assert problems_of_fork(tmp_path, forks=20) == []


@pytest.mark.parametrize(("break_it", "found"), BROKEN_FORKS.items())
def test_a_build_that_fails_in_forks_is_found(break_it, found, monkeypatch, tmp_path):
    break_it(monkeypatch)
    assert found in problems_of_fork(tmp_path, forks=1)


BROKEN_EXITS = {
    "SIGTERM": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
    "sys.exit(3)": "threading.Thread(target=threading.Event().wait).start()",
}


@pytest.fixture(scope="module")
def exits():
    """Exit codes by (ending, broken build)."""
    programs = [*((ending, "") for ending in ENDINGS), *BROKEN_EXITS.items()]
    return {program: exit_code(*program) for program in programs}


@pytest.mark.parametrize("ending", ENDINGS)
def test_exit_codes_are_unchanged(ending, exits):
    assert exits[ending, ""] == ENDINGS[ending][1]


@pytest.mark.parametrize("ending", BROKEN_EXITS)
def test_a_build_that_changes_how_programs_end_is_found(ending, exits):
    assert exits[ending, BROKEN_EXITS[ending]] != ENDINGS[ending][1]


def test_a_spawned_worker_starts_a_monitor_only_in_a_broken_build(tmp_path):
    broken = "module.is_respawned = lambda: False"
    assert monitors_in_spawned_workers(tmp_path, broken=broken) == (0, 1)
