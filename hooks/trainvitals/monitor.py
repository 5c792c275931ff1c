"""`watch` and `Monitor`: connect capture, delivery and diagnosis.

`watch` returns a Monitor at once. After any error in trainvitals the training goes on: an invalid
argument, an unreachable collector or an exception in trainvitals causes one warning.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from trainvitals.api.schema import Diagnosis, Finding
from trainvitals.arguments import (
    OnFinding,
    checked_model,
    run_of,
    usable_activations,
    usable_callback,
    usable_collector,
    usable_guard,
    usable_start,
    usable_steps,
    usable_tags,
)
from trainvitals.arguments import is_respawned as _is_respawned
from trainvitals.background_diagnosis import BackgroundDiagnosis
from trainvitals.config import ClientSettings, load
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.thresholds import chosen
from trainvitals.diagnosis.user_rules import installed_rules
from trainvitals.ending import StopTraining as StopTraining
from trainvitals.ending import close_all as _close_all  # noqa: F401 - the tests end a process
from trainvitals.ending import described, ending_of
from trainvitals.ending import open_monitors as _open
from trainvitals.identity import rank, run_start
from trainvitals.screen import Screen, write_page
from trainvitals.ship import Shipper
from trainvitals.wire import Record, RunEnd

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from trainvitals.capture import Capture

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
        self._on_finding: OnFinding | None = None
        self._opened: deque[Finding] = deque()
        self._produced = 0
        self._last: Diagnosis | None = None
        self._closed = False
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
        numbers of shape (samples, ...), their predictions (samples, classes, ...).
        """
        if self._capture is not None and not self._closed:
            pair = {"prediction": prediction, "target": target}
            self._capture.loss(value, split=split, **pair)  # type: ignore[arg-type]
        return value

    def log(self, scalars: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Record other scalars of the step; each appears as `log/<name>`.

        They are keywords, or entries of one mapping: `log({"reward/mean": r}, kl=k)`. A mapping in
        it has the names `outer/inner`. A tensor with several entries is averaged.
        """
        for given in (scalars, named):
            if given is not None and self._capture is not None and not self._closed:
                self._capture.log(given)

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
            self._last = self._diagnosis.diagnosis(
                run=self.run,
                watched=self._capture.watched,
                not_watched=self._capture.not_watched,
                overhead=self._capture.overhead,
                state=self._state,
                error=self._error,
            )
        return self._last or Diagnosis(run=self.run)

    def close(self) -> None:
        """Remove the hooks, diagnose, deliver pending records (at most 2 s), print the card.

        Safe to call twice.
        """
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
        self._diagnosis = BackgroundDiagnosis(
            self._finding_opened,
            Engine(rules.rules),
            show=self._screen.show,
            clear=self._screen.clear,
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
        self._put = self._emit
        self._emit(run_start(facts=capture.facts, **start))
        for record in early:
            self._emit(record)
        self._name = start["name"]
        self._screen.started(self._name, self.url)

    def _emit(self, record: Record) -> None:
        # In the training thread: only two appends.
        self._produced += 1
        if self._diagnosis is not None:
            self._diagnosis.put(record)
        if self._shipper is not None:
            self._shipper.put(record)

    def _finding_opened(self, finding: Finding) -> None:
        # In the thread of the diagnosis. The user's callback runs in the training thread, where
        # StopTraining can end the training.
        if self._capture is not None:
            self._capture.finding_opened()
        if self._on_finding is not None:
            self._opened.append(finding)

    def _step_ended(self, _step: int) -> None:
        # An exception that a notebook displayed before this step did not end the training.
        self._error_before = id(sys.__dict__.get("last_value"))
        if self._capture is not None and self._capture.updates.stopping:
            raise StopTraining(self._capture.updates.stopping)
        while self._opened and self._on_finding is not None:
            self._on_finding(self._opened.popleft())

    def _background_cpu_s(self) -> float:
        diagnosis = self._diagnosis.cpu_s if self._diagnosis else 0.0
        return diagnosis + (self._shipper.cpu_s if self._shipper else 0.0)

    def _reasons(self) -> dict[str, str]:
        return dict(self._capture.not_watched) if self._capture else {}

    def _close(self, state: str, error: str = "") -> None:
        if self._closed or self._capture is None or self._diagnosis is None:
            self._closed = True
            return
        try:
            self._capture.detach()
            self._diagnosis.stop()
            self._state = state
            self._error = error if state == "failed" else ""
            diagnosis = self.diagnosis()
            self._closed = True
            if self._shipper is not None:
                self._produced += 1
                end = RunEnd(time.time(), max(0, self._capture.step), state, error=error[:2000])
                self._shipper.put(end)
                self._shipper.close()
            self._screen.ended(diagnosis, self._diagnosis.history)
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
            if self._shipper is not None:
                self._shipper.close(deadline_s=0.25)
        except Exception:
            log.exception("A part of the monitor could not be stopped.")
        self._capture = self._diagnosis = self._shipper = None

    def _forget(self) -> None:
        """Switch off in a forked child, without threads, locks and I/O."""
        self._closed = True
        self._put = deque[Record](maxlen=0).append
        if self._diagnosis is not None:
            self._diagnosis.forget()
        if self._shipper is not None:
            self._shipper.forget()
            self._shipper = None


def watch(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    loss: nn.Module | Callable[..., object] | None = None,
    run: str | None = None,
    project: str | None = None,
    config: object = None,
    tags: Sequence[str] = (),
    collector: str | None = None,
    total_steps: int | None = None,
    start_step: int | None = None,
    overhead: float | None = None,
    every: int | None = None,
    guard: str = "off",
    activations: bool | str | Sequence[str] = "auto",
    loss_falls: bool = True,
    on_finding: OnFinding | None = None,
) -> Monitor:
    """Watch a training run: register hooks on `model` and `optimizer`, and return at once.

    Never raises into the training: an invalid argument causes one warning and is ignored; if
    attaching fails, the returned Monitor does nothing.

    Args:
        model: the module, or several by name: `{"generator": g, "critic": d}`.
        optimizer: one or a list, also inside a wrapper (Accelerate); None: found at the first
            step. The steps of the run are the steps of the first optimizer, counted from 0.
            Without a torch optimizer, each training loss is a step.
        loss: the loss module, if `monitor.loss` is not called; for a function, only the kind of
            loss is recorded.
        run: the run's id and name; None: a new ULID, in a torchrun job one for all ranks, shown
            with a generated name such as calm-otter-17.
        project: the run's project; None: from the settings.
        config: hyper-parameters, stored with the run.
        tags: words for finding the run.
        collector: its URL; None: from the settings, otherwise local only; "off": no network.
        total_steps: planned number of steps, for the progress.
        start_step: number of the first step, after a resume; None: 0.
        overhead: budget as a share of the step time, at least 0 (default 0.02); 0: only the loss,
            the learning rate, the gradient norm and times, unless `every` is given.
        every: measure every n-th step in full instead of by budget; at least 1.
        guard: what happens to an update with non-finite gradients. "off": nothing; "report": an
            event; "veto": it is prevented, so that weights and optimizer stay finite; "stop": it
            is prevented, and `optimizer.step()` raises StopTraining. All but "off" wait for an
            accelerator at each step.
        activations: "auto", True, False, or names or globs of modules.
        loss_falls: False for a loss that is not expected to fall (policy gradients, adversarial
            losses, sums over episodes): switches off the rules on its level.
        on_finding: called in the training thread, at the end of a step, for each finding that
            opened; may raise StopTraining.
    """
    monitor = Monitor(ClientSettings(disabled=True), "", "")
    try:
        settings = load(project=project, overhead=overhead)
        respawned = _is_respawned()
        identity, name = run_of(run)
        monitor = Monitor(settings, identity, settings.project)
        if settings.disabled or respawned:
            return monitor
        checked_model(model)
        monitor._attach(
            model,
            optimizer,
            loss=loss,
            activations=usable_activations(activations),
            every=usable_steps("every", every),
            start_step=usable_start(start_step),
            guard=usable_guard(guard, model),
            loss_falls=bool(loss_falls),
            collector=usable_collector(collector, settings),
            start={
                "name": name,
                "config": config,
                "tags": usable_tags(tags),
                "total_steps": usable_steps("total_steps", total_steps),
            },
            on_finding=usable_callback(on_finding),
        )
        _open.add(monitor)
    except Exception as error:
        monitor._abandon()
        log.warning(
            "trainvitals could not attach (%s). The training goes on, unwatched.",
            described(error),
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
    return monitor
