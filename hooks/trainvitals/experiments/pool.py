"""Run the trainings: one after the other, or in processes.

Comes in: a job and the pairs (choice, seed). Goes out: the outcomes, as they finish.
Processes are spawned: a fork of a process with torch's threads can hang. Each has one thread.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trainvitals.experiments.trial import Job, Outcome, run_trial

Task = tuple[int, int]
"""Index of the choice, and the seed."""
_job: list[Job] = []
"""In a worker: the job, unpickled once."""


def reason_serial(job: Job) -> str | None:
    """Return why the job cannot be sent to processes; None if it can be pickled."""
    parts = {
        "factory": job.factory,
        "data": job.data,
        "a choice": job.choices,
        "loss": job.loss,
        "optimizer": job.optimizer,
        "metric": job.metric,
        "held_out": job.held_out,
    }
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except Exception as error:  # noqa: BLE001 - `__reduce__` of the user's objects
            return (
                f"{name} cannot be pickled ({type(error).__name__}: {error}); define it at the "
                "top level of a module"
            )
    return None


def serial(job: Job, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Yield the outcome of each task, in this process."""
    for index, seed in tasks:
        yield run_trial(job, job.choices[index], seed)


def parallel(job: Job, tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    """Yield the outcome of each task as it finishes.

    Raises BrokenProcessPool if the processes cannot start: the script has no
    `if __name__ == "__main__"`, or its functions cannot be imported.
    """
    # In a file: a process that ends before it has read more arguments than a pipe holds would let
    # this one wait without end.
    with TemporaryDirectory(prefix="trainvitals-") as folder:
        file = Path(folder) / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(str(file),),
        )
        try:
            for done in as_completed([pool.submit(_run, task) for task in tasks]):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(file: str) -> None:
    torch.set_num_threads(1)
    _job.append(pickle.loads(Path(file).read_bytes()))  # noqa: S301 - from the parent process


def _run(task: Task) -> Outcome:
    index, seed = task
    return run_trial(_job[0], _job[0].choices[index], seed)


__all__ = ["BrokenProcessPool", "Task", "parallel", "reason_serial", "serial"]
