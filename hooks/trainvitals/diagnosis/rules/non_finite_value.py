"""TV901: NaN or infinity, and the place where it occurred first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import USUAL_LOSS, Moment, at, clipping
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.own_loss import OPERATIONS, computes_its_loss, operations_before
from trainvitals.diagnosis.places import range_before
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream

EPSILON = at(
    Moment.BEFORE_TRAINING,
    "for group in optimizer.param_groups:\n    group['eps'] = max(group.get('eps', 0.0), 1e-8)",
)


class First(NamedTuple):
    """The first non-finite place of one captured step."""

    step: int
    place: Place
    row: int
    entries: float


class Origin(NamedTuple):
    """Where the first non-finite value was seen."""

    words: str
    """For the summary: "first in the forward pass, in the output of conv1"."""
    stream: Stream
    first: First | None
    """None if no tensor was observed as the first."""
    is_observed: bool


@dataclass(frozen=True)
class NonFiniteValue(Rule):
    """NaN or infinity appeared in the loss, a gradient, an update, a weight or a module's output.

    ## What it detects
    Every step at which the loss, a gradient, an update or a parameter contains NaN or infinity,
    also if later steps are finite. If the tensors of that step were captured, also the first of
    them: a module's output (forward pass), only the loss (loss function), a gradient while the
    outputs and the loss are finite (backward pass), or an update while all of these are finite
    (optimizer; if parameters are sharded, also another rank's gradient). If they were not captured,
    the origin is reported as not observed, and every module is measured on the following steps.
    Excluded: gradients that overflow while a gradient scaler is in use, and infinite outputs while
    the loss and the gradients are finite, as with attention masks.
    ## Why it matters
    Once a weight is NaN, every later value is NaN, and more steps do not repair it. A single
    non-finite loss may have changed the weights or the optimizer's moments through its gradient.
    ## Evidence
    The first step, the number of such steps, the place and its number of non-finite entries if
    observed (not for updates), and the largest value there in the captured step before.
    ## What to do
    - Run one step with `torch.autograd.set_detect_anomaly(True)`: it names the operation.
    - Clamp the arguments of logarithms, divisions and roots away from 0; `torch.where` does not
      help, because the gradient still passes through the other branch.
    - Use losses that take logits (`BCEWithLogitsLoss`, `CrossEntropyLoss`).
    - If the values grew over the steps before, lower the learning rate and clip gradients.
    - There is code where clipping or an epsilon helps, and the usual loss for these targets if the
      origin is in a loss function of your own. An operation in the model is a line of your code.
    ## When it is wrong
    A training loop that skips such steps on purpose: the finding remains as a warning, because
    these steps have no effect.
    ## References
    PyTorch documentation, "Autograd mechanics" and "Anomaly detection"; Micikevicius et al.,
    "Mixed Precision Training", 2018, arXiv:1710.03740.
    """

    code: ClassVar[str] = "TV901"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV101", "TV102", "TV201", "TV202", "TV501", "TV806", "TV502", "TV503", "TV504", "TV701"}
    )
    permanent: ClassVar[bool] = True
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The loss and all gradients of that step are finite."

    finite_steps: int = threshold(
        50, "Finite steps in a row after which the error becomes a warning."
    )
    overflow_min: float = threshold(
        1e4, "Largest value in the captured step before; an overflow at or above this value."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first non-finite place that was observed."""
        loss = self._bad_steps(history, Scalar.NONFINITE_LOSS)
        gradients = self._bad_steps(history, Scalar.NONFINITE_GRADIENTS)
        if len(history.scalar(Scalar.LOSS_SCALE)):
            gradients = gradients[:0]  # a gradient scaler skips the steps that overflow
        weight = self._first(history, Stream.WEIGHT)
        bad = np.union1d(loss, gradients)
        update = self._first_update(history)
        bad = np.union1d(bad, [first.step for first in (weight, update) if first is not None])
        if not len(bad):
            return
        step = int(bad[0])
        broken = self._is_broken(history, int(bad[-1]))
        origin = self._origin(history, bad, loss, gradients, weight, update)
        largest, before = self._largest_before(history, origin)
        fix = self._fix(history, step, origin, largest)
        yield self.finding(
            severity=Severity.ERROR if broken else Severity.WARNING,
            where=origin.first.place.name if origin.first else "",
            since_step=step,
            summary=self._summary(step, len(bad), history.last_step, origin, broken),
            evidence=(
                Evidence(
                    quantity="steps with a non-finite loss, gradient, update or weight",
                    seen=float(len(bad)),
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text=f"of the {history.last_step + 1} steps so far, the first at step {step}",
                ),
                Evidence(quantity="origin", seen=origin.words),
                *(
                    [
                        Evidence(
                            quantity="non-finite entries",
                            seen=origin.first.entries,
                            text=f"at step {origin.first.step}",
                        )
                    ]
                    if origin.first and origin.first.entries > 0
                    else []
                ),
                *(
                    [
                        Evidence(
                            quantity="largest value there before",
                            seen=largest,
                            text=f"at step {before}",
                        )
                    ]
                    if np.isfinite(largest)
                    else []
                ),
            ),
            fix=fix,
            advice=self._advice(history, step),
            confidence=1.0 if origin.is_observed else 0.9,
            stream=origin.stream if origin.first else Stream.SCALAR,
            statistic=self._statistic(origin),
        )

    def _summary(self, step: int, steps: int, last: int, origin: Origin, broken: bool) -> str:
        if broken and steps > 1:
            when = f"Non-finite values since step {step}"
        elif steps > 1:
            when = f"Non-finite values in {steps} of {last + 1} steps, first at step {step}"
        else:
            when = f"A non-finite value at step {step}"
        after = "" if broken else "; all later values are finite"
        return f"{when}: {origin.words}{after}."

    def _is_broken(self, history: History, newest: int) -> bool:
        """Whether non-finite values still occur, or the loss has not recovered from them."""
        weights = history.values(Stream.WEIGHT, Stat.NONFINITE)
        if len(weights) and bool((weights[-1] > 0).any()):
            return True
        if history.last_step - newest <= self.finite_steps:
            return True
        return not Course(history).recovered(newest)

    def _statistic(self, origin: Origin) -> str:
        if origin.first is None:
            return Scalar.NONFINITE_LOSS
        return Stat.RMS if origin.stream is Stream.UPDATE else Stat.NONFINITE

    def _origin(
        self,
        history: History,
        bad: Steps,
        loss: Steps,
        gradients: Steps,
        weight: First | None,
        update: First | None,
    ) -> Origin:
        """Return the origin, if the tensors of one of the `bad` steps were captured.

        A later step shows the origin too, as long as the weights were finite before it.
        """
        for step in bad.tolist():
            if weight is not None and weight.step <= step:
                break  # later non-finite values are consequences of the weights
            if update is not None and update.step < step:
                break
            output = self._first(history, Stream.ACTIVATION, at=step)
            if output is not None:
                return Origin(
                    f"first in the forward pass, in the output of {output.place.name}",
                    Stream.ACTIVATION,
                    output,
                    True,
                )
            if step in loss:
                if self._all_outputs_finite(history, step):
                    return Origin(
                        "first in the loss function: all captured outputs were finite",
                        Stream.SCALAR,
                        None,
                        True,
                    )
                continue
            gradient = self._first(history, Stream.GRADIENT, at=step)
            if step in gradients and gradient is not None:
                return Origin(
                    "first in the backward pass (the loss was finite), in the gradient of "
                    f"{gradient.place.name}",
                    Stream.GRADIENT,
                    gradient,
                    True,
                )
        before_update = np.union1d(loss, gradients)
        if update is not None and update.step == int(bad[0]) and bad[0] not in before_update:
            return _in_update(update)
        if weight is not None and weight.step <= int(bad[0]):
            return Origin(
                f"in the weights before the step, in {weight.place.name}",
                Stream.WEIGHT,
                weight,
                True,
            )
        what = "in the loss" if len(loss) and loss[0] == bad[0] else "in a gradient"
        if operations := operations_before(history, int(bad[0])):
            what += f", behind a {' and a '.join(operations)} whose argument was out of range"
        return Origin(
            f"{what}; the origin was not observed, because the activations of that step were not "
            "captured",
            Stream.SCALAR,
            None,
            False,
        )

    def _all_outputs_finite(self, history: History, step: int) -> bool:
        """Whether the outputs of step `step` were measured, each that is known, and finite."""
        steps = history.steps(Stream.ACTIVATION)
        row = int(np.searchsorted(steps, step))
        if row >= len(steps) or steps[row] != step:
            return False
        counts = history.values(Stream.ACTIVATION, Stat.NONFINITE)
        known = ~np.isnan(counts[max(0, row - 128) : row + 1]).all(axis=0)
        return bool(known.any() and (counts[row, known] == 0).all())

    def _fix(self, history: History, step: int, origin: Origin, largest: float) -> str:
        """Return the fix that follows from the evidence; "" if none does."""
        if _is_in_own_loss(history, step, origin):
            return USUAL_LOSS
        operations = operations_before(history, step)
        if len(operations) == 1 and origin.stream is not Stream.WEIGHT:
            return ""  # the operation is in the loss or the model: see `_advice`
        if largest >= self.overflow_min:
            return clipping(1.0)
        if origin.first is None or "shard" in origin.first.place.flags:
            return ""  # the cause may be a gradient of another rank
        return EPSILON if origin.stream in (Stream.WEIGHT, Stream.UPDATE) else ""

    def _advice(self, history: History, step: int) -> str:
        """Return the advice with the guarded form of the operation that left its range."""
        operations = operations_before(history, step)
        if len(operations) != 1:
            return ""
        guarded = OPERATIONS[operations[0]]
        return f"- Write `{guarded}` for the operation {operations[0]}.\n{self.page().what_to_do}"

    def _bad_steps(self, history: History, name: Scalar) -> Steps:
        series = history.scalar(name)
        bad = series.steps[series.values > 0]
        if name is Scalar.NONFINITE_LOSS:
            loss = history.scalar(Scalar.LOSS)  # an infinite loss is kept as it is
            bad = np.union1d(bad, loss.steps[np.isinf(loss.values)])
        return bad

    def _first(self, history: History, stream: Stream, at: int | None = None) -> First | None:
        """Return the first non-finite place of step `at`, or of the first captured step with one.

        The first in the order of the forward pass; for gradients, of the backward pass.
        """
        steps = history.steps(stream)
        bad = history.values(stream, Stat.NONFINITE) > 0
        if not bad.any():
            return None
        if at is None:
            row = int(np.argmax(bad.any(axis=1)))
        else:
            row = int(np.searchsorted(steps, at))
            if row >= len(steps) or steps[row] != at:
                return None
        here = bad[row]
        if stream is Stream.ACTIVATION and row:
            # Places that were infinite at earlier steps (masks) are not the origin.
            here = here & ~bad[max(0, row - 128) : row].any(axis=0)
        if not here.any():
            return None
        places = history.places(stream)
        order = sorted(np.flatnonzero(here), key=lambda i: (places[i].depth, i))
        place = int(order[-1] if stream is Stream.GRADIENT else order[0])
        entries = float(history.values(stream, Stat.NONFINITE)[row, place])
        return First(int(steps[row]), places[place], place, entries)

    def _first_update(self, history: History) -> First | None:
        """Return the first tensor of the first captured step whose update is not finite."""
        rms = history.values(Stream.UPDATE, Stat.RMS)
        measured = np.isfinite(history.values(Stream.UPDATE, Stat.UNCHANGED_SHARE))
        rows, places = np.nonzero(measured & ~np.isfinite(rms))
        if not len(rows):
            return None
        step = int(history.steps(Stream.UPDATE)[rows[0]])
        return First(step, history.places(Stream.UPDATE)[places[0]], int(places[0]), float("nan"))

    def _largest_before(self, history: History, origin: Origin) -> tuple[float, int]:
        """Return (largest |value| in the captured step before, that step); NaN if unknown."""
        if origin.first is None:
            return float("nan"), -1
        return range_before(history, origin.stream, origin.first.row, origin.first.step)

    @staticmethod
    def sick() -> History:
        """Return a log of zero in a module at step 20."""
        bad = np.r_[np.zeros(20), 3.0]
        return _run(loss=bad > 0, gradients=2 * (bad > 0), output=bad)

    @staticmethod
    def healthy() -> History:
        """Return scores masked with −inf on purpose: the loss and the gradients are finite."""
        return _run(loss=np.zeros(21), gradients=np.zeros(21), output=np.full(21, 6.0))


def _is_in_own_loss(history: History, step: int, origin: Origin) -> bool:
    """Whether the origin is in the program's own loss, or in a gradient right behind it."""
    if origin.stream is Stream.SCALAR:
        is_behind = origin.is_observed
    else:
        first = origin.first
        is_gradient = origin.stream is Stream.GRADIENT
        is_behind = is_gradient and first is not None and "output" in first.place.flags
    return is_behind and computes_its_loss(history, step)


def _in_update(update: First) -> Origin:
    """Return the origin of an update that is not finite, after finite gradients of this rank.

    Clipping by the norm over all ranks writes NaN from one rank's shard into all shards.
    """
    where, rank = f"in the update of {update.place.name}", ""
    if is_shard := "shard" in update.place.flags:
        where, rank = f"first seen {where}", " of this rank"
    words = f"{where}, while the loss, the gradients and the weights before it{rank} were finite"
    if is_shard:
        words += "; the parameters are sharded, so the cause may be a gradient of another rank"
    return Origin(words, Stream.UPDATE, update, is_observed=not is_shard)


def _run(
    loss: Floats,
    gradients: Floats,
    output: Floats,
) -> History:
    places = [Place("0", kind="Linear", depth=0), Place("1", kind="Log", depth=1)]
    columns: dict[str, dict[Stat, Column]] = {
        "0": {Stat.NONFINITE: 0.0, Stat.MIN: -2.0, Stat.MAX: 2.0},
        "1": {Stat.NONFINITE: output, Stat.MIN: -9.0, Stat.MAX: 1.0},
    }
    history = (
        Example(len(output))
        .scalars(
            loss=np.where(loss > 0, np.nan, 1.0), nonfinite_loss=loss, nonfinite_gradients=gradients
        )
        .stream(Stream.ACTIVATION, places, columns)
        .history
    )
    if loss.any():
        history.add(Event(int(np.argmax(loss)), 0.0, EventKind.NONFINITE_LOSS, "log"))
    return history
