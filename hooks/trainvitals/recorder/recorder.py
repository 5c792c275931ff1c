"""Decide when the ring is written, and write it in a background thread.

Comes in, in the training thread: records, ends of steps, batches, losses per sample. Findings come
from the thread of the diagnosis and are handled at the end of the current step.
Goes out: bundles. `problems` has what could not be recorded, and why.
Start at `Recorder.step_ended`.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from trainvitals.api.schema import Finding, Severity
from trainvitals.random_states import OtherStates, other_states, torch_states
from trainvitals.recorder.batches import ObservedBatches, indices_of, unobservable
from trainvitals.recorder.bundle import Description, write
from trainvitals.recorder.ring import STEPS_MAX, Frozen, Indices, Ring, StepContext
from trainvitals.recorder.snapshots import Snapshot, Snapshots
from trainvitals.wire import Frame, Layout, Record, RunStart, Scalar, Stream

log = logging.getLogger("trainvitals")

BUNDLES_MAX: Final = 3
"""Bundles of one run in one process."""
WAIT_S: Final = 2.0
"""A bundle is written so long after its cause, with the findings that opened until then."""
CLOSE_S: Final = 10.0
OTHER_STATES_BYTES: Final = 32_768
"""Size of Python's state, a tuple of 625 numbers, and of NumPy's."""
OTHERS_SHARE_MAX: Final = 0.0002
"""Share of the training time for reading Python's and NumPy's states."""
ERRORS_MAX: Final = 3
NAME: Final = "flight recorder"
BATCHES: Final = "sample indices"
LOSSES: Final = "losses per sample"
CHANGED: Final = "the tensor given to monitor.loss was changed in place afterwards"


class _Pending:
    """A frozen ring that is not written yet."""

    def __init__(self, about: Description, frozen: Frozen, snapshot: Snapshot | None) -> None:
        self.about, self.frozen, self.snapshot = about, frozen, snapshot
        self.is_due = threading.Event()
        self._is_taken = False
        self._lock = threading.Lock()

    def add(self, finding: Finding | None) -> bool:
        """Add a finding; return False if the bundle is being written already."""
        with self._lock:
            if finding is not None and not self._is_taken:
                self.about.findings.append(finding)
            return not self._is_taken

    def take(self) -> Description:
        """Wait until the bundle is due, and return its description, which is final then."""
        self.is_due.wait(WAIT_S)
        with self._lock:
            self._is_taken = True
        return self.about


class Recorder:
    """One run's ring. `bundles` are the files written, `errors` the exceptions caught."""

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        project: str,
        rank: int,
        models: Mapping[str, nn.Module],
        optimizers: Callable[[], Sequence[Optimizer]],
        start_step: int = 0,
        record_state: bool = False,
    ) -> None:
        self.bundles: list[Path] = []
        self.problems: dict[str, str] = {}
        self.errors = 0
        self._training_s = self._writing_s = 0.0
        self._folder, self._run, self._project, self._rank = folder, run, project, rank
        self._start = RunStart(0.0)
        parameters = (p for model in models.values() for p in model.parameters())
        self._cuda = sorted({p.device.index or 0 for p in parameters if p.is_cuda})
        self._ring = Ring()
        self._snapshots = Snapshots(models, optimizers) if record_state else None
        self._triggers: deque[tuple[int, Finding | None]] = deque()
        self._reported: set[tuple[str, str]] = set()
        self._nonfinite_step: int | None = None
        self._columns: tuple[int, list[int], int | None] = (-1, [], None)
        self._frozen = 0
        self._pending: _Pending | None = None
        self._threads: list[threading.Thread] = []
        self._loaders: dict[int, tuple[weakref.ref[DataLoader[Any]], ObservedBatches | None]] = {}
        self._batches_begin_steps = False
        self._others: OtherStates | None = None
        self._others_step = -1
        self._others_due = 0.0
        self._states_bytes = 0
        self._is_off = False
        self._context = StepContext(start_step)
        self._guarded(lambda: self._begin(start_step))

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the recorder, in the training thread and in its own."""
        return self._training_s + self._writing_s

    # Called in the training thread.

    def put(self, record: Record) -> None:
        """Keep a record of the capture, without a copy."""
        if self._is_off:
            return
        if isinstance(record, Frame):
            self._ring.frame(record)
            if record.stream is Stream.SCALAR:
                self._look_at(record)
        elif isinstance(record, Layout):
            self._ring.layout(record)
            if record.stream is Stream.SCALAR:
                names: list[str] = [place.name for place in record.places]
                watched = (Scalar.NONFINITE_LOSS, Scalar.NONFINITE_GRADIENTS)
                skipped = Scalar.SKIPPED_STEP
                self._columns = (
                    record.version,
                    [names.index(name) for name in watched if name in names],
                    names.index(skipped) if skipped in names else None,
                )
        elif isinstance(record, RunStart):
            self._start = record

    def loss(self, value: object) -> None:
        """Keep the losses per sample of a micro-batch: a tensor with several entries.

        Shape (samples, ...): averaged over the other dimensions.
        """
        if self._is_off or not isinstance(value, Tensor):
            return
        started = time.perf_counter()
        try:
            shape = value.shape
            if shape and shape.numel() > 1:
                self._context.add_losses(_per_sample(value, len(shape)), shape[0])
        except Exception as error:  # noqa: BLE001 - never into the training
            self._failed(error)
        self._training_s += time.perf_counter() - started

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return an iterable over the same batches that observes their sample indices.

        It is the loader itself where they cannot be observed, and after an exception, which is
        counted.
        """
        if self._is_off:
            return loader
        try:
            observed = self._observed(loader)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._failed(error)
            self.no_indices(f"observing the DataLoader raised {type(error).__name__}")
            return loader
        return loader if observed is None else observed

    def delivered(self, given: object) -> None:
        """Keep the sample indices of a batch of this step: integers, one per sample."""
        # A loader that reads ahead draws no indices for the last batches of an epoch.
        if not self._is_off:
            self._guarded(lambda: self._begin_batch(given, again=self._context.of_torch is None))

    def take_batches(self) -> list[Indices]:
        """Remove the batches of this step, and return them: other rows are trained."""
        return self._context.take_batches()

    def no_indices(self, reason: str) -> None:
        """Store why there are no sample indices; the diagnosis shows it."""
        self.problems[BATCHES] = reason

    def _observed(self, loader: Any) -> ObservedBatches | None:
        """Return the observer of a loader, the same in each epoch; None if there is none."""
        if isinstance(loader, ObservedBatches):
            return loader
        # By identity: a DataLoader may have an `__eq__`, with or without a hash.
        key = id(loader)
        if key in self._loaders:
            return self._loaders[key][1]
        if reason := unobservable(loader):
            self.no_indices(reason)
            return None
        loaders = self._loaders
        # None first: after an exception below, the next epoch does not try again.
        here = weakref.ref(loader, lambda _: loaders.pop(key, None))
        loaders[key] = (here, None)
        observed = ObservedBatches(loader, self._drawn, self.delivered, self.no_indices)
        loaders[key] = (here, observed)
        return observed

    def finding_opened(self, finding: Finding) -> None:
        """Store a finding; called in the thread of the diagnosis."""
        key = (finding.code, finding.where)
        if finding.severity is not Severity.INFO and key not in self._reported:
            self._reported.add(key)
            self._triggers.append((finding.since_step, finding))

    def step_ended(self, number: int) -> None:
        """End a step: add its context to the ring, and freeze the ring if there is a reason."""
        if self._is_off:
            return
        started = time.perf_counter()
        try:
            self._end(number)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._failed(error)
        self._training_s += time.perf_counter() - started

    def close(self) -> None:
        """Write what is pending, and wait for it for at most 10 s."""
        if not self._is_off:
            self._guarded(self._handle_triggers)
        self._is_off = True
        pending = self._pending  # read once: the writing thread sets it to None
        if pending is not None:
            pending.is_due.set()
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._failed(TimeoutError(f"a bundle was not written within {CLOSE_S:.0f} s"))
        self._ring = Ring()

    def forget(self) -> None:
        """Switch off in a forked child, where no thread exists."""
        self._is_off = True
        self._threads, self._pending = [], None

    # One step.

    def _begin(self, step: int) -> None:
        self._context = StepContext(step)
        if not self._batches_begin_steps:
            self._read_states()
        if self._snapshots is not None:
            self._snapshots.begin(step)

    def _read_states(self) -> None:
        context = self._context
        states = torch_states(self._cuda)
        if context.of_torch is None:
            self._states_bytes = self._states_bytes or states.nbytes
            context.nbytes += self._states_bytes
        context.of_torch = states
        now = time.perf_counter()
        if now >= self._others_due:
            self._others, self._others_step = other_states(), context.step
            context.nbytes += OTHER_STATES_BYTES
            ended = time.perf_counter()
            self._others_due = ended + (ended - now) / OTHERS_SHARE_MAX
        context.others, context.others_step = self._others, self._others_step

    def _end(self, number: int) -> None:
        self._context.step = number
        self._ring.end_step(self._context)
        if self._triggers:
            self._handle_triggers()
        self._begin(number + 1)

    def _drawn(self, given: object | None) -> None:
        """Begin a batch of this step; `given`: its sample indices, unless they follow."""
        self._batches_begin_steps = True
        if not self._is_off:
            self._guarded(lambda: self._begin_batch(given, again=not self._context.batches))

    def _begin_batch(self, given: object | None, *, again: bool) -> None:
        if again:
            self._read_states()
        if given is not None:
            try:
                self._context.add_batch(indices_of(given))
            except TypeError as error:
                self.no_indices(str(error))

    def _look_at(self, frame: Frame) -> None:
        version, columns, skipped = self._columns
        if frame.layout != version or not columns:
            return
        bad = (frame.values[:, columns, 0] > 0).any(axis=1)
        for row in np.flatnonzero(bad):
            # A gradient scaler finds its scale by overflows, which are no fault.
            if skipped is not None and frame.values[row, skipped, 0] > 0:
                continue
            step, before = int(frame.steps[row]), self._nonfinite_step
            self._nonfinite_step = step
            if before is None or step - before > STEPS_MAX:
                self._triggers.append((step, None))

    # Bundles.

    def _handle_triggers(self) -> None:
        while self._triggers:
            step, finding = self._triggers.popleft()
            pending = self._pending
            if (pending is None or not pending.add(finding)) and self._frozen < BUNDLES_MAX:
                self._freeze(step, finding)

    def _freeze(self, step: int, finding: Finding | None) -> None:
        frozen = self._ring.freeze()
        if not frozen.contexts:
            return
        if sum(context.drop_changed_losses() for context in frozen.contexts):
            self.problems[LOSSES] = CHANGED
        first, last = frozen.contexts[0].step, frozen.contexts[-1].step
        self._frozen += 1
        about = Description(
            run=self._run,
            project=self._project,
            rank=self._rank,
            reason="non_finite" if finding is None else "finding",
            step=step if first <= step <= last else last,
            first_step=first,
            last_step=last,
            findings=[] if finding is None else [finding],
        )
        snapshot = self._snapshots.before(about.step) if self._snapshots else None
        self._pending = pending = _Pending(about, frozen, snapshot)
        thread = threading.Thread(
            target=self._write, args=(pending,), name="trainvitals-recorder", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _write(self, pending: _Pending) -> None:
        about = pending.take()
        started = time.thread_time()
        try:
            about.name, about.config = self._start.name, self._start.config
            about.versions, about.facts = self._start.versions, dict(self._start.facts)
            about.git_commit = self._start.git_commit
            about.written_at = time.time()
            about.problems = dict(self.problems)
            path = self._folder / f"{self._run}-step{about.step}-rank{self._rank}.zip"
            write(path, about, pending.frozen, pending.snapshot)
            self.bundles.append(path)
            log.warning(
                "The flight recorder wrote steps %d to %d: trainvitals replay %s MODULE:FACTORY",
                about.first_step,
                about.last_step,
                path,
            )
        except Exception as error:  # noqa: BLE001 - counted and reported
            self._failed(error)
        finally:
            self._writing_s += time.thread_time() - started
            if self._pending is pending:
                self._pending = None

    # Errors.

    def _guarded(self, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - never into the training
            self._failed(error)
        self._training_s += time.perf_counter() - started

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._is_off = self._is_off or self.errors >= ERRORS_MAX
        log.debug("The flight recorder failed.", exc_info=error)
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.problems[NAME] = (
            f"monitor degraded: it failed {self.errors} times, last with "
            f"{type(error).__name__}: {what}"[:200]
        )


def _per_sample(value: Tensor, dimensions: int) -> Tensor:
    """Return the losses per sample, without a copy where it is possible, at version 0."""
    values = value.detach()
    if dimensions > 1:
        return values.float().flatten(1).mean(1)
    # A view would keep alive what it is a part of.
    return values.clone() if values._version or value._is_view() else values
