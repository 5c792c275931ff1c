"""TV902: the inputs or the targets of a batch are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import range_before
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class NonFiniteInput(Rule):
    """A batch contains NaN or infinity, in its inputs or in its targets.

    ## What it detects
    Inputs: the model's first input of a measured batch contains NaN or infinity. Where it was not
    measured: the output of the first layer contains non-finite values while all weights of that
    layer are finite, not above 1e6, and its outputs in the captured step before were not above 1e6:
    finite inputs cannot cause that. Targets: a supervised target of a measured batch is NaN or
    infinite. Only the first such step is reported. It is a note as long as the loss of that step is
    finite: the program handles missing values.
    ## Why it matters
    One such value makes the loss non-finite, and the optimizer then writes NaN into every weight.
    A batch that is skipped costs nothing; a model with NaN weights is lost.
    ## Evidence
    The step, and the number of non-finite entries of the input or of the targets; or the number of
    non-finite outputs of the first layer and its largest weight.
    ## What to do
    - Find the rows: `torch.isfinite(x).all()` for each batch in the data loader.
    - A feature that is constant has a standard deviation of 0: add 1e-6 when you standardise.
    - Decide what missing values are before training, in the data.
    ## When it is wrong
    A first layer that is a function of its own, such as a logarithm, can produce the value if the
    input itself was not measured.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019 ("become one with the data").
    """

    code: ClassVar[str] = "TV902"
    stage: ClassVar[Stage] = Stage.DATA
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV102", "TV501", "TV806", "TV503", "TV504", "TV601", "TV606", "TV701", "TV801", "TV901"}
    )
    needs: ClassVar[tuple[Need, ...]] = ()
    fix: ClassVar[str] = at(
        Moment.BATCH, "x = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)"
    )
    refuted_by: ClassVar[str] = "All entries of this batch are finite."

    weight_max: float = threshold(1e6, "Largest absolute weight of the first layer.")
    output_max: float = threshold(1e6, "Largest absolute output of the first layer before.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield at most two findings: one for the inputs and one for the targets."""
        if (target := _first_bad(history, Scalar.NONFINITE_TARGETS)) is not None:
            yield self._entries(history, *target, of="target")
        if (given := _first_bad(history, Scalar.NONFINITE_INPUTS)) is not None:
            yield self._entries(history, *given, of="input")
        elif (found := self._input(history)) is not None:
            yield found

    def _entries(self, history: History, step: int, count: float, *, of: str) -> Finding:
        handled, row = _loss_is_finite(history, step), _first_layer(history)
        where, (one, several) = "targets", ("target is", "targets are")
        if of == "input":
            where = "" if row is None else history.places(Stream.ACTIVATION)[row].name
            one, several = ("entry of the input is", "entries of the input are")
        keep = "keep = torch.isfinite(y).reshape(len(y), -1).all(1)\nx, y = x[keep], y[keep]"
        return self.finding(
            severity=Severity.INFO if handled else Severity.ERROR,
            where=where,
            since_step=step,
            summary=f"Non-finite input: at step {step}, {number(count)} "
            f"{several if count > 1 else one} NaN or infinite"
            + (", and the loss is finite." if handled else "."),
            evidence=(
                Evidence(
                    quantity=f"non-finite entries of the {of}",
                    seen=count,
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text="each is one too many",
                ),
            ),
            fix=at(Moment.TRAINING_BATCH, keep) if of == "target" else None,
            stream=Stream.SCALAR,
            statistic=Scalar.NONFINITE_TARGETS if of == "target" else Scalar.NONFINITE_INPUTS,
        )

    def _input(self, history: History) -> Finding | None:
        row = _first_layer(history)
        if row is None:
            return None
        place = history.places(Stream.ACTIVATION)[row]
        bad = history.values(Stream.ACTIVATION, Stat.NONFINITE)[:, row] > 0
        if not bad.any():
            return None
        at = int(np.argmax(bad))
        step = int(history.steps(Stream.ACTIVATION)[at])
        if step in history.scalar(Scalar.NONFINITE_INPUTS).steps:
            return None  # the input of that step was measured, and it was finite
        largest, before = _largest_weight(history, place, step), 0.0
        if at > 0:
            before, _ = range_before(history, Stream.ACTIVATION, row, step)
        if not (largest <= self.weight_max and before <= self.output_max):
            return None
        count = float(history.values(Stream.ACTIVATION, Stat.NONFINITE)[at, row])
        return self.finding(
            severity=Severity.ERROR,
            where=place.name,
            since_step=step,
            summary=(
                f"Non-finite input: {number(count)} outputs of the first layer {place.name} are "
                f"not finite at step {step}, and its weights are (largest: {number(largest)}): "
                "the batch contains NaN or infinity."
            ),
            evidence=(
                Evidence(
                    quantity="non-finite outputs of the first layer",
                    seen=count,
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text="each is one too many",
                ),
                Evidence(quantity="largest absolute weight of the first layer", seen=largest),
            ),
            confidence=0.95,
            stream=Stream.ACTIVATION,
            statistic=Stat.NONFINITE,
        )

    @staticmethod
    def sick() -> History:
        """Return a first layer with finite weights and non-finite outputs at step 5."""
        return _run(weight=0.5)

    @staticmethod
    def healthy() -> History:
        """Return a first layer whose weights are not finite either: training has diverged."""
        return _run(weight=math.inf)


