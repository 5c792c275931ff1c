"""`Monitor`: connects capture, delivery, diagnosis and the flight recorder.

After any error in trainvitals the training goes on: an unreachable collector or an exception in
trainvitals causes one warning. `watch` (watching.py) makes a Monitor.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from msgspec.structs import replace

from trainvitals.api.account import account
from trainvitals.api.schema import Diagnosis, Finding, Run
from trainvitals.arguments import OnFinding
from trainvitals.background_diagnosis import BackgroundDiagnosis
from trainvitals.config import ClientSettings
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.thresholds import chosen
from trainvitals.diagnosis.user_rules import installed_rules
from trainvitals.ending import StopTraining as StopTraining
from trainvitals.ending import close_all as _close_all  # noqa: F401 - the tests end a process
from trainvitals.ending import closed, ending_of
from trainvitals.ending import open_monitors as _open
from trainvitals.identity import local_rank, rank, run_start
from trainvitals.screen import Screen, write_page
from trainvitals.ship import Shipper
from trainvitals.system_metrics import SystemMetrics
from trainvitals.wire import Event, EventKind, NotWatched, Record, RunEnd

if TYPE_CHECKING:
    from torch import nn

    from trainvitals.capture import Capture
    from trainvitals.metrics.exporter import Exporter
    from trainvitals.recorder import Recorder

log = logging.getLogger("trainvitals")
T = TypeVar("T")


class Monitor:
    """Watches one training run. Created by `watch`; closed by `close`, `with`, or at exit.

    `run` is the run's id, `project` its project, `url` its page in the dashboard (None without a
    collector). After closing, or if attaching failed, every call does nothing.
    """

    def __init__(self, settings: ClientSettings, run: str, project: str) -> None:
        self.run = run
        self.project = project
        self.url: str | None = None
        self._settings = settings
        self._name = ""
        self._screen = Screen(settings.report, is_first_rank=rank() == 0)
        self._capture: Capture | None = None
        self._diagnosis: BackgroundDiagnosis | None = None
        self._shipper: Shipper | None = None
        self._recorder: Recorder | None = None
        self._exporter: Exporter | None = None
        self._system: SystemMetrics | None = None
        self._problems: dict[str, str] = {}
        self._on_finding: OnFinding | None = None
        self._opened: deque[Finding] = deque()
        self._produced = 0
        self._last: Diagnosis | None = None
        self._closed = False
        self._at_close: list[Callable[[], None]] = []
        self._state, self._error = "running", ""
        self._error_before = id(sys.__dict__.get("last_value"))

    # Called by the training.

    def loss(
        self,
        value: T,
        *,
        prediction: object = None,
        target: object = None,
        split: str = "training",
    ) -> T:
        """Record a loss and return the same object.

        `value`, taken before `backward()`, is a tensor, a number, or the terms by name such as
        `{"ce": a, "kl": b}`: the loss is then the entry "loss", or else their sum. It belongs to
        the next `optimizer.step()`; several (micro-batches) are averaged. `split="validation"` or
        another name records the loss on other data. `prediction` and `target` are what the loss
        compares; None: read in the loss's autograd graph, where they are available. Classes are
        numbers of shape (samples, ...), their predictions (samples, classes, ...). A tensor with a
        loss per sample is averaged; `watch(record=)` keeps the losses per sample.
        """
        if self._capture is not None and not self._closed:
            pair = {"prediction": prediction, "target": target}
            self._capture.loss(value, split=split, **pair)  # type: ignore[arg-type]
            if self._recorder is not None and split == "training":
                self._recorder.loss(value)
        return value

    def log(self, scalars: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Record other scalars of the step; each appears as `log/<name>`.

        They are keywords, or entries of one mapping: `log({"reward/mean": r}, kl=k)`. A mapping in
        it has the names `outer/inner`. A tensor with several entries is averaged.
        """
        for given in (scalars, named):
            if given is not None and self._capture is not None and not self._closed:
                self._capture.log(given)

    def batches(self, loader: Iterable[T]) -> Iterable[T]:
        """Return an iterable over the batches of a DataLoader that records their sample indices.

        Call it in each epoch: `for x, y in monitor.batches(loader):`. The batches, their order and
        the random numbers are those of the loader, which is not changed. Without `watch(record=)`,
        and where the indices cannot be observed, it returns the loader itself.
        """
        if self._recorder is None or self._closed:
            return loader
        return self._recorder.batches(loader)

    @property
    def recordings(self) -> tuple[Path, ...]:
        """The files that the flight recorder has written in this process."""
        return () if self._recorder is None else tuple(self._recorder.bundles)

    def safe_to_save(self) -> bool:
        """Return whether no non-finite gradient has reached the weights, as far as was observed.

        True as well if nothing is watched.
        """
        return self._capture is None or self._capture.updates.first_bad is None

    @property
    def last_healthy_step(self) -> int:
        """The last step before non-finite gradients reached the weights; −1 if there is none."""
        if self._capture is None:
            return -1
        bad = self._capture.updates.first_bad
        return self._capture.step if bad is None else bad - 1

    def diagnosis(self) -> Diagnosis:
        """Return the diagnosis up to the last finished step; after `close`, the last diagnosis."""
        if self._diagnosis is None or self._capture is None:
            return self._last or Diagnosis(run=self.run, not_watched=self._reasons())
        if not self._closed:
            self._capture.settle()
            found = self._diagnosis.diagnosis(
                run=self.run,
                watched=self._capture.watched,
                not_watched=self._reasons(),
                overhead=self._capture.overhead,
                state=self._state,
                error=self._error,
            )
            note, prevented = self._capture.budget.note, self._capture.updates.prevented
            self._last = replace(found, overhead_note=note, prevented=prevented)
        return self._last or Diagnosis(run=self.run)

    def close(self) -> None:
        """Remove the hooks, diagnose, deliver (at most 2 s), print the card. Safe to call twice."""
        self._close("finished")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ending: Any) -> None:
        self._close(*ending_of(ending[1]))

    # Attaching and closing.

    def _attach(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: object,
        *,
        loss: object,
        activations: bool | str | Sequence[str],
        every: int | None,
        guard: str,
        start_step: int,
        loss_falls: bool,
        collector: str | None,
        start: dict[str, Any],
        on_finding: OnFinding | None,
        recordings: Path | None,
        record_state: bool,
    ) -> None:
        from trainvitals.capture import Capture

        self._on_finding = on_finding
        early: list[Record] = []  # emitted while capture attaches, before RunStart can be made
        self._put: Callable[[Record], None] = early.append
        self._capture = capture = Capture(
            model,
            optimizer,
            emit=lambda record: self._put(record),
            on_step=self._step_ended,
            loss=loss,
            activations=activations,
            overhead=self._settings.overhead,
            every=every,
            start_step=start_step,
            guard=guard,
            background_cpu_s=self._background_cpu_s,
        )
        if start_step:
            capture.facts["start_step"] = float(start_step)
        if not loss_falls:
            capture.facts["loss_falls"] = 0.0
        rules = chosen(installed_rules(), self._settings.rules)
        if rules.problems:
            log.warning("Settings of rules that are not used: %s.", "; ".join(rules.problems))
        capture.facts.update(rules.facts)
        self._exporter = self._export(capture, start) if self._settings.metrics_port else None
        self._system = SystemMetrics() if self._settings.system_metrics else None
        self._diagnosis = BackgroundDiagnosis(
            self._finding_opened,
            Engine(rules.rules),
            show=self._screen.show,
            clear=self._screen.clear,
            observe=self._exporter.observe if self._exporter is not None else None,
            tick=self._system.read_if_due if self._system is not None else None,
            rank=rank(),
        )
        if collector:
            self._shipper = Shipper(
                url=collector,
                token=self._settings.read_token,
                run=self.run,
                project=self.project,
                rank=rank(),
                spool_dir=self._settings.spool_dir,
            )
            self.url = f"{collector.rstrip('/')}/run?run={quote(self.run, safe='')}"
        if recordings is not None:
            from trainvitals.recorder import Recorder

            self._recorder = Recorder(
                recordings,
                run=self.run,
                project=self.project,
                rank=rank(),
                models=capture.models,
                optimizers=lambda: capture.optimizers,
                start_step=start_step,
                record_state=record_state,
            )
        self._put = self._emit
        self._emit(run_start(facts=capture.facts, **start))
        if start_step and rank() == 0:
            self._emit(Event(start_step, time.time(), EventKind.RESUMED))
        for record in early:
            self._emit(record)
        self._name = start["name"]
        self._screen.started(self._name, self.url)

    def _export(self, capture: Capture, start: Mapping[str, Any]) -> Exporter | None:
        from trainvitals.metrics.exporter import export

        now = time.time()
        run = Run(
            id=self.run,
            project=self.project,
            name=start["name"],
            state="running",
            started_at=now,
            last_report_at=now,
            step=-1,
            total_steps=start["total_steps"],
            host=socket.gethostname(),
        )
        return export(self._settings.metrics_port + local_rank(), run, lambda: capture.overhead)

    def _emit(self, record: Record) -> None:
        # In the training thread: only two appends.
        self._produced += 1
        if self._diagnosis is not None:
            self._diagnosis.put(record)
        if self._shipper is not None:
            self._shipper.put(record)
        if self._recorder is not None:
            self._recorder.put(record)

    def _finding_opened(self, finding: Finding) -> None:
        # In the thread of the diagnosis. The user's callback runs in the training thread, where
        # StopTraining can end the training.
        if self._capture is not None:
            self._capture.finding_opened()
        if self._recorder is not None:
            self._recorder.finding_opened(finding)
        if self._on_finding is not None:
            self._opened.append(finding)

    def _step_ended(self, step: int) -> None:
        if self._system is not None and (reading := self._system.take()) is not None:
            if self._capture is not None:
                self._capture.scalars.log(reading)  # of the step that begins
            self._report_problems()
        if self._recorder is not None:
            self._recorder.step_ended(step)
            if len(self._recorder.problems) != len(self._problems):
                self._report_problems()
        # An exception that a notebook displayed before this step did not end the training.
        self._error_before = id(sys.__dict__.get("last_value"))
        if self._capture is not None and self._capture.updates.stopping:
            raise StopTraining(self._capture.updates.stopping)
        while self._opened and self._on_finding is not None:
            self._on_finding(self._opened.popleft())

    def _background_cpu_s(self) -> float:
        parts = (self._diagnosis, self._shipper, self._recorder, self._exporter)
        return sum(part.cpu_s for part in parts if part is not None)

    def _reasons(self) -> dict[str, str]:
        return {**(self._capture.not_watched if self._capture else {}), **self._problems}

    def _report_problems(self) -> None:
        parts = (self._recorder, self._system)
        problems = {k: v for part in parts if part is not None for k, v in part.problems.items()}
        if problems != self._problems:
            self._problems = problems
            self._emit(NotWatched(problems))

    def _close(self, state: str, error: str = "") -> None:
        if self._closed or self._capture is None or self._diagnosis is None:
            self._closed = True
            return
        try:
            for undo in self._at_close:
                undo()
            self._capture.abandon_step(failed=state == "failed")
            self._capture.detach()
            self._diagnosis.stop()
            if self._exporter is not None:
                self._exporter.stop()
            self._state, self._error = state, error if state == "failed" else ""
            diagnosis = self.diagnosis()
            if self._recorder is not None:
                self._recorder.close()
                self._report_problems()
                diagnosis = self.diagnosis()
            self._closed = True
            if self._shipper is not None:
                end = RunEnd(time.time(), max(0, self._capture.step), state, error=error[:2000])
                last: tuple[Record, ...] = (*account(diagnosis), end)
                for record in last:
                    self._produced += 1
                    self._shipper.put(record)
                self._shipper.close()
            closed(diagnosis)
            self._screen.ended(diagnosis, self._diagnosis.history, self._diagnosis.logged)
            if self._settings.report_html and rank() == 0:
                history = self._diagnosis.history
                write_page(self._settings.report_html, diagnosis, history, self._name)
        except Exception:
            log.exception("Closing the monitor failed; the training is not affected.")
        finally:
            self._closed = True
            _open.discard(self)

    def _abandon(self) -> None:
        """Undo an incomplete attachment: remove all hooks and stop all threads."""
        self._closed = True
        try:
            if self._capture is not None:
                self._capture.detach()
            if self._diagnosis is not None:
                self._diagnosis.stop()
            if self._exporter is not None:
                self._exporter.stop()
            if self._shipper is not None:
                self._shipper.close(deadline_s=0.25)
            if self._recorder is not None:
                self._recorder.close()
        except Exception:
            log.exception("A part of the monitor could not be stopped.")
        self._capture = self._diagnosis = self._shipper = self._recorder = self._exporter = None

    def _forget(self) -> None:
        """Switch off in a forked child, without threads, locks and I/O."""
        self._closed = True
        self._put = deque[Record](maxlen=0).append
        if self._diagnosis is not None:
            self._diagnosis.forget()
        if self._shipper is not None:
            self._shipper.forget()
            self._shipper = None
        if self._recorder is not None:
            self._recorder.forget()
        if self._exporter is not None:
            self._exporter.forget()
            self._exporter = None
