"""R12: what a monitor does in forks, spawned workers and at exit. Start at `problems_of_fork`,
`exit_code` and `monitors_in_spawned_workers`.
"""

import json
import os
import signal
import textwrap
import threading
import time
from pathlib import Path

import torch

import trainvitals
from helpers.warm_python import run_warm
from helpers.watching import network, train

HANG_S = 4.0
"""A child that has not ended after this time hangs."""

ENDINGS: dict[str, tuple[str, int]] = {
    "sys.exit(3)": ("sys.exit(3)", 3),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}
"""Ways in which a program ends, and the exit code without a monitor."""


def problems_of_fork(spool: Path, forks: int = 5) -> list[str]:
    """Fork a watched training while locks are held; return what is wrong in a child or after."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="http://127.0.0.1:9")
    found: list[str] = []
    try:
        train(model, optimizer, monitor, steps=2)
        end = time.monotonic() + 10
        while not list(spool.rglob("[0-9a-f]*/lock")) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)  # the lock is known to the monitor just after its folder has its name
        for _ in range(forks):
            found += _in_child(monitor, model, optimizer, spool)
        threads = threading.active_count()
        train(model, optimizer, monitor, steps=2)
        if monitor.diagnosis().step != 3:
            found.append("the parent is not watched any more")
        if threading.active_count() != threads:
            found.append("a thread in the parent")
    finally:
        monitor.close()
    return sorted(set(found))


def _in_child(monitor, model, optimizer, spool: Path) -> list[str]:
    reader, writer = os.pipe()
    # The background thread may hold its lock at any time; here it is held at every fork.
    monitor._diagnosis._lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(HANG_S) + 2)
            said = json.dumps(_problems_here(monitor, model, optimizer, spool))
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    monitor._diagnosis._lock.release()
    os.close(writer)
    try:
        if code_of(child) == "hangs":
            return ["the child hangs"]
        said = os.read(reader, 65536).decode()
        return json.loads(said) if said else ["the child died"]
    finally:
        os.close(reader)


def _problems_here(monitor, model, optimizer, spool: Path) -> list[str]:
    found = []
    if threading.active_count() > 1:
        found.append("a thread in the child")
    opened = [os.readlink(f"/proc/self/fd/{n}") for n in _descriptors()]
    # Only the lock: the background thread may be reading a segment at the fork.
    if any(path.startswith(str(spool)) and path.endswith("/lock") for path in opened):
        found.append("the lock of the spool in the child")
    try:
        produced = monitor._produced
        train(model, optimizer, monitor, steps=1)
        monitor.diagnosis()
        monitor.close()
        if monitor._produced != produced:
            found.append("the child is watched")
    except Exception as error:  # noqa: BLE001 - reported
        found.append(f"exception in the child: {error!r}")
    if threading.active_count() > 1:
        found.append("a thread in the child")
    return found


def _descriptors() -> list[str]:
    names = os.listdir("/proc/self/fd")
    return [name for name in names if os.path.exists(f"/proc/self/fd/{name}")]


def exit_code(ending: str, broken: str = "") -> int:
    """Return the exit code of a watched program that ends in this way; −n if signal n ended it.

    `broken` is code that breaks the monitor; such a program ends by SIGALRM if it hangs.
    """
    script = f"""
        import os, signal, sys, threading, time
        import torch, trainvitals
        {broken}
        model = torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = trainvitals.watch(model, optimizer, collector="off")
        monitor.loss(model(torch.ones(3, 4)).square().sum()).backward()
        optimizer.step()
        print("trained", flush=True)
        signal.alarm({HANG_S if broken else 10 * HANG_S:.0f})
        {ENDINGS[ending][0]}
        """
    done = run_warm(textwrap.dedent(script), env={**os.environ, "TRAINVITALS_REPORT": "off"})
    assert done.stdout == "trained\n", done.stderr
    return done.returncode


def code_of(child: int, deadline_s: float = HANG_S) -> int | str:
    """Return the exit code of a child, −n if signal n ended it, "hangs" if nothing did."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def monitors_in_spawned_workers(folder: Path, *, broken: str) -> tuple[int, int]:
    """Return how many monitors a worker starts that imports the user's script again; −1: it died.

    The second number is that of a worker in which `broken` was executed first.
    """
    script = folder / "script.py"
    lines = f"""
        import multiprocessing, os, sys, torch, trainvitals
        from trainvitals import watching as module
        if "BROKEN" in os.environ:
            {broken}
        model = torch.nn.Linear(4, 2)
        monitor = trainvitals.watch(model, collector="off")

        def count():
            sys.exit(10 + int(monitor._capture is not None))

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            for environment in ({{}}, {{"BROKEN": "1"}}):
                os.environ.update(environment)
                worker = context.Process(target=count)
                worker.start()
                worker.join()
                print({{10: 0, 11: 1}}.get(worker.exitcode, -1))
        """
    script.write_text(textwrap.dedent(lines))
    done = run_warm(
        'import runpy, sys; runpy.run_path(sys.argv[1], run_name="__main__")',
        str(script),
        env={**os.environ, "TRAINVITALS_REPORT": "off"},
        timeout_s=100,
    )
    sound, wrong = done.stdout.split()
    return int(sound), int(wrong)
