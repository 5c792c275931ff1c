"""TV903: GradScaler skips steps because gradients overflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import trailing_run
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class AmpOverflow(Rule):
    """Gradients overflow in half precision, so that GradScaler skips the optimizer's steps.

    ## What it detects
    One of three: (1) all of the newest 20 steps were skipped: more than the initial search for a
    scale takes (error); (2) after 100 steps, more than 10 % of the newest 100 steps were skipped;
    (3) the loss scale has fallen below 1.
    ## Why it matters
    A skipped step computes a loss and changes nothing. If every step is skipped, the program runs
    to its end without an error and has trained nothing. A scale below 1 means that the gradients
    overflow without any scaling: they are infinite or NaN, or the loss is far too large.
    ## Evidence
    The share of skipped steps, and the loss scale.
    ## What to do
    - Use bfloat16 where the device has it: it needs no scaler.
    - Look for the operation that overflows in float16 (above 65,504), such as a sum over a long
      axis or an exponential, and compute it in float32; take the mean as loss, not the sum.
    - Unscale before clipping: `scaler.unscale_(optimizer)`.
    ## When it is wrong
    With a `growth_interval` of some ten steps, the scaler tries the limit that often.
    ## References
    Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740; PyTorch documentation,
    torch.amp.GradScaler.
    """

    code: ClassVar[str] = "TV903"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV103", "TV107", "TV501", "TV806", "TV502", "TV507", "TV602", "TV603"}
    )
    fix: ClassVar[str] = at(
        Moment.BEFORE_TRAINING,
        "torch.set_autocast_dtype('cuda', torch.bfloat16)  # where autocast names no dtype",
    )
    refuted_by: ClassVar[str] = "The scale settles, and hardly any later step is skipped."

    skipped_in_a_row: int = threshold(
        20, "Newest steps that were all skipped; the search from 2^16 down to 1 takes 17."
    )
    skipped_share: float = threshold(0.1, "Share of the newest `window` steps that were skipped.")
    window: int = threshold(100, "Newest steps in which skipped steps are counted.")
    steps_min: int = threshold(100, "Steps of the search for a scale, which are not counted.")
    scale_min: float = threshold(1.0, "Loss scale; a warning below this value.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        skipped = history.scalar(Scalar.SKIPPED_STEP).finite()
        scale = history.scalar(Scalar.LOSS_SCALE).finite()
        if len(skipped) == 0:
            return
        run = int(trailing_run(skipped.values > 0))
        settled = skipped.since(self.steps_min).last(self.window)
        share = float((settled.values > 0).mean()) if len(settled) >= self.window else 0.0
        now = float(scale.values[-1]) if len(scale) else float("nan")
        if run >= self.skipped_in_a_row:
            since = int(skipped.steps[-run])
            yield self._finding(
                Severity.ERROR,
                since,
                f"Overflow in mixed precision: GradScaler has skipped all {run} steps since step "
                f"{since}{_at(now)}; nothing is trained.",
                [
                    Evidence(
                        quantity="skipped steps in a row",
                        seen=float(run),
                        limit=float(self.skipped_in_a_row),
                        direction="above",
                        healthy=(0.0, 3.0),
                        statistic=Scalar.SKIPPED_STEP,
                    )
                ],
                now,
            )
        elif share > self.skipped_share:
            yield self._finding(
                Severity.WARNING,
                int(settled.steps[np.argmax(settled.values > 0)]),
                f"Overflow in mixed precision: GradScaler skipped {percent(share)} of the newest "
                f"{self.window} steps{_at(now)}.",
                [
                    Evidence(
                        quantity="share of skipped steps",
                        seen=share,
                        limit=self.skipped_share,
                        direction="above",
                        healthy=(0.0, 0.03),
                        unit="share",
                        statistic=Scalar.SKIPPED_STEP,
                    )
                ],
                now,
            )
        elif now < self.scale_min and float(scale.values[0]) >= self.scale_min:
            yield self._low(scale, now)

    def _low(self, scale: Series, now: float) -> Finding:
        low = int(trailing_run(scale.values < self.scale_min))
        since = int(scale.steps[-low])
        return self._finding(
            Severity.WARNING,
            since,
            f"Overflow in mixed precision: the loss scale has been below 1 since step {since} "
            f"({number(now)}), so the gradients overflow without scaling.",
            [
                Evidence(
                    quantity="loss scale",
                    seen=now,
                    limit=self.scale_min,
                    direction="below",
                    healthy=(2.0, None),
                    statistic=Scalar.LOSS_SCALE,
                )
            ],
            now,
        )

    def _finding(
        self, severity: Severity, since: int, summary: str, evidence: list[Evidence], scale: float
    ) -> Finding:
        if np.isfinite(scale) and evidence[0].statistic != Scalar.LOSS_SCALE:
            evidence.append(Evidence(quantity="loss scale", seen=scale))
        return self.finding(
            severity=severity,
            since_step=since,
            summary=summary,
            evidence=evidence,
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.SKIPPED_STEP,
        )

    @staticmethod
    def sick() -> History:
        """Return a scale that is halved at every step."""
        return _run(np.ones(40), 2.0 ** (16 - np.arange(40)))

    @staticmethod
    def healthy() -> History:
        """Return the search for a scale in the first 17 steps, after which every step counts."""
        step = np.arange(150)
        return _run(step < 15, 2.0 ** (16 - np.minimum(step, 15)))


def _at(scale: float) -> str:
    return f" (loss scale {number(scale)})" if np.isfinite(scale) else ""


def _run(skipped: Column, scale: Column) -> History:
    steps = np.size(skipped)
    loss = np.full(steps, 2.3)
    return Example(steps).scalars(loss=loss, skipped_step=skipped, loss_scale=scale).history
