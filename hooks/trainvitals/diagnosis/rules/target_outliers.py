"""TV804: a few targets hold most of the variance, and a squared error follows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import percent
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.outliers import (
    OUTLIER_SHARE,
    RareOutliers,
    outlier_share,
    rare_outliers,
)
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.supervision import only_loss
from trainvitals.wire import Event, EventKind, Scalar, Stream


@dataclass(frozen=True)
class TargetOutliers(Rule):
    """One target of a batch holds most of the variance, and the loss squares its error.

    ## What it detects
    For MSELoss: the most distant target of a batch holds more than 70 % of the variance of the
    batch's targets, (t − mean)²/(n·variance), in a fifth of at least eight measured batches of 24
    targets or more, and it is 25 times as far as the standard deviation of the batch with the
    smallest one. Of 64 normal values, the most distant one holds a tenth.
    Rarer outliers, after 150 steps, in batches of 16 targets or more: at least three losses are ten
    times as high as the lowest decile of their 50 neighbours and hold more than half of the sum of
    all losses. Each of these batches that is measured has a target at eight standard deviations of
    a usual batch or more; in one or more, a target at 25 holds 70 % of the variance, and the loss
    is its squared distance still. In both cases, batches whose most distant target is at 8 to 25
    deviations are not more than those with an outlier: a heavy tail (log-normal, Student's t) has
    more of them.
    ## Why it matters
    A squared error weighs a target by the square of its distance: one that is a hundred times as
    far counts as much as ten thousand others. The gradient points to the outliers, changes with
    each batch, and the model fits errors of the data instead of the data.
    ## Evidence
    The share of the variance in one target, and the range of the targets.
    ## What to do
    - `nn.HuberLoss(delta=…)` or `nn.L1Loss()`: `remedies.recommend_loss(y)` gives the delta.
    - Correct or clip the targets if they are errors; take the logarithm of prices and counts.
    ## When it is wrong
    Rare events that matter most, such as the peaks of a load: a squared error weighs them on
    purpose.
    ## References
    Huber, "Robust Estimation of a Location Parameter", 1964; Hampel et al., "Robust Statistics",
    1986.
    """

    code: ClassVar[str] = "TV804"
    stage: ClassVar[Stage] = Stage.DATA
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV102", "TV105", "TV106", "TV305", "TV501", "TV502", "TV503", "TV504", "TV505"),
            *("TV601", "TV701", "TV803"),
        }
    )
    fix: ClassVar[str] = at(
        Moment.LOSS, "loss = remedies.recommend_loss(y, goal='robustness').loss(prediction, y)"
    )
    refuted_by: ClassVar[str] = "Without the most distant targets the loss is the same."

    share_max: float = threshold(
        OUTLIER_SHARE,
        "Share of the variance of a batch in its most distant target, in a fifth of the batches.",
    )
    loss_share_max: float = threshold(
        0.5, "Share of the sum of the losses in the steps with a rare outlier."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kind = only_loss(history)
        if kind is None or kind.kinds != ("MSELoss",):
            return
        share = outlier_share(history)
        if share > self.share_max:
            seen = f"in a fifth of the batches one target holds {percent(share)} or more of the "
            yield self._found(
                history,
                f"Outliers in the targets: {seen}variance, and MSELoss squares its error.",
                ("share of the variance in one target", share, self.share_max, 0.3),
            )
            return
        rare = rare_outliers(history)
        if rare is not None and rare.loss_share > self.loss_share_max:
            yield self._found(
                history,
                _summary(rare),
                ("share of the loss", rare.loss_share, self.loss_share_max, self.loss_share_max),
            )

    def _found(
        self, history: History, summary: str, decided: tuple[str, float, float, float]
    ) -> Finding:
        """Return the finding; `decided` is a share, its value, its limit and the healthy end."""
        low, high = (history.scalar(n).finite() for n in (Scalar.TARGET_MIN, Scalar.TARGET_MAX))
        quantity, seen, limit, healthy = decided
        return self.finding(
            severity=Severity.WARNING,
            since_step=int(high.steps[0]),
            summary=summary,
            evidence=(
                Evidence(
                    quantity=quantity,
                    seen=seen,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, healthy),
                    unit="share",
                ),
                Evidence(quantity="smallest target", seen=float(low.values.min())),
                Evidence(quantity="largest target", seen=float(high.values.max())),
            ),
            confidence=0.85,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MAX,
        )

    @staticmethod
    def sick() -> History:
        """Return batches of 64 targets with one at 100 standard deviations of the others."""
        return _run(100.0)

    @staticmethod
    def healthy() -> History:
        """Return batches of 64 targets from a normal distribution."""
        return _run(2.4)


def _summary(rare: RareOutliers) -> str:
    return (
        f"Rare outliers in the targets: {rare.steps} of {rare.of} steps have "
        f"{percent(rare.loss_share)} of the loss, which MSELoss takes from one target at "
        f"{rare.distance:.0f} standard deviations or more."
    )


def _run(largest: float) -> History:
    n = 12
    highest = np.where(np.arange(n) % 3 == 0, 2.4, largest)  # not in every batch
    std = np.sqrt(1 + highest**2 / 64)
    history = (
        Example(n)
        .scalars(
            loss=np.full(n, std**2),
            target_mean=0.0,
            target_std=std,
            target_min=-2.4,
            target_max=highest,
        )
        .history
    )
    attributes: dict[str, str | float] = {"target_shape": "(64, 1)", "prediction_shape": "(64, 1)"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", attributes))
    return history
