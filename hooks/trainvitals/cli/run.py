"""`trainvitals run train.py …`: run a program and watch its training, without changing it.

The program runs in this process, as `__main__`, with its own arguments. Its exit code, its signals
and its tracebacks are those of `python train.py`; with --fail-on, the diagnosis gives the exit code
where the program ended with 0 (the table of report.py).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from trainvitals.cli.report import BLIND, USAGE, FailOn, end, exit_code
from trainvitals.ending import at_close, open_monitors

if TYPE_CHECKING:
    from trainvitals.api.schema import Diagnosis

Program = Annotated[
    list[str] | None,
    typer.Argument(metavar="SCRIPT [ARGS]…", help="The program and its arguments."),
]
Module = Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module.")]
Name = Annotated[str | None, typer.Option("--name", help="The run's name.")]
Project = Annotated[str | None, typer.Option("--project", help="The run's project.")]
Url = Annotated[str | None, typer.Option("--collector", help="URL of the collector, or off.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")]
Fail = Annotated[
    FailOn,
    typer.Option(help="Lowest severity of findings that give exit code 1 at the end; see check."),
]


CALLBACKS = {
    "keras": "model.fit(…, callbacks=[TrainvitalsCallback()])",
    "fastai": "Learner(…, cbs=TrainvitalsCallback())",
}
"""Frameworks with optimizers of their own, in which `run` sees no training, and what attaches."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "run",
        # Everything after the script belongs to the script.
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )(command)


def command(
    program: Program = None,
    module: Module = False,
    name: Name = None,
    project: Project = None,
    collector: Url = None,
    tag: Tags = None,
    fail_on: Fail = FailOn.NEVER,
) -> None:
    """Run SCRIPT with its arguments and watch its training, without changing the script.

    With torchrun: torchrun --nproc-per-node 2 -m trainvitals run train.py
    """
    if not program:
        end(USAGE, "Name the script: trainvitals run train.py")
    if not module and not Path(program[0]).is_file():
        end(USAGE, f"There is no file {program[0]}. For a module: trainvitals run -m {program[0]}")
    from trainvitals.integrations.script import Unasked

    given = {"run": name, "project": project, "collector": collector, "tags": tuple(tag or ())}
    unasked = Unasked({option: value for option, value in given.items() if value})
    unasked.install()
    diagnoses: list[Diagnosis] = []
    at_close.append(diagnoses.append)
    try:
        _execute(program, module=module)
    except BaseException as error:  # noqa: BLE001 - as the interpreter does at the end of a program
        _ended(error)
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            _end_as_python(error)
    else:
        _ended(None)
    if not diagnoses and unasked.monitor is None and "torch" in sys.modules:
        typer.echo(f"trainvitals: no training was seen: {_why_none()}.", err=True)
    is_disabled = unasked.monitor is not None and unasked.monitor._settings.disabled
    raise typer.Exit(0 if is_disabled else _code_of(diagnoses, fail_on))


def _execute(program: list[str], *, module: bool) -> None:
    sys.argv = list(program)
    # The command line's own hook would otherwise show the exceptions of the program.
    sys.excepthook = sys.__excepthook__
    if module:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
        return
    path = Path(program[0]).absolute()
    sys.path.insert(0, str(path.resolve().parent))
    # Not runpy.run_path: it removes `__main__` again while threads of the program may need it.
    main = ModuleType("__main__")
    main.__file__ = str(path)
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    # dont_inherit: the future statements of this file would change the program's annotations.
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102 - its purpose


def _ended(error: BaseException | None) -> None:
    """Close the monitors that are open after the program ended, also those of its own `watch`."""
    kind = None if error is None else type(error)
    for monitor in list(open_monitors):
        monitor.__exit__(kind, error, None if error is None else error.__traceback__)


def _code_of(diagnoses: Sequence[Diagnosis], fail_on: FailOn) -> int:
    """Return the exit code after a program that ended with 0: of its worst training.

    With --fail-on, a program in which no training was watched is blind.
    """
    if not diagnoses:
        return 0 if fail_on is FailOn.NEVER else BLIND
    codes = [exit_code(diagnosis, fail_on) for diagnosis in diagnoses]
    return min((code for code in codes if code), default=0)


def _why_none() -> str:
    for name, call in CALLBACKS.items():
        if name in sys.modules:
            return (
                f"the optimizers of {name} are not torch's. Pass {call}, where TrainvitalsCallback "
                f"is that of trainvitals.integrations.{name}, unless the program does"
            )
    return "no model whose optimizer steps"


def _end_as_python(error: BaseException) -> NoReturn:
    """End the process as `python script.py` does after `error`."""
    if isinstance(error, SystemExit):
        code = error.code
        if code is not None and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
        raise typer.Exit(code or 0)
    error = error.with_traceback(_of_program(error.__traceback__))
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, KeyboardInterrupt):
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    raise typer.Exit(1)


def _of_program(found: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of this file and of runpy."""
    own = {__file__, runpy.__file__, "<frozen runpy>"}
    while found is not None and found.tb_frame.f_code.co_filename in own:
        found = found.tb_next
    return found