def _first_layer(history: History) -> int | None:
    """Return the row of the module that is called first; None if none is known."""
    places = history.places(Stream.ACTIVATION)
    called = [(p.depth, row) for row, p in enumerate(places) if p.depth >= 0]
    return min(called)[1] if called else None


def _first_bad(history: History, name: Scalar) -> tuple[int, float] | None:
    """Return (step, count) of the first step with non-finite entries; None without one."""
    series = history.scalar(name)
    at = np.flatnonzero(series.values > 0)
    return (int(series.steps[at[0]]), float(series.values[at[0]])) if len(at) else None


def _loss_is_finite(history: History, step: int) -> bool:
    """Whether the loss of `step` was measured and is finite in all micro-batches."""
    bad = history.scalar(Scalar.NONFINITE_LOSS)
    if (bad.values[bad.steps == step] > 0).any():
        return False
    loss = history.scalar(Scalar.LOSS)
    return bool(np.isfinite(loss.values[loss.steps == step]).any())


def _largest_weight(history: History, place: Place, step: int) -> float:
    """Return the largest |entry| of the layer's parameters at `step`; NaN if unknown."""
    places = history.places(Stream.WEIGHT)
    rows = [i for i, p in enumerate(places) if p.module == place.name]
    at = int(np.searchsorted(history.steps(Stream.WEIGHT), step, side="right")) - 1
    if not rows or at < 0:
        return math.nan
    if (history.values(Stream.WEIGHT, Stat.NONFINITE)[at, rows] > 0).any():
        return math.nan
    low, high = (history.values(Stream.WEIGHT, s)[at, rows] for s in (Stat.MIN, Stat.MAX))
    return float(np.maximum(np.abs(low), np.abs(high)).max())


def _run(*, weight: float) -> History:
    n = 8
    weights = [Place("0.weight", "weight", (8, 8), 0, "0", "Linear")]
    modules = [Place("0", "Linear", depth=0, module="0")]
    bad = np.where(np.arange(n) >= 5, 1.0, 0.0)
    return (
        Example(n)
        .stream(
            Stream.WEIGHT,
            weights,
            {
                "0.weight": {
                    Stat.MIN: -weight,
                    Stat.MAX: weight,
                    Stat.NONFINITE: 0.0 if math.isfinite(weight) else bad,
                }
            },
        )
        .stream(
            Stream.ACTIVATION,
            modules,
            {"0": {Stat.NONFINITE: bad, Stat.MIN: -2.0, Stat.MAX: 2.0}},
        )
        .history
    )
