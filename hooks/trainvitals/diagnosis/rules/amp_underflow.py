"""TV904: gradients are too small for float16 and become zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import matrices_by_depth, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class AmpUnderflow(Rule):
    """Gradients underflow in half precision: a large part of them is exactly zero.

    ## What it detects
    Of a weight matrix whose module computes in float16, in the median of the newest 20 measured
    steps: more than 30 % of the gradient's entries are exactly zero, and the mean of the others,
    times the loss scale if there is one, is below 5e-7. The smallest number of float16 is 6e-8, so
    that such a gradient lies at the end of its range. Or every entry is zero, those of the output
    layer too, and the loss is not. Runs that have converged are left out.
    ## Why it matters
    The backward pass rounds each value below 3e-8 to zero, and the small gradients of a matrix are
    most of it. The weights behind them do not learn, and no error is reported.
    ## Evidence
    The share of entries that are zero, the mean size of the others in float16, and the number of
    matrices affected.
    ## What to do
    - Scale the loss: `torch.amp.GradScaler`, which also finds the factor.
    - Use bfloat16 where the device has it: it has the range of float32.
    - Check that the loss is not divided twice, by the batch and by the number of micro-batches.
    ## When it is wrong
    Near the end of a training all gradients are small; if the loss is where it should be, nothing
    is lost.
    ## References
    Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.2; PyTorch
    documentation, torch.amp.GradScaler.
    """

    code: ClassVar[str] = "TV904"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV101", "TV103", "TV107", "TV501", "TV502", "TV507", "TV602", "TV603", "TV607", "TV806"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.GRADIENT,)
    fix: ClassVar[str] = "\n".join(
        (
            at(
                Moment.BEFORE_TRAINING,
                "scaler = torch.amp.GradScaler(next(model.parameters()).device.type)",
            ),
            at(
                Moment.UPDATE,
                "optimizer.zero_grad()\nscaler.scale(loss).backward()\nscaler.step(optimizer)\n"
                "scaler.update()",
            ),
        )
    )
    refuted_by: ClassVar[str] = "Without autocast, the same entries of the gradient are zero."

    zero_share_max: float = threshold(
        0.3, "Share of the gradient's entries that are exactly zero, median over the window."
    )
    size_max: float = threshold(
        5e-7, "Mean |gradient| over the other entries, as float16 holds it: with the loss scale."
    )
    window: int = threshold(20, "Newest measured steps.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first matrix in the order of the forward pass."""
        half = {
            place.module for place in history.places(Stream.ACTIVATION) if "float16" in place.flags
        }
        places = history.places(Stream.GRADIENT)
        rows = [
            row for row in matrices_by_depth(history, Stream.GRADIENT) if places[row].module in half
        ]
        if not rows or Course(history).converged:
            return
        zero = window(history, Stream.GRADIENT, Stat.ZERO_SHARE, rows, last=self.window)
        if len(zero.steps) < self.window:
            return
        sizes = self._sizes(history, rows, zero.values)
        share, size = median(zero.values), median(sizes)
        low = (share > self.zero_share_max) & (size < self.size_max)
        if self._vanishes_at_once(history, half, zero.values):
            low[:], size[:] = True, 0.0
        affected = np.flatnonzero(low)
        if len(affected) == 0:
            return
        worst = int(affected[np.argmax(share[affected])])
        yield self.finding(
            severity=Severity.WARNING,
            where=places[rows[int(affected[0])]].name,
            since_step=int(self._since(history, rows[worst])),
            summary=f"Underflow in half precision: {percent(float(share[worst]))} of the gradient "
            f"of {places[rows[worst]].name} is exactly 0, and the mean of the rest is "
            f"{number(float(size[worst]))}, where float16 ends at 6e-8; {len(affected)} of "
            f"{len(rows)} matrices are affected.",
            evidence=(
                Evidence(
                    quantity="share of the gradient's entries that are zero",
                    seen=float(share[worst]),
                    limit=self.zero_share_max,
                    direction="above",
                    healthy=(0.0, 0.2),
                    unit="share",
                    statistic=Stat.ZERO_SHARE,
                ),
                Evidence(
                    quantity="mean size of the other entries in float16",
                    seen=float(size[worst]),
                    limit=self.size_max,
                    direction="below",
                    healthy=(1e-6, None),
                ),
                Evidence(quantity="matrices affected", seen=float(len(affected))),
            ),
            confidence=0.9,
            stream=Stream.GRADIENT,
            statistic=Stat.ZERO_SHARE,
        )

    def _vanishes_at_once(self, history: History, half: set[str], zero: Floats) -> bool:
        """Whether every entry is 0, those of the output layer's own bias too: not dead units."""
        heads = [
            row
            for row, place in enumerate(history.places(Stream.GRADIENT))
            if "output" in place.flags and place.module in half and place.trainable
        ]
        at_head = window(history, Stream.GRADIENT, Stat.ZERO_SHARE, heads, last=self.window).values
        loss = history.scalar(Scalar.LOSS).finite().values
        live = len(loss) > 0 and float(loss[-1]) > 0
        return bool(len(heads) > 0 and live and (zero == 1).all() and (at_head == 1).all())

    def _sizes(self, history: History, rows: list[int], zero: Floats) -> Floats:
        """Return the mean |gradient| over entries that are not 0, scaled as in the backward pass.

        NaN where every entry is 0: then no value shows how small the others would be.
        """
        means = window(history, Stream.GRADIENT, Stat.ABS_MEAN, rows, last=self.window).values
        scale = history.scalar(Scalar.LOSS_SCALE).finite().values
        factor = float(scale[-1]) if len(scale) else 1.0
        return np.where(zero < 1, factor * means / np.where(zero < 1, 1 - zero, 1), np.nan)

    def _since(self, history: History, row: int) -> int:
        """Return the first step of the newest series in which the share is above its limit."""
        steps = history.steps(Stream.GRADIENT)
        share = history.values(Stream.GRADIENT, Stat.ZERO_SHARE)[:, row]
        below = np.flatnonzero(share <= self.zero_share_max)
        return int(steps[min(int(below[-1]) + 1, len(steps) - 1)] if len(below) else steps[0])

    @staticmethod
    def sick() -> History:
        """Return gradients of which 84 % are zero and the others 8e-8 in float16."""
        return _run(0.84, 8.1e-8)

    @staticmethod
    def healthy() -> History:
        """Return gradients behind dead units: the entries that are not zero are large."""
        return _run(0.84, 2e-3)


def _run(zero: float, size: float) -> History:
    weights = [
        Place(f"{i}.weight", kind="weight", shape=(64, 64), depth=i, module=str(i))
        for i in range(3)
    ]
    outputs = [
        Place(str(i), kind="Linear", depth=i, module=str(i), flags=("float16",)) for i in range(3)
    ]
    values = {Stat.ZERO_SHARE: zero, Stat.ABS_MEAN: size * (1 - zero)}
    return (
        Example(40)
        .scalars(loss=np.full(40, 2.3))
        .stream(Stream.GRADIENT, weights, {p.name: values for p in weights})
        .stream(Stream.ACTIVATION, outputs, {p.name: {Stat.MEAN: 0.1} for p in outputs})
        .history
    )
